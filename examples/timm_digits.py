"""Layer decay in timm: pip install -c constraints.txt ".[demo,timm]" && python examples/timm_digits.py"""

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import clrfast

torch.manual_seed(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target))
train, val = (DataLoader(part, 64, shuffle=True) for part in random_split(data, [0.8, 0.2]))
size = {"img_size": 8, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2}
model = timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=1, **size)
loss_fn, epochs = nn.CrossEntropyLoss(), 15

optimizer = clrfast.AdamW(param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.75))
max_lr = clrfast.range_test(model, loss_fn, train, optimizer=optimizer).suggest().max_lr
optimizer.set_schedule(clrfast.one_cycle(max_lr, epochs * len(train)))

for _ in range(epochs):
    model.train()
    for images, labels in train:
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step(loss=loss)
        optimizer.zero_grad()

model.eval()
with torch.no_grad():
    correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val)
print(f"rate {max_lr:.3g}, accuracy {correct / len(val.dataset):.3f}")
