"""Files are written whole or not at all, and nothing but the file itself changes."""

import errno
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest

from clrfast import LRCurve, NotWrittenError, cli
from clrfast import _saving as saving

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that becomes full after half of every file; the kernel reports it on the last flush."""

    def fsync(descriptor):
        os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving.os, "fsync", fsync)


@pytest.fixture
def temporary(monkeypatch):
    """The temporary files, as (path, flags), in the order in which they are opened."""
    opened, real = [], os.open

    def recorded(path, flags, *mode):
        opened.append((Path(path), flags))
        return real(path, flags, *mode)

    monkeypatch.setattr(saving.os, "open", recorded)
    return opened


def make_curve():
    lr = np.geomspace(1e-3, 1.0, 7)
    return LRCurve(lr, np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8.0]), 2.0, "diverged", "diverged at 1")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@posix
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        saving.write_text(tmp_path / "a.json", "1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


@posix
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o640])
def test_a_file_keeps_its_permissions(mode, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(mode)
    saving.write_text(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there, tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "real.json", tmp_path / "link.json"
    if there:
        target.write_text("old")
    link.symlink_to(Path("store") / "real.json")
    make_curve().save(link)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert LRCurve.load(target).stop_reason == LRCurve.load(link).stop_reason == "diverged at 1"
    assert names(tmp_path / "store") == ["real.json"]
    assert names(tmp_path) == ["link.json", "store"]


def test_the_temporary_file_has_an_unpredictable_name(temporary, tmp_path):
    path = tmp_path / "a.json"
    for text in ("first", "second"):
        saving.write_text(path, text)
    (first, flags), (second, _) = temporary
    assert first != second
    assert first.parent == second.parent == tmp_path
    assert re.fullmatch(r"\.a\.json\.[0-9a-f]{16}", first.name)
    assert flags & os.O_EXCL
    assert flags & os.O_CREAT
    assert names(tmp_path) == ["a.json"]


@posix
def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(saving.secrets, "token_hex", lambda n: "0" * 2 * n)
    victim = tmp_path / "victim"
    (tmp_path / f".a.json.{'0' * 16}").symlink_to(victim)
    with pytest.raises(NotWrittenError, match=r"a\.json: not written \(File exists\)"):
        saving.write_text(tmp_path / "a.json", "1")
    assert not victim.exists()
    assert (tmp_path / f".a.json.{'0' * 16}").is_symlink()  # it is not ours to remove


def test_a_full_disk_leaves_the_old_file_and_nothing_else(full_disk, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(NotWrittenError, match=r"a\.json: not written \(No space left on device\)"):
        make_curve().save(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(saving.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saving.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_is_written_and_not_replaced(tmp_path):
    saving.write_text(os.devnull, "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    (tmp_path / "a.json").symlink_to("/dev/full")
    with pytest.raises(NotWrittenError, match=r"a\.json: not written \(No space left on device\)"):
        make_curve().save(tmp_path / "a.json")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing/a.json", "No such file or directory"), (".", "Is a directory")],
)
def test_a_path_that_cannot_be_written_is_named(name, message, tmp_path):
    with pytest.raises(NotWrittenError, match=rf"{re.escape(str(tmp_path / name))}: not written \({message}\)"):
        saving.write_text(tmp_path / name, "1")


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("a", b"\x89PNG")]
)
def test_a_picture_has_the_format_of_its_suffix(name, begins, tmp_path):
    saving.write_figure(tmp_path / name, make_curve().plot().figure)
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["find", "digits", "--steps", "30"], "lr_range_test.json"),
        (["recipe", "digits", "--budget", "464"], "recipe.json"),
        (["schedule", "one_cycle", "--max-lr", "1", "--total-steps", "9"], "one_cycle.png"),
    ],
)
@pytest.mark.usefixtures("full_disk", "one_thread")
def test_a_full_disk_is_one_line_and_exit_code_1(arguments, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clrfast: ")]
    assert printed == [f"clrfast: {name}: not written (No space left on device)"]
    assert list(tmp_path.iterdir()) == []
