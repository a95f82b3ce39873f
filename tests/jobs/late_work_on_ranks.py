"""A job whose ranks end while gloo's threads wait for the GIL and something holds the group; see ``run_rank``."""

import sys
import time

import torch
import torch.distributed as dist

from tests.helpers.ranks import run_rank

kept = []


def main(rank, count):
    sums = [torch.ones(4) for _ in range(100)]
    kept.extend([dist.group.WORLD, sums])
    sys.setswitchinterval(1000)  # seconds for which this thread keeps the GIL from others
    for each in sums:
        dist.all_reduce(each, async_op=True)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    dist.destroy_process_group()
    return rank


if __name__ == "__main__":
    run_rank(main)
