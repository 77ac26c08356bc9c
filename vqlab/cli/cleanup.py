"""A training that is refused before its first batch leaves no new folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning

from vqlab.experiments.row_lock import LOCK
from vqlab.experiments.run_state import OUTPUT, begin_again


class Begun(lightning.Callback):
    """Remember whether a batch was trained on."""

    begun = False

    def on_train_batch_start(self, *args: Any) -> None:
        """The data are good and the checkpoint is restored: what goes wrong from now on is a run that failed."""
        self.begun = True


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[Begun]:
    """Remove a new run ``folder`` if the block fails or is stopped before a batch is trained on.

    Yields the callback that notes the first batch. The lock of the folder must be held. The folder stays where W&B
    would go on writing into it.
    """
    new, watch = is_bare(folder), Begun()
    try:
        yield watch
    except BaseException:
        if new and not watch.begun and not (folder / "wandb").exists():
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
    with suppress(OSError):
        begin_again(folder)
        (folder / OUTPUT).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()  # the model's; it stays if there are other runs
        folder.parent.parent.rmdir()
