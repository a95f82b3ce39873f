"""``Ranks``: processes that make one call together, exchange objects, and all end if one of them fails.

torch.distributed pickles the objects, some kilobytes each. gloo passes them through CPU memory, NCCL through the
current CUDA device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union

import torch.distributed as dist
from torch import Tensor

from ._errors import RankError
from ._progress import Progress

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GroupOption = Union["ProcessGroup", Literal["auto"], None]
"""The ranks that make a call together. "auto" is the default group if torch.distributed is initialised; None means that
each process makes its own call."""

UNREACHABLE = (
    "another rank has ended, cannot be reached or does not make this call; its own output says why; give group=None to "
    "a call that only one rank makes"
)


@dataclass(frozen=True)
class Failure:
    """The error of a rank, which it sends instead of a value.

    Attributes:
        kind: name of the error's class.
        message: one sentence that names the rank and the error.
    """

    kind: str
    message: str

    @classmethod
    def from_error(cls, error: Exception) -> Failure:
        """Describe an error of this rank."""
        return cls(type(error).__name__, f"rank {dist.get_rank()} failed: {type(error).__name__}: {error}")


class Ranks:
    """The processes that make a call together.

    Args:
        group: the process group. None is a single process, for which every method is trivial.
    Attributes:
        rank: index of this process, from 0.
        world_size: number of processes.
        deferred: the first error passed to ``defer``; None if there was none.
    """

    def __init__(self, group: ProcessGroup | None = None):
        self._group = group
        self.rank, self.world_size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self.deferred: Exception | None = None

    def all_gather(self, place: str, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order.

        Args:
            place: name of this call in the program, the same on all ranks.
            value: anything that can be pickled.
        Raises:
            RankError: another rank failed, has ended, or is at another place.
        """
        received = self._exchange(place, value)
        if failures := [value.message for _, value in received if isinstance(value, Failure)]:
            raise RankError("; ".join(failures))
        if len(places := {place for place, _ in received}) > 1:
            raise RankError(
                f"the ranks came to different places: {', '.join(sorted(places))}; make the same call on all"
            )
        return [value for _, value in received]

    def progress_on_first(self, progress: Progress | bool | None) -> Progress | bool | None:
        """Return ``progress`` on the first rank, and False on the others."""
        return progress if self.rank == 0 else False

    def require_same(self, what: str, **values: Any) -> None:
        """Raise a ValueError on all ranks unless all pass equal ``values``; ``what`` names them in the message."""
        everyone = self.all_gather(what, values)
        differ = [name for name in values if any(each[name] != values[name] for each in everyone)]
        # A rank that agrees with rank 0 must raise, too, if others do not.
        differ = sorted({name for each in self.all_gather(what, differ) for name in each})
        if differ:
            raise ValueError(f"{', '.join(differ)}: not the same on all ranks; give all ranks the same {what}")

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the ranks, in place, on its device.

        Raises:
            RankError: a rank cannot be reached.
        """
        if self._group is not None:
            with self._unreachable_as_rank_error():
                dist.all_reduce(tensor, group=self._group)

    def defer(self, error: Exception) -> None:
        """Keep the first error until ``raise_deferred``, so that this rank can continue with the others until then.

        Raises:
            RankError: the ranks cannot reach each other any more.
            Exception: ``error``, in a single process.
        """
        if self.world_size == 1 or isinstance(error, RankError):
            raise error
        if _is_connection_error(error):
            raise RankError(UNREACHABLE) from error
        self.deferred = self.deferred or error

    def raise_deferred(self) -> NoReturn:
        """Raise the deferred errors of any rank on all ranks."""
        self._raise(self._exchange("", self.deferred and Failure.from_error(self.deferred)), self.deferred)

    @contextlib.contextmanager
    def end_together(self) -> Iterator[Ranks]:
        """Make all ranks leave a block together, either all normally or all with an error.

        If all ranks fail with the same class of error, each raises its own. Otherwise all ranks raise a RankError that
        says what failed where.
        """
        try:
            yield self
            self.all_gather("the end", None)
        except RankError:
            raise
        except Exception as error:
            if self.world_size == 1:
                raise
            if _is_connection_error(error):
                raise RankError(UNREACHABLE) from error
            # The other ranks wait for a value: send them the error.
            self._raise(self._exchange("", Failure.from_error(error)), error)

    def _raise(self, received: list[tuple[str, Any]], own: Exception | None) -> NoReturn:
        failures = [value for _, value in received if isinstance(value, Failure)]
        if own is not None and len(failures) == self.world_size and len({each.kind for each in failures}) == 1:
            raise own
        raise RankError("; ".join(each.message for each in failures)) from own

    def _exchange(self, place: str, value: Any) -> list[tuple[str, Any]]:
        if self._group is None:
            return [(place, value)]
        received: list[Any] = [None] * self.world_size
        with self._unreachable_as_rank_error():
            dist.all_gather_object(received, (place, value), self._group)
        return received

    @contextlib.contextmanager
    def _unreachable_as_rank_error(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankError(UNREACHABLE) from error


SINGLE_PROCESS = Ranks()


def resolve_group(group: GroupOption) -> Ranks:
    """Return the ranks of ``group``; a group of one rank is a single process.

    Raises:
        ValueError: ``group`` is not a group, or this process is not in it.
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
    return ranks if ranks.world_size > 1 else Ranks()


def _is_connection_error(error: Exception) -> bool:
    """Return whether ``error`` means that ranks cannot reach each other; gloo's errors have no class of their own."""
    if isinstance(error, getattr(dist, "DistError", ())):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ("/gloo/", "pair closure"))
