"""1cycle in Ignite: pip install -c constraints.txt ".[demo,ignite]" && python examples/ignite_digits.py"""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import clrfast

torch.manual_seed(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train, val = (DataLoader(part, 64, shuffle=True) for part in random_split(data, [0.8, 0.2]))
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
loss_fn, epochs = nn.CrossEntropyLoss(), 10

optimizer = clrfast.SGD(model.parameters(), momentum=0.9, weight_decay=1e-4)
max_lr = clrfast.range_test(model, loss_fn, train, optimizer=optimizer).suggest().max_lr
optimizer.set_schedule(clrfast.one_cycle(max_lr, epochs * len(train)))

trainer = create_supervised_trainer(model, optimizer, loss_fn)
evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})
trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(val))
trainer.run(train, max_epochs=epochs)
print(f"rate {max_lr:.3g}, accuracy {evaluator.state.metrics['accuracy']:.3f}")
