import logging

import pytest

from clrfast import _progress as progress


@pytest.fixture
def log(caplog):
    """The library's log of progress, as in a new process."""
    progress._log_bar_hint.cache_clear()
    caplog.set_level(logging.INFO, "clrfast._progress")
    yield caplog
    progress._log_bar_hint.cache_clear()


def test_the_hint_at_the_bar_is_logged_once(log):
    for _ in range(3):
        with progress.show_progress(None, "range test") as show:
            assert show is None
    assert log.messages == ["progress=True shows a bar while this runs, if tqdm is installed"]


@pytest.mark.parametrize("given", [False, True, lambda done, total, shown: None])
def test_an_explicit_choice_logs_no_hint(log, given):
    with progress.show_progress(given, "range test"):
        pass
    assert log.messages == []
