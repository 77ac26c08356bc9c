"""A training that is refused before its first batch leaves everything as it was."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning

from vqlab.atomic_io import write_atomic
from vqlab.cli.oom import too_large
from vqlab.errors import UserError
from vqlab.experiments.row_lock import LOCK
from vqlab.experiments.run_state import FINISHED

CHANGED = ("config.yaml", "metrics.csv", FINISHED)  # what a run that is resumed writes anew before it is restored


class Begun(lightning.Callback):
    """Remember whether a batch was trained on."""

    begun = False

    def on_train_batch_start(self, *args: Any) -> None:
        """The data are good and the checkpoint is restored: what goes wrong from now on is a run that failed."""
        self.begun = True


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[Begun]:
    """Remove ``folder``, or put back what was in it, if the block is refused or stopped before a batch is trained on.

    Yields the callback that notes the first batch. The lock of the folder must be held. A folder stays after an error
    that is no one's to mend, if something was written, and where W&B would go on writing into it.
    """
    new, watch = is_bare(folder), Begun()
    before = {name: (folder / name).read_bytes() for name in CHANGED if (folder / name).is_file()}
    try:
        yield watch
    except BaseException as error:
        refused = isinstance(error, (UserError, SystemExit, KeyboardInterrupt)) or too_large(error, [])
        if refused and not watch.begun:
            if not new:
                put_back(folder, before)
            elif not (folder / "wandb").exists():
                remove(folder)
        raise
    finally:
        if new and is_bare(folder):
            remove(folder)


def is_bare(folder: Path) -> bool:
    """Whether the folder exists and holds nothing but its lock."""
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


def remove(folder: Path) -> None:
    """Remove a run folder, and those above it that then hold nothing; its lock goes last.

    A start that waits for the folder's name opens the lock before it is gone, and then does not count it
    (:func:`~vqlab.experiments.row_lock.take`), or makes folder and lock again.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()  # the model's; it stays if there are other runs
        folder.parent.parent.rmdir()


def put_back(folder: Path, before: dict[str, bytes]) -> None:
    """Make the files of ``folder`` that may have changed what they were ``before``."""
    for path in (folder / name for name in CHANGED):
        if path.name not in before:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != before[path.name]:
            with write_atomic(path) as file:
                file.write(before[path.name])
