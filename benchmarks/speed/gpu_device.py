"""A CUDA device as benchmarks use it: its timers, its graphs and its profiler; and a CPU in its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from . import kernels, timing

Call = Callable[[], Any]

PROFILED_STEPS = 20
PROFILED_CYCLES = 1 << 22
"""Sleep before a profiled step, in cycles: about two milliseconds, in which the host submits the whole step."""


class Gpu:
    """The current CUDA device: its timers, its graphs and its profiler."""

    device = torch.device("cuda")
    backend = "cuda"
    rounds = 400
    copy_bytes = 4 << 30

    def __init__(self) -> None:
        l2_bytes = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or 64 << 20
        self._scratch = torch.zeros(l2_bytes, dtype=torch.int32, device=self.device)  # 4 bytes each
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._cycles = 1 << 16

    def device_seconds(self, call: Call) -> float:
        """Return the device time of one call.

        Raises:
            RuntimeError: the call waits for the device.
        """
        begin, end = self._events
        while self._cycles < 1 << 32:  # about two seconds
            self._before_a_call(self._cycles)
            begin.record()
            call()
            end.record()
            host_was_ahead = not begin.query()
            self.synchronize()
            if host_was_ahead:
                # Shorter again: otherwise one slow moment of the host would lengthen all later sleeps.
                self._cycles = max(self._cycles * 19 // 20, 1 << 16)
                return begin.elapsed_time(end) / 1e3
            self._cycles *= 2
        raise RuntimeError(f"{call} waits for the device")

    def host_seconds(self, call: Call) -> float:
        self.synchronize()
        return timing.wall_seconds(call)

    def captured(self, step: Call) -> Call:
        """Capture ``step`` after one eager call of it; return the replay of the graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def _before_a_call(self, cycles: int) -> None:
        """Flush the device's caches, and then let the device sleep."""
        self._scratch.zero_()
        torch.cuda._sleep(cycles)

    def profiled(self, step: Call) -> dict[str, Any]:
        """Return the launches of ``step``; see ``kernels.by_kernel``."""
        separators = {event.name for event in self._events_of(lambda: None, 1)}
        return kernels.by_kernel(self._events_of(step, PROFILED_STEPS), separators)

    def _events_of(self, step: Call, n: int) -> list[kernels.Event]:
        kind = self.device.type.upper()
        with profile(activities=[getattr(ProfilerActivity, kind)]) as profiler:
            for _ in range(n):
                self._before_a_call(PROFILED_CYCLES)
                step()
            self.synchronize()
        return [
            kernels.Event(event.name, event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type == getattr(DeviceType, kind) and not event.is_user_annotation
        ]

    def free_bytes(self) -> float:
        return torch.cuda.mem_get_info()[0]

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class DryRun(Gpu):
    """The CPU in place of a GPU: no events, and a step itself in place of its graph."""

    device = torch.device("cpu")
    backend = "auto"
    rounds = 3
    copy_bytes = 1 << 20

    def __init__(self) -> None:
        pass

    def device_seconds(self, call: Call) -> float:
        return timing.wall_seconds(call)

    def captured(self, step: Call) -> Call:
        return step

    def _before_a_call(self, cycles: int) -> None:
        torch.ones(2).cumsum(0)

    def free_bytes(self) -> float:
        return math.inf

    def synchronize(self) -> None:
        pass
