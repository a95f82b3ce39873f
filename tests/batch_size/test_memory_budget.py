"""Free memory, and the memory that a block takes."""

import numpy as np
import pytest
import torch
from torch import nn

from clrfast.batch_size import _memory_budget as memory
from clrfast.batch_size._memory_budget import DoesNotFitError, MemoryBudget, MemoryMeter, available_memory

pytestmark = pytest.mark.usefixtures("one_thread")


KIB = 1024


MEMINFO = (
    "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\nHugePages_Total:       0\n"
)


def test_new_tensors_count_as_long_as_they_are_held():
    old = torch.zeros(1000)
    with MemoryMeter(MemoryBudget(10**6)) as meter:
        old.add_(1)
        part = old[5:]
        assert (meter.kept, meter.peak) == (0, 0), "nothing is new"
        first = torch.zeros(100)
        rows = first.view(10, 10)
        second = torch.zeros(50)
        del first
        assert meter.kept == 600, "a view holds its memory too"
        del rows
    assert (meter.kept, meter.peak) == (200, 600)
    del second, part
    assert (meter.kept, meter.peak) == (0, 600)


def test_sparse_gradients_count_as_their_indices_and_values():
    embedding = nn.Embedding(10, 4, sparse=True)
    with MemoryMeter(MemoryBudget(10**6)) as meter:
        embedding(torch.tensor([1, 2])).sum().backward()
    assert embedding.weight.grad.is_sparse
    assert 2 * 4 * 4 + 2 * 8 <= meter.kept <= 200


def test_the_operation_that_exceeds_the_budget_raises():
    done = []

    def work():
        with MemoryMeter(MemoryBudget(KIB)):
            done.append(torch.zeros(200))
            done.append(torch.zeros(100))

    with pytest.raises(DoesNotFitError, match=r"more than 1.0 KiB were taken"):
        work()
    assert len(done) == 1


def system(root, files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group_v2(limit, used, inactive):
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 7\ninactive_file {inactive}\n",
    }


def group_v1(limit, used, inactive):
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}\n",
    }


FREE = 8000000 * KIB
V1, V2 = "9:name=systemd:/\n4:cpu,memory:/jobs/mine\n0::/\n", "0::/jobs/mine\n"


@pytest.mark.parametrize(
    ("cgroup", "groups", "expected"),
    [
        (None, {}, FREE),
        (V2, {}, FREE),
        (V2, {"sys/fs/cgroup/jobs/mine": group_v2("max", 10, 0)}, FREE),
        (V2, {"sys/fs/cgroup/jobs/mine": group_v2(1000, 700, 200)}, 500),
        (V2, {"sys/fs/cgroup/jobs/mine": group_v2(1000, 700, 0), "sys/fs/cgroup/jobs": group_v2(900, 800, 0)}, 100),
        (V2, {"sys/fs/cgroup": group_v2(1000, 700, 0)}, 300),  # a container's own group is the top there
        (V2, {"sys/fs/cgroup/jobs/others": group_v2(1000, 700, 0)}, FREE),
        (V2, {"sys/fs/cgroup/jobs/mine": group_v2(1000, 1100, 0)}, 0),
        (V2, {"sys/fs/cgroup/jobs/mine": group_v2(10**15, 0, 0)}, FREE),
        (V1, {"sys/fs/cgroup/memory/jobs/mine": group_v1(1000, 700, 200)}, 500),
        (V1, {"sys/fs/cgroup/memory": group_v1(1000, 700, 0)}, 300),
        (V1, {"sys/fs/cgroup/memory": group_v1(9223372036854771712, 700, 0)}, FREE),
    ],
)
def test_available_memory_respects_the_machine_and_control_groups(tmp_path, cgroup, groups, expected):
    files = {} if cgroup is None else {"proc/self/cgroup": cgroup}
    for group, texts in groups.items():
        files.update({f"{group}/{name}": text for name, text in texts.items()})
    assert available_memory(system(tmp_path, files)) == expected


def test_available_memory_works_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory(tmp_path) == 2048000
    monkeypatch.delattr(memory.os, "sysconf")
    with pytest.raises(ValueError, match="memory: this system does not tell"):
        available_memory(tmp_path)


def test_available_memory_works_on_this_machine():
    assert available_memory() > 2**20
    before = memory.resident_memory()
    held = np.ones(2**23)
    assert memory.resident_memory() - before > held.nbytes / 2
