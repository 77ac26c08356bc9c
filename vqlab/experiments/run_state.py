"""The progress of a run, by the files in its folder."""

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any

from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import checkpoint_step
from vqlab.experiments.row_lock import LOCK
from vqlab.experiments.settings import Settings, flatten, read_yaml

CONFIG, LOG, LAST = "config.yaml", "metrics.csv", "checkpoints/last.ckpt"
FINISHED = "finished.json"  # fit writes it last
FAILED = "failed.json"  # written by a sweep, with the reason
OUTPUT = "sweep.log"  # output of the row of a sweep


class State(StrEnum):
    """What can be done with a run folder."""

    NEW = "new"  # nothing was started here
    UNSAVED = "unsaved"  # stopped before the first checkpoint: can only be started again
    INTERRUPTED = "interrupted"  # can be resumed from last.ckpt
    FINISHED = "finished"


def state_of(folder: Path) -> State:
    """Return the state of the run in ``folder``."""
    if (folder / FINISHED).exists():
        return State.FINISHED
    if not (folder / LAST).exists():
        return State.UNSAVED if (folder / CONFIG).exists() else State.NEW
    # A run that was killed between its last checkpoint and finished.json has no step left to do.
    max_steps = settings_of(folder).get("trainer.max_steps")
    done = isinstance(max_steps, int) and 0 <= max_steps <= checkpoint_step(folder / LAST)
    return State.FINISHED if done else State.INTERRUPTED


def holds_run(folder: Path) -> bool:
    """Whether a training was started in ``folder``."""
    return (folder / CONFIG).exists() or (folder / "checkpoints").exists()


def begin_again(folder: Path) -> None:
    """Remove the files of the run in ``folder``; config.yaml, which marks it as one, comes last."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, OUTPUT):
            path.unlink()


def settings_of(folder: Path) -> Settings:
    """Return the settings of the run in ``folder`` by dotted name; none where config.yaml is missing or damaged."""
    try:
        return flatten(read_yaml(folder / CONFIG))
    except UserError:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a run folder; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
