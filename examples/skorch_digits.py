"""1cycle in skorch: pip install -c constraints.txt ".[demo,skorch]" && python examples/skorch_digits.py"""

import math

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

import clrfast


class Digits(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


torch.manual_seed(0)
x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split((x / 16).astype("float32"), y, random_state=0)
net = NeuralNetClassifier(
    Digits,
    criterion=nn.CrossEntropyLoss,
    optimizer=clrfast.SGD,
    optimizer__momentum=0.9,
    max_epochs=20,
    batch_size=64,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
).initialize()

loader = net.get_iterator(net.get_dataset(x_train, y_train), training=True)
max_lr = clrfast.range_test(net.module_, net.criterion_, loader, optimizer=net.optimizer_).suggest().max_lr
net.set_params(optimizer__schedule=clrfast.one_cycle(max_lr, net.max_epochs * math.ceil(len(x_train) / 64)))
net.fit(x_train, y_train)
print(f"rate {max_lr:.3g}, accuracy {net.score(x_test, y_test):.3f}")
