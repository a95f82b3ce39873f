"""The job that ``test_lightning`` runs on two gloo ranks: ``lightning_on_ranks.py FOLDER``.

Each rank fits a module under DDP with a search first, does the same in a plain loop, and writes what it found to
``FOLDER/RANK.json``.
"""

import gc
import json
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import clrfast
from clrfast.integrations.lightning import OneCycle
from tests.helpers.problems import blobs_without_dropout

SEARCH = {"steps": 12, "min_lr": 1e-3}


class Module(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return clrfast.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Counter(Logger):
    """A logger that counts the losses."""

    name = version = "counter"
    count = 0

    def log_metrics(self, metrics, step=None):
        self.count += "clrfast/loss" in metrics

    def log_hyperparams(self, *args, **kwargs):
        pass


def fit():
    """Return what Lightning found and trained: two epochs of 4 batches of 32 on each rank."""
    net, _, loader = blobs_without_dropout()
    callback, counter = OneCycle(**SEARCH), Counter()
    trainer = L.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_epochs=2,
        callbacks=[callback],
        logger=counter,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(net), DataLoader(loader.dataset, 32, shuffle=True))
    control = trainer.optimizers[0].control
    return {
        "max_lr": callback.suggestion.max_lr,
        "curve": callback.curve.loss.tolist(),
        "params": [param.tolist() for param in net.parameters()],
        "losses": control.losses.tolist(),
        "total_steps": callback.schedule.total_steps,
        "step": int(control.step),
        "n_logged": counter.count,
    }


def plain(max_lr):
    """Return the same of a loop without Lightning."""
    net, loss_fn, loader = blobs_without_dropout()
    sampler = DistributedSampler(loader.dataset, seed=0)
    loader, model = DataLoader(loader.dataset, 32, sampler=sampler), DistributedDataParallel(net)
    optimizer = clrfast.SGD(model.parameters(), lr=0.1, momentum=0.9)
    curve = clrfast.range_test(model, loss_fn, loader, optimizer=optimizer, **SEARCH)
    control = optimizer.set_schedule(clrfast.one_cycle(max_lr, 8))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step(loss=loss)
    return {
        "plain max_lr": curve.suggest().max_lr,
        "plain curve": curve.loss.tolist(),
        "plain params": [param.tolist() for param in net.parameters()],
        "plain losses": control.losses.tolist(),
    }


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = fit()
    found |= plain(found["max_lr"])
    Path(sys.argv[1], f"{dist.get_rank()}.json").write_text(json.dumps(found))


main()
gc.collect()
dist.destroy_process_group()
