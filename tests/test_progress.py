import logging

import pytest

from clrfast import _progress as progress


@pytest.fixture
def told(caplog):
    """The log of what the library says on progress, as in a process of its own."""
    progress._log_bar_hint.cache_clear()
    caplog.set_level(logging.INFO, "clrfast._progress")
    yield caplog
    progress._log_bar_hint.cache_clear()


def test_the_hint_at_the_bar_is_logged_once(told):
    for _ in range(3):
        with progress.show_progress(None, "range test") as show:
            assert show is None
    assert told.messages == ["progress=True shows a bar while this runs, if tqdm is installed"]


@pytest.mark.parametrize("given", [False, True, lambda done, total, shown: None])
def test_an_explicit_choice_logs_no_hint(told, given):
    with progress.show_progress(given, "range test"):
        pass
    assert told.messages == []
