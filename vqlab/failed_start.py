"""A training that is refused before its first batch leaves everything as it was."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers import WandbLogger

from vqlab.errors import UserError
from vqlab.experiments.run_state import FINISHED
from vqlab.too_large import too_large
from vqlab.whole_files import write_whole

CHANGED = ("config.yaml", "metrics.csv", FINISHED)  # what a run that is resumed writes anew before it is restored


class Begun(lightning.Callback):
    """Remember whether a batch was trained on."""

    begun = False

    def on_train_batch_start(self, *args: Any) -> None:
        """The data are good and the checkpoint is restored: what goes wrong from now on is a run that failed."""
        self.begun = True


@contextmanager
def leaving_nothing(folder: Path, trainer: lightning.Trainer) -> Iterator[None]:
    """Remove ``folder``, or put back what was in it, if the block is refused before a batch is trained on.

    A folder stays after an error that is no one's to mend, and where W&B would go on writing into it.
    """
    new, watch = not folder.exists(), Begun()
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    before = {name: (folder / name).read_bytes() for name in CHANGED if (folder / name).is_file()}
    try:
        yield
    except Exception as error:
        refused = isinstance(error, UserError) or too_large(error, [])
        if refused and not watch.begun and trainer.is_global_zero:
            if not new:
                put_back(folder, before)
            elif not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()  # the model's; it stays if there are other runs
                    folder.parent.parent.rmdir()
        raise


def put_back(folder: Path, before: dict[str, bytes]) -> None:
    """Make the files of ``folder`` that may have changed what they were ``before``."""
    for path in (folder / name for name in CHANGED):
        if path.name not in before:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != before[path.name]:
            with write_whole(path) as file:
                file.write(before[path.name])
