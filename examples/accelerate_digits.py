"""1cycle in a loop with Accelerate, at the rate that it finds, on one process or on several (accelerate launch):
pip install -c constraints.txt ".[demo,accelerate]" && python examples/accelerate_digits.py"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast.integrations.accelerate import OneCycle

EPOCHS = 10
accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
images, labels = images.float() / 16, labels.long()
train, test = TensorDataset(images[:1500], labels[:1500]), (images[1500:], labels[1500:])

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = clrfast.SGD(model.parameters(), lr=0.1, momentum=0.9)
loss_fn = nn.CrossEntropyLoss()
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(train, batch_size=64, shuffle=True))
one_cycle = OneCycle(accelerator, model, loss_fn, loader, optimizer=optimizer, epochs=EPOCHS)

for _ in range(EPOCHS):
    for inputs, targets in loader:
        one_cycle.backward(loss_fn(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()

accuracy = (model(test[0]).argmax(1) == test[1]).float().mean()
accelerator.print(f"rate: {one_cycle.suggestion}\naccuracy: {accuracy:.1%}")
