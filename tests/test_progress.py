import logging
import time

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


def test_work_that_may_end_below_its_total_shows_no_percentage(capsys):
    pytest.importorskip("tqdm")
    for reaches_total in (True, False):
        with progress.show_progress(True, "range test", reaches_total=reaches_total) as show:
            show(30, 200, {"lr": 0.1})
            time.sleep(0.2)
            show(50, 200, {"lr": 0.1})
        assert ("25%" in capsys.readouterr().err) == reaches_total


def test_a_bar_does_not_go_back_where_a_run_is_repeated(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    shown = []

    class Bar(tqdm.tqdm):
        def update(self, n=1):
            super().update(n)
            shown.append(self.n / self.total)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    with progress.progress_bar("range test") as show:
        for done in (10, 21, 11, 31):
            show(done, 40, {})
    assert shown == [10 / 40, 21 / 40, 21 / 40, 31 / 40]
