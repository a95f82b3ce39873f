"""The job with which ``test_lightning`` shows that ``pytorch_lightning`` works where ``lightning`` is there, too."""

import warnings

import pytorch_lightning as pl
from torch import nn

import clrfast
from clrfast.integrations import lightning as integration
from clrfast.integrations.lightning import LRFinder, OneCycle
from tests.helpers.problems import blobs

SEARCH = {"steps": 12, "min_lr": 1e-3}
QUIET = {"enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = blobs()[0]

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return clrfast.SGD(self.parameters(), lr=0.1, momentum=0.9)


warnings.simplefilter("ignore")
module, callback = Module(), OneCycle(**SEARCH)
LRFinder(**SEARCH).suggest(module, train_dataloaders=blobs()[2])
trainer = pl.Trainer(max_epochs=3, callbacks=[callback], logger=False, **QUIET)
trainer.fit(module, blobs()[2])
print(integration.pl.__name__, callback.schedule.total_steps, int(trainer.optimizers[0].control.step))
