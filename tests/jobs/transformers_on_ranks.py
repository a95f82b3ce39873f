"""The job that ``test_transformers`` runs on two gloo ranks: ``transformers_on_ranks.py FOLDER``.

Each rank searches and trains with a ``OneCycleTrainer``, resumes from a checkpoint in mid-epoch, trains in a plain loop
with DistributedDataParallel, and writes rates and weights to ``FOLDER/RANK.json``.
"""

import gc
import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import Trainer, TrainingArguments

import clrfast
from clrfast.integrations import transformers as adapter
from tests.helpers.language_models import bert, classification_samples

FOLDER = Path(sys.argv[1])
SEARCH = {"steps": 30, "min_lr": 1e-4, "max_lr": 3.0, "trials": False}


def digest(model):
    flat = torch.cat([param.detach().reshape(-1) for param in model.parameters()])
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def main():
    args = TrainingArguments(
        str(FOLDER / "run"),
        per_device_train_batch_size=8,
        num_train_epochs=2,
        save_steps=3,
        average_tokens_across_devices=False,  # it doubles the loss of a model that ignores num_items_in_batch
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    data = classification_samples()
    before = adapter.find_lr(adapter.OneCycleTrainer(model=bert(), args=args, train_dataset=data), **SEARCH)
    trainer = adapter.OneCycleTrainer(model=bert(), args=args, train_dataset=data, search=SEARCH)
    trainer.train()
    found = {
        "searched before": before.max_lr,
        "max_lr": trainer.suggestion.max_lr,
        "updates": trainer.schedule.total_steps,
        "weights": digest(trainer.model),
    }

    resumed = adapter.OneCycleTrainer(model=bert(seed=1), args=args, train_dataset=data)
    resumed.train(resume_from_checkpoint=str(FOLDER / "run" / "checkpoint-3"))
    found["resumed"] = digest(resumed.model)

    plain = Trainer(model=bert(), args=args, train_dataset=data)
    loader, model = plain.get_train_dataloader(), torch.nn.parallel.DistributedDataParallel(plain.model)
    optimizer = clrfast.AdamW(plain.create_optimizer().param_groups, schedule=trainer.schedule)
    for _ in range(2):
        for batch in loader:
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    found["by hand"] = digest(plain.model)
    (FOLDER / f"{dist.get_rank()}.json").write_text(json.dumps(found))


main()
gc.collect()
dist.destroy_process_group()
