"""Processes that make a call together: how they exchange objects, learn of each other's failures and end alike.

Objects of some kilobytes travel as torch.distributed pickles them: over gloo through the memory of the CPU, over NCCL
through the current CUDA device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Union

import torch.distributed as dist
from torch import Tensor

from ._progress import Progress

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

GroupOption = Union["ProcessGroup", Literal["auto"], None]
"""The ranks that make a call together; "auto": those of the default group, where torch.distributed is initialised;
None: each process is alone."""

OUT_OF_REACH = (
    "another rank has ended, is out of reach or does not make this call; what it wrote itself tells why; group=None is "
    "for a call that only one rank makes"
)


class RankError(RuntimeError):
    """Another rank failed or has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Failed:
    """What a rank tells in place of a value: that it failed.

    Attributes:
        kind: the class of its error.
        told: one sentence.
    """

    kind: str
    told: str

    @classmethod
    def with_(cls, error: Exception) -> Failed:
        return cls(type(error).__name__, f"rank {dist.get_rank()} failed: {type(error).__name__}: {error}")


class Ranks:
    """The processes that make a call together.

    Args:
        group: the process group; None: a process alone, for which all of this does nothing.
    Attributes:
        index: of this process, 0 for the first.
        count: of all.
        failure: the error that ``set_aside`` keeps until all ranks learn of it.
    """

    def __init__(self, group: ProcessGroup | None = None):
        self._group = group
        self.index, self.count = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self.failure: Exception | None = None

    def gather(self, what: str, value: Any) -> list[Any]:
        """What all ranks give here, in their order.

        Args:
            what: names the place, which must be the same for all.
        Raises:
            RankError: another rank failed, has ended, or is at another place.
        """
        told = self._exchanged(what, value)
        if failed := [value.told for _, value in told if isinstance(value, Failed)]:
            raise RankError("; ".join(failed))
        if len(places := {place for place, _ in told}) > 1:
            raise RankError(
                f"the ranks came to different places: {', '.join(sorted(places))}; make the same call on all"
            )
        return [value for _, value in told]

    def first(self, what: str, make: Callable[[], T]) -> T:
        """What ``make`` makes on the first rank; on the others it is not called."""
        if self.index:
            return self.gather(what, None)[0]
        made = make()
        self.gather(what, made)
        return made

    def only_first(self, progress: Progress | bool | None) -> Progress | bool | None:
        """Who is told on this rank: nobody but on the first."""
        return progress if self.index == 0 else False

    def require_same(self, what: str, **values: Any) -> None:
        """Raises ValueError, on all ranks, unless all give equal ``values``."""
        everyone = self.gather(what, values)
        differ = [name for name in values if any(each[name] != values[name] for each in everyone)]
        # Where only others differ from each other, this rank has to say so, too.
        differ = sorted({name for each in self.gather(what, differ) for name in each})
        if differ:
            raise ValueError(f"{', '.join(differ)}: not the same on all ranks; give all ranks the same {what}")

    def add(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the ranks, in place, on its device."""
        if self._group is not None:
            with self._in_reach():
                dist.all_reduce(tensor, group=self._group)

    def set_aside(self, error: Exception) -> None:
        """Keep the first failure until ``settle``, so that this rank goes on beside the others until then.

        Raises:
            RankError: the ranks cannot talk any more.
            Exception: ``error``, in a process alone.
        """
        if self.count == 1 or isinstance(error, RankError):
            raise error
        if _lost(error):
            raise RankError(OUT_OF_REACH) from error
        self.failure = self.failure or error

    def settle(self) -> NoReturn:
        """Raise, on all ranks, because of failures that some have set aside."""
        self._raise_of(self._exchanged("", self.failure and Failed.with_(self.failure)), self.failure)

    @contextlib.contextmanager
    def alike(self) -> Iterator[Ranks]:
        """A block that ends alike on all ranks, which none leaves before all have come to its end.

        An error of one class on all ranks is raised as it is: each raises its own. Any other is a RankError on all,
        with what failed where.
        """
        try:
            yield self
            self.gather("the end", None)
        except RankError:
            raise
        except Exception as error:
            if self.count == 1:
                raise
            if _lost(error):
                raise RankError(OUT_OF_REACH) from error
            # In place of what the others wait for next.
            self._raise_of(self._exchanged("", Failed.with_(error)), error)

    def _raise_of(self, told: list[tuple[str, Any]], own: Exception | None) -> NoReturn:
        failed = [value for _, value in told if isinstance(value, Failed)]
        if own is not None and len(failed) == self.count and len({each.kind for each in failed}) == 1:
            raise own
        raise RankError("; ".join(each.told for each in failed)) from own

    def _exchanged(self, what: str, value: Any) -> list[tuple[str, Any]]:
        if self._group is None:
            return [(what, value)]
        told: list[Any] = [None] * self.count
        with self._in_reach():
            dist.all_gather_object(told, (what, value), self._group)
        return told

    @contextlib.contextmanager
    def _in_reach(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankError(OUT_OF_REACH) from error


ALONE = Ranks()


def ranks_of(group: GroupOption) -> Ranks:
    """The ranks that ``group`` stands for.

    Raises:
        ValueError: it is no such group, or this process is not in it.
    """
    if group is None:
        return Ranks()
    if not dist.is_available():
        if group == "auto":
            return Ranks()
        raise ValueError(f"group: got {group!r}, and this torch has no torch.distributed; give None")
    if isinstance(group, str) and group == "auto":
        group = dist.group.WORLD if dist.is_initialized() else None
    elif group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group: this process is not in it; make the call only on ranks of the group")
    elif not isinstance(group, dist.ProcessGroup):
        raise ValueError(f"group: got {group!r}; give 'auto', a torch.distributed process group, or None")
    ranks = Ranks(group)
    return ranks if ranks.count > 1 else Ranks()


def _lost(error: Exception) -> bool:
    """Whether ``error`` tells that ranks cannot reach each other; gloo's errors have no class of their own."""
    if isinstance(error, getattr(dist, "DistError", ())):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ("/gloo/", "pair closure"))
