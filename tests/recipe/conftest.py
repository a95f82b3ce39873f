"""Fixtures of the recipe's tests."""

from __future__ import annotations

import pytest

from clrfast.recipe import TrialSpec
from clrfast.recipe._trial_runner import TrialRunner


class Ran(list[TrialSpec]):
    """The trials that searches have begun, in their order."""

    @property
    def stages(self) -> list[str]:
        """The stages, each once for trials in succession."""
        return [spec.stage for i, spec in enumerate(self) if not i or spec.stage != self[i - 1].stage]

    @property
    def keys(self) -> list[str]:
        return [spec.key for spec in self]

    def of(self, stage: str) -> list[TrialSpec]:
        return [spec for spec in self if spec.stage == stage]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """A record of the trials that searches begin from now on."""
    ran, real = Ran(), TrialRunner.run

    def recorded(self, specs, progress):
        ran.extend(specs)
        return real(self, specs, progress)

    monkeypatch.setattr(TrialRunner, "run", recorded)
    return ran
