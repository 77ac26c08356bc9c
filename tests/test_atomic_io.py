"""Atomic writes, and messages about full and read-only disks."""

import builtins
import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab import atomic_io
from vqlab.atomic_io import append, write_atomic
from vqlab.training.lightning_fixes import AtomicCheckpointIO
from vqlab.training.loggers.csv import CSVLog

PATH = Path("folder/file.bin")


@pytest.fixture
def old():
    """A file that must stay unchanged."""
    with write_atomic(PATH) as file:
        file.write(b"old")
    yield
    assert [p.name for p in PATH.parent.iterdir()] == [PATH.name], "no temporary file"
    assert PATH.read_bytes() == b"old"


def test_file_is_replaced_when_the_block_ends():
    for content in (b"old", b"new"):
        with write_atomic(PATH) as file:
            file.write(content)
            file.flush()
            assert not PATH.exists() or PATH.read_bytes() == b"old"
        assert PATH.read_bytes() == content
        assert list(PATH.parent.iterdir()) == [PATH]


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyboardInterrupt(), SystemExit(3), OSError(errno.EIO, "x")])
def test_exception_in_the_block_keeps_the_old_file(old, error):
    with pytest.raises(type(error)) as raised, write_atomic(PATH) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert raised.value is error


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space left for folder/file.bin"), (errno.EROFS, "file.bin cannot be written")],
)
def test_disk_error_is_a_user_error_with_the_file(old, monkeypatch, call, code, words):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with refused(words, "--runs"), write_atomic(PATH) as file:
        file.write(b"new")


def test_file_larger_than_the_limit(old):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as 4 GB in FAT
    try:
        with refused("folder/file.bin (File too large)"):
            AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(10_000)}, PATH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_parent_that_is_a_file():
    Path("folder").write_text("a file")
    with refused("folder/file.bin cannot be written", "--runs"), write_atomic(PATH):
        pass
    assert Path("folder").read_text() == "a file"


@pytest.fixture
def full_disk(monkeypatch):
    """Return a function that redirects later writes to /dev/full, where they fail as on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")

    def full(path, mode, **options):
        builtins.open(path, mode, **options).close()
        return builtins.open("/dev/full", mode, **options)

    return lambda: monkeypatch.setattr(atomic_io, "open", full, raising=False)


def test_log_on_a_full_disk(full_disk):
    logger = CSVLog("folder")
    logger.log_metrics({"loss": 1.0}, 0)
    before = logger.path.read_bytes()
    full_disk()
    for metrics in ({"loss": 2.0}, {"loss": 2.0, "new": 3.0}):
        with refused("no space left for folder/metrics.csv"):
            logger.log_metrics(metrics, 1)
        assert logger.path.read_bytes() == before


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_checkpoint_on_a_full_disk(tmp_path, full_disk, size):
    """torch.save raises RuntimeError."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    full_disk()
    with refused("no space left for", "last.ckpt"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "a": torch.zeros(size)}, path)
    assert list(path.parent.iterdir()) == [path]
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}


def test_append():
    append(PATH, "a,b\n")
    append(PATH, "1,2\r\n")
    assert PATH.read_bytes() == b"a,b\n1,2\r\n"
