"""1cycle in fastai: pip install -c constraints.txt ".[demo,fastai]" && python examples/fastai_digits.py"""

import torch
from fastai.basics import DataLoader, DataLoaders, Learner, accuracy, set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

from clrfast.integrations.fastai import OneCycle, adamw

set_seed(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train, valid = random_split(data, [0.8, 0.2])
dls = DataLoaders(DataLoader(train, bs=64, shuffle=True), DataLoader(valid, bs=360))
net = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

learn = Learner(dls, net, nn.CrossEntropyLoss(), opt_func=adamw, metrics=accuracy)
one_cycle = OneCycle()
with learn.no_bar():
    learn.fit(10, cbs=one_cycle)
print(f"rate {one_cycle.suggestion.max_lr:.3g}, accuracy {learn.final_record[-1]:.3f}")
