"""Files appear whole or not at all."""

import builtins
import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from vqlab import atomic_io as whole_files
from vqlab.atomic_io import append, write_atomic
from vqlab.errors import UserError
from vqlab.training.checkpoint_io import AtomicCheckpointIO
from vqlab.training.loggers.csv import CSVLog

PATH = Path("folder/file.bin")


@pytest.fixture
def old():
    """A file that must survive."""
    with write_atomic(PATH) as file:
        file.write(b"old")


def assert_old_file_alone():
    assert [p.name for p in PATH.parent.iterdir()] == [PATH.name], "something is left beside the file"
    assert PATH.read_bytes() == b"old"


def test_the_old_file_is_there_until_the_block_ends(old):
    with write_atomic(str(PATH)) as file:
        file.write(b"ne")
        file.flush()
        assert PATH.read_bytes() == b"old"
        file.write(b"w")
    assert PATH.read_bytes() == b"new"
    assert list(PATH.parent.iterdir()) == [PATH]


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyboardInterrupt(), SystemExit(3), OSError(errno.EIO, "x")])
def test_an_exception_in_the_block_leaves_the_old_file_and_goes_on(old, error):
    with pytest.raises(type(error)) as raised, write_atomic(PATH) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert raised.value is error
    assert_old_file_alone()


def test_nothing_appears_where_nothing_was():
    with pytest.raises(ZeroDivisionError), write_atomic(PATH) as file:
        file.write(bytes(1 // 0))
    assert list(PATH.parent.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space_is_a_user_error_that_names_the_file(old, monkeypatch, call, code):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(UserError, match=r"no space left for folder/file\.bin.*--runs"), write_atomic(PATH) as file:
            file.write(b"new")
    assert_old_file_alone()


def test_a_file_that_is_larger_than_the_disk_allows(old):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as FAT has one of 4 GB
    try:
        for write in (lambda: AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(10_000)}, PATH), big_line):
            with pytest.raises(UserError, match=r"folder/.* is larger than this disk or ulimit -f allows.*--runs"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (PATH.parent / "log").unlink(missing_ok=True)
    assert_old_file_alone()


def big_line():
    append(PATH.parent / "log", "x" * 10_000)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG])
def test_a_folder_that_cannot_be_written(old, monkeypatch, code):
    def refuse(*args, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(whole_files, "open", refuse, raising=False)
    with pytest.raises(UserError, match=r"folder/file\.bin cannot be written.*--runs"), write_atomic(PATH):
        pass
    assert_old_file_alone()


def test_a_file_in_the_place_of_the_folder():
    Path("folder").write_text("a file")
    with pytest.raises(UserError, match=r"folder/file\.bin cannot be written.*--runs"), write_atomic(PATH):
        pass
    assert Path("folder").read_text() == "a file"


@pytest.fixture
def full_disk(monkeypatch):
    """All writing goes to /dev/full, whose every write fails as on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    opened = []

    def full(path, mode, **options):
        builtins.open(path, mode, **options).close()
        opened.append(path)
        return builtins.open("/dev/full", mode, **options)

    monkeypatch.setattr(whole_files, "open", full, raising=False)
    return opened


@pytest.mark.parametrize("size", [3, 10**6])
def test_a_full_disk(old, full_disk, size):
    with pytest.raises(UserError, match=r"no space left for folder/file\.bin"), write_atomic(PATH) as file:
        file.write(bytes(size))
    assert full_disk
    assert_old_file_alone()


def test_lines_are_appended():
    append(PATH, "a,b\n")
    append(PATH, "1,2\r\n")
    assert PATH.read_bytes() == b"a,b\n1,2\r\n"


def test_a_line_of_the_log_on_a_full_disk(request):
    logger = CSVLog("folder")
    logger.log_metrics({"loss": 1.0}, 0)
    before = logger.path.read_bytes()
    request.getfixturevalue("full_disk")
    for metrics in ({"loss": 2.0}, {"loss": 2.0, "new": 3.0}):
        with pytest.raises(UserError, match=r"no space left for folder/metrics\.csv"):
            logger.log_metrics(metrics, 1)
        assert logger.path.read_bytes() == before


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_a_checkpoint_on_a_full_disk(tmp_path, monkeypatch, request, size):
    """torch.save says it in a RuntimeError of its own."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1, "state_dict": {"a": torch.ones(3)}}, path)
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=r"no space left for .*last\.ckpt"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "state_dict": {"a": torch.zeros(size)}}, path)
    assert list(path.parent.iterdir()) == [path]
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    assert checkpoint["step"] == 1
    assert checkpoint["state_dict"]["a"].tolist() == [1, 1, 1]


def test_a_checkpoint_that_torch_cannot_write(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match=r"pickle|local") as error:
        AtomicCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert not isinstance(error.value, UserError), "this is no matter of the disk"
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True) == {"step": 1}
