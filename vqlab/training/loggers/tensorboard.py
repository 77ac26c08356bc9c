"""TensorBoard, if it is installed."""

from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from vqlab.errors import UserError


def tensorboard_logger(run_folder: str | Path, step: int = 0) -> TensorBoardLogger:
    """Return a logger that writes to ``tensorboard`` in ``run_folder``, once there is something to write.

    Args:
        run_folder: The run's folder.
        step: Steps done where the run starts; what an earlier one logged from there on is no longer shown.

    Raises:
        UserError: If TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserError("TensorBoard is not installed: pip install 'vqlab[tensorboard]', or leave out --tensorboard")
    # Lightning's default logs hp_metric=-1 beside the hyperparameters.
    return TensorBoardLogger(
        run_folder, name="", version="tensorboard", default_hp_metric=False, purge_step=step or None
    )
