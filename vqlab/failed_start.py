"""A training that is refused before its first step leaves nothing behind."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning

from vqlab.errors import UserError
from vqlab.too_large import too_large
from vqlab.training.finite import NonFiniteError


@contextmanager
def leaving_nothing(folder: Path, trainer: lightning.Trainer) -> Iterator[None]:
    """Remove ``folder`` if the block makes it and then is refused before a step is trained.

    A loss that is not finite leaves its folder: the evidence is in there. So does an error that is no one's to mend.
    """
    new = not folder.exists()
    try:
        yield
    except Exception as error:
        refused = (isinstance(error, UserError) or too_large(error, [])) and not isinstance(error, NonFiniteError)
        watched = bool(trainer.loggers[1:])  # by W&B, which would go on writing
        if new and refused and not watched and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()  # the model's; it stays if there are other runs
                folder.parent.parent.rmdir()
        raise
