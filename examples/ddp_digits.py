"""1cycle in DistributedDataParallel: pip install -c constraints.txt ".[demo]" &&
torchrun --standalone --nproc-per-node 2 examples/ddp_digits.py"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import clrfast

EPOCHS, LOSS = 15, nn.CrossEntropyLoss()


def main(rank):
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    train, test = TensorDataset(images[:1437].float() / 16, labels[:1437]), images[1437:].float() / 16
    sampler = DistributedSampler(train)
    loader = DataLoader(train, 32, sampler=sampler)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    rate = clrfast.range_test(model, LOSS, loader).suggest().max_lr  # the same on all ranks
    optimizer = clrfast.SGD(model.parameters(), schedule=clrfast.one_cycle(rate, EPOCHS * len(loader)))
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            LOSS(model(inputs), targets).backward()
            optimizer.step()
    accuracy = (model(test).argmax(1) == labels[1437:]).float().mean()
    if rank == 0:
        print(f"rate {rate:.3g}, accuracy {accuracy:.1%}")


dist.init_process_group("gloo")
main(dist.get_rank())
dist.destroy_process_group()
