"""1cycle in Lightning: pip install -c constraints.txt ".[demo,lightning]" && python examples/lightning_digits.py"""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import clrfast
from clrfast.integrations.lightning import OneCycle


class Digits(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return clrfast.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


L.seed_everything(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train, val = random_split(data, [0.8, 0.2])
one_cycle = OneCycle()
trainer = L.Trainer(max_epochs=10, callbacks=[one_cycle], accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(val, 360))
print(f"rate {one_cycle.suggestion.max_lr:.3g}, accuracy {trainer.callback_metrics['accuracy']:.3f}")
