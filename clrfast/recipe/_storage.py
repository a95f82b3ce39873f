"""``TrialStore``: the trials of a search in an Optuna study, which workers on several machines share without a server.

A worker *claims* a measurement: it creates a running trial whose attributes hold the key of the measurement and a
*lease*, in one record. Then it reads all trials. The lowest number among the living trials with that key owns it; any
other is failed by its own worker. A thread renews the lease. A trial whose lease has expired is failed by whoever sees
it, and its key is free again. Optuna ends a trial only once, so a worker that comes back after that cannot finish it.
Optuna's own heartbeats are not used: they also fail trials that live (optuna/optuna#4234).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _saving as saving
from .._fields import Fields
from ..diagnosis import History
from ..finder import LRCurve
from ._setting_trials import final_losses
from ._study import Result, SearchSettings, Study, Trial, TrialSpec

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

logger = logging.getLogger("clrfast.recipe")

LEASE_SECONDS = 60.0
"""Time after which a trial counts as lost if its lease was not renewed. The machines' clocks must agree better."""

RENEWALS = 6
"""Renewals of a lease within ``LEASE_SECONDS``."""

SETTINGS_SECONDS = 10.0
"""Time that a worker waits for the settings of a study that another worker has just created."""

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
"""Errors of a file system without locks of the kernel."""

OPENINGS = 5
"""Attempts to open a database."""

FINISH_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before each further attempt to write a result: a trial costs more than a short failure of the network."""

_SETTINGS = "clrfast"
"""User attribute of the study that holds the settings of the search."""


def require_optuna() -> None:
    """Raise ModuleNotFoundError with the remedy unless Optuna is installed."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError("find_recipe needs Optuna; install it with: pip install optuna") from None


def journal_path(storage: Any) -> str | None:
    """Return the path of a journal file; None for a storage of another kind."""
    is_path = isinstance(storage, os.PathLike) or (isinstance(storage, str) and "://" not in storage)
    return os.fspath(storage) if is_path else None


def open_storage(storage: Any) -> optuna.storages.BaseStorage:
    """Return an Optuna storage: a given one, one in memory for None, a journal for a path, a database for a URL."""
    import optuna

    path = journal_path(storage)
    if path is not None:
        if not path or Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
            raise ValueError(f"storage: got {path!r}; give the path of a file in an existing folder, as 'recipe.log'")
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

        lock: Any = JournalLock(path)
        return JournalStorage(JournalFileBackend(path, lock if lock.works() else JournalFileOpenLock(path)))
    if storage is None or isinstance(storage, optuna.storages.BaseStorage):
        return optuna.storages.get_storage(storage)
    if isinstance(storage, str):
        return _open_database(storage)
    raise ValueError(
        f"storage: got {type(storage).__name__}; give the path of a journal file, the URL of a database, or a storage "
        "of Optuna"
    )


def _open_database(url: str) -> optuna.storages.BaseStorage:
    """Open a database; again if other workers make its tables at the same time, which is an error for all but one."""
    import optuna
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        for _ in range(OPENINGS - 1):
            with contextlib.suppress(DBAPIError):
                return optuna.storages.get_storage(url)
            time.sleep(random.Random().random())  # not the user's random numbers
        return optuna.storages.get_storage(url)
    except (SQLAlchemyError, ImportError) as error:
        cause = str(error).splitlines()[0]
        raise ValueError(
            f"storage: the database cannot be opened ({cause}); check the URL, install its driver, or give a file"
        ) from error


class TrialStore:
    """The trials of one search in an Optuna study.

    Args:
        storage: a path, URL or Optuna storage; None for one in memory.
        study_name: name of the study in the storage.
        sampler: an Optuna sampler that places the pairs; None for any, which is not used.
    """

    def __init__(self, storage: Any, study_name: str, sampler: optuna.samplers.BaseSampler | None = None):
        import optuna

        self._storage = open_storage(storage)
        self._shared = not isinstance(self._storage, optuna.storages.InMemoryStorage)
        self._name, self._sampler, self._joined = study_name, sampler, False
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._records: dict[int, Trial] = {}

    def join(self, settings: SearchSettings) -> SearchSettings:
        """Create the study with ``settings``, or join the one that exists and return its settings."""
        import optuna

        with _quiet():
            try:
                self.study = optuna.create_study(
                    storage=self._storage, study_name=self._name, direction="minimize", sampler=self._sampler
                )
                self.study.set_user_attr(_SETTINGS, settings.to_plain())
            except optuna.exceptions.DuplicatedStudyError:
                self.load()
        self._joined, self.ordinal = True, self.n_workers
        self.study.set_user_attr(f"worker {self.worker}", datetime.now().isoformat(timespec="seconds"))
        return self.settings

    def load(self) -> None:
        """Open a study that exists.

        Raises:
            ValueError: there is none of this name, or it holds no search.
        """
        import optuna

        with _quiet():
            try:
                self.study = optuna.load_study(storage=self._storage, study_name=self._name, sampler=self._sampler)
            except KeyError:
                raise ValueError(f"study_name: the storage has no study {self._name!r}") from None
        give_up = time.monotonic() + SETTINGS_SECONDS
        while _SETTINGS not in self.study.user_attrs:
            if time.monotonic() > give_up:
                raise ValueError(f"study_name: the study {self._name!r} holds no search of clrfast; give another name")
            time.sleep(0.05)

    @property
    def settings(self) -> SearchSettings:
        """The settings that all workers share."""
        plain = self.study.user_attrs[_SETTINGS]
        return SearchSettings.from_plain(Fields(plain, f"study {self._name}"))

    def set_deadline(self, deadline: float) -> None:
        """Replace the end of a budget of time, in seconds since 1970."""
        self.study.set_user_attr(_SETTINGS, replace(self.settings, deadline=deadline).to_plain())

    @property
    def n_workers(self) -> int:
        """Number of workers that have joined so far, those that have left included."""
        return sum(name.startswith("worker ") for name in self.study.user_attrs)

    def read(self) -> tuple[Study, list[TrialSpec]]:
        """Return the finished trials, and the running ones in the order of their numbers."""
        running = []
        for frozen in self._owners().values():
            if frozen.state.is_finished():
                if frozen.number not in self._records:
                    self._records[frozen.number] = _trial_of(frozen)
            else:
                running.append(_spec_of(frozen))
        finished = tuple(trial for _, trial in sorted(self._records.items()))
        return Study(self.settings, finished), running

    def _owners(self) -> dict[str, FrozenTrial]:
        """Return the completed or running trial that owns each key, by number; fail those whose lease has expired."""
        from optuna.trial import TrialState

        owners: dict[str, FrozenTrial] = {}
        for frozen in self.study.get_trials(deepcopy=False):
            if "key" not in frozen.user_attrs or frozen.state not in (TrialState.RUNNING, TrialState.COMPLETE):
                continue  # another program's trial, or a lost one
            age = time.time() - frozen.user_attrs["lease"]
            if frozen.state == TrialState.RUNNING and self._shared and age > LEASE_SECONDS:
                if not self._joined:
                    continue  # a reader changes nothing
                logger.info(
                    "trial %d of %s is lost: %.0f s without a sign", frozen.number, frozen.user_attrs["worker"], age
                )
                self._end(frozen._trial_id, TrialState.FAIL)
            else:
                owners.setdefault(frozen.user_attrs["key"], frozen)  # they come in the order of their numbers
        return owners

    def _end(self, trial_id: int, state: Any, value: float | None = None) -> bool:
        """End a trial; return False if another worker has ended it."""
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError):
            return bool(self._storage.set_trial_state_values(trial_id, state, None if value is None else [value]))
        return False

    def claim(self, spec: TrialSpec) -> Claim | None:
        """Start a trial; None if another worker has its key."""
        from optuna.trial import FrozenTrial, TrialState

        plain = saving.to_plain(spec)
        params, distributions = _shown_params(spec)
        template = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params=params,
            distributions=distributions,
            user_attrs={**plain, "worker": self.worker, "lease": time.time()},
            system_attrs={},
            intermediate_values={},
        )
        trial_id = self._storage.create_new_trial(self.study._study_id, template)
        try:
            owner = self._owners().get(spec.key)
        except BaseException:  # also of Ctrl-C: no claim exists yet that would give the key back
            self._end(trial_id, TrialState.FAIL)
            raise
        if owner is None or owner._trial_id != trial_id:
            self._end(trial_id, TrialState.FAIL)
            return None
        return Claim(self, trial_id, owner.number, spec)


class Claim:
    """A running trial of this worker, as a context: whatever ends it before ``finish`` gives its key back.

    Attributes:
        trial_id: of the trial in the storage.
        number: of the trial in the study.
        spec: what the trial measures.
    """

    def __init__(self, store: TrialStore, trial_id: int, number: int, spec: TrialSpec):
        self._store, self.trial_id, self.number, self.spec = store, trial_id, number, spec
        self._started, self._ended = time.time(), threading.Event()
        self._renewal = threading.Thread(target=self._renew, name=f"lease of trial {number}", daemon=True)

    def __enter__(self) -> Claim:
        if self._store._shared:
            self._renewal.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        from optuna.trial import TrialState

        self._ended.set()
        if self._renewal.is_alive():
            self._renewal.join()
        try:
            self._store._end(self.trial_id, TrialState.FAIL)  # without effect on a finished one
        except Exception as error:  # of the storage; it must not hide what ended the trial
            logger.warning("trial %d: its key is free after %.0f s: %s", self.number, LEASE_SECONDS, error)

    def _renew(self) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        while not self._ended.wait(LEASE_SECONDS / RENEWALS):
            try:
                self._store._storage.set_trial_user_attr(self.trial_id, "lease", time.time())
            except UpdateFinishedTrialError:
                return  # another worker has taken it over; `finish` says so
            except Exception as error:
                logger.warning("trial %d: its lease could not be renewed: %s", self.number, error)

    def _retried(self, write: Callable[[], tuple[Trial, bool]]) -> tuple[Trial, bool]:
        """Call ``write``, again after each of ``FINISH_PAUSES`` while the storage fails."""
        for pause in FINISH_PAUSES:
            try:
                return write()
            except Exception as error:
                logger.warning("trial %d: its result is written again in %.0f s: %s", self.number, pause, error)
                time.sleep(pause)
        return write()

    def place(self, spec: TrialSpec) -> None:
        """Write the settings of a trial that were chosen after its claim."""
        self.spec = spec
        for name in ("optimizer", "weight_decay", "repeat", "max_lr"):  # the last one says that all are there
            self._store._storage.set_trial_user_attr(self.trial_id, name, getattr(spec, name))

    def earlier_pairs_are_placed(self) -> bool:
        """Return whether all running trials with lower numbers have their pairs, so that a sampler knows them."""
        earlier = (each for each in self._store._owners().values() if each.number < self.number)
        return all(each.user_attrs["stage"] != "pair" or each.user_attrs["max_lr"] is not None for each in earlier)

    def finish(self, result: Result, seconds_per_step: float | None = None) -> Trial | None:
        """Write the result and complete the trial; None if its lease has expired and another worker has its key."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        store, number = self._store, self.number
        times = self._started, time.time()
        value = float(final_losses([result])[0]) if isinstance(result, History) else math.inf

        def write() -> tuple[Trial, bool]:
            trial = Trial(self.spec, result, number, store.worker, *times, seconds_per_step, max(store.n_workers, 1))
            with contextlib.suppress(UpdateFinishedTrialError):
                for step, loss in _shown_losses(result):
                    store._storage.set_trial_intermediate_value(self.trial_id, step, loss)
                store._storage.set_trial_user_attr(self.trial_id, "outcome", trial.to_plain()["outcome"])
                store._end(self.trial_id, TrialState.COMPLETE, value)
            # Another worker can only fail it. An attempt whose answer was lost may have completed it.
            return trial, store._storage.get_trial(self.trial_id).state == TrialState.COMPLETE

        trial, ended = self._retried(write)
        if not ended:
            logger.warning("trial %d: its result comes too late, for another worker took it over", number)
            return None
        store._records[number] = trial
        if self.spec.stage == "pair":
            frozen = store._storage.get_trial(self.trial_id)
            with contextlib.suppress(RuntimeError):  # some samplers stop Optuna's loop, which does not run here
                store.study.sampler.after_trial(store.study, frozen, TrialState.COMPLETE, [value])
        return trial


class JournalLock:
    """Excludes other writers of a journal file, and removes a record that a killed writer has left unfinished.

    The kernel frees it when its process ends. Optuna's locks are files, which block everybody for 30 s after a kill.
    """

    def __init__(self, path: str):
        self._path = path

    def works(self) -> bool:
        """Return whether the file's system has such locks; the file is created."""
        if fcntl is None:
            return False
        try:
            with open(self._path, "a+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX)
                except OSError as error:
                    if error.errno in NO_LOCKS:
                        return False
                    raise
        except PermissionError:
            raise ValueError(f"storage: {self._path} cannot be written to; change its permissions") from None
        return True

    def acquire(self) -> bool:
        """Wait until no other process writes."""
        self._file = open(self._path, "r+b")  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        end = self._file.seek(0, os.SEEK_END)
        if end and (self._file.seek(end - 1), self._file.read(1))[1] != b"\n":
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        self._file.close()


def _trial_of(frozen: FrozenTrial) -> Trial:
    return Trial.from_plain(Fields({**frozen.user_attrs, "number": frozen.number}, f"trial {frozen.number}"))


def _spec_of(frozen: FrozenTrial) -> TrialSpec:
    return TrialSpec.from_plain(Fields(frozen.user_attrs, f"trial {frozen.number}"))


def _shown_params(spec: TrialSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the setting that a short trial compares, as a parameter of Optuna, and its distribution."""
    from optuna.distributions import FloatDistribution

    if spec.stage == "weight decay":
        return {"weight decay": spec.weight_decay}, {"weight decay": FloatDistribution(0.0, 100.0)}
    if spec.stage == "momentum" and not isinstance(spec.momentum, tuple):
        return {"momentum": spec.momentum}, {"momentum": FloatDistribution(0.0, 1.0)}
    return {}, {}


def _shown_losses(result: Result) -> Iterator[tuple[int, float]]:
    """Return the losses over the steps, for Optuna's dashboard: of a range test those of the training."""
    if isinstance(result, History):
        yield from zip(np.asarray(result.val_steps).tolist(), np.asarray(result.val_loss).tolist(), strict=True)
    elif isinstance(result, LRCurve):
        yield from enumerate(np.asarray(result.loss).tolist())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from printing that a study was created; the search logs what happens."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
