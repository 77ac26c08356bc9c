"""The same experiment for others to run: a SLURM job array, a W&B sweep."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqlab.experiments.experiment import Experiment, Row
from vqlab.experiments.settings import as_flag, mode_of, monitor_of


def slurm_script(experiment: Experiment, rows: Sequence[Row], arguments: Sequence[str], out: Path) -> str:
    """Return a script for ``sbatch``: one task of the array per row, resumed where it stopped if it is sent again.

    Args:
        experiment: Where the rows come from.
        rows: What to run.
        arguments: What ``vqlab sweep`` is called with besides file and row.
        out: Where the script will lie.
    """
    names = " ".join(shlex.quote(row.name) for row in rows)
    call = shlex.join(["vqlab", "sweep", str(experiment.path), *arguments])
    return f"""#!/bin/bash
# {len(rows)} rows of {experiment.path}. What a row needs is chosen when it is sent off:
#   sbatch --gres=gpu:1 --cpus-per-task=8 --time=24:00:00 {out}
# Sent again, finished rows end at once, and the others go on from their last checkpoint.
#SBATCH --job-name={experiment.path.stem}
#SBATCH --array=0-{len(rows) - 1}
#SBATCH --output={experiment.path.stem}-%a.out
rows=({names})
unset SLURM_NTASKS  # or Lightning expects SLURM to start the processes of a row; it starts them itself
exec {call} --rows="${{rows[$SLURM_ARRAY_TASK_ID]}}"
"""


def wandb_rows(experiment: Experiment, rows: Sequence[Row], arguments: Sequence[str]) -> dict[str, Any]:
    """Return a W&B sweep over rows, whose agents take up, skip and resume them as ``vqlab sweep`` does."""
    return {
        "name": experiment.path.stem,
        "method": "grid",
        "command": ["vqlab", "sweep", str(experiment.path), *arguments, "${args}"],
        "parameters": {"rows": {"values": [row.name for row in rows]}},
    }


def wandb_search(experiment: Experiment, space: dict[str, Any]) -> dict[str, Any]:
    """Return a W&B sweep that searches ``space``, the checked one of an experiment."""
    row = experiment.row("", {})
    options = itertools.starmap(as_flag, row.options.items())
    return {
        "name": experiment.path.stem,
        "method": "bayes",
        "metric": {"name": monitor_of(row.settings), "goal": f"{mode_of(row.settings)}imize"},
        "command": ["vqlab", "fit", *(f"--config={path}" for path in experiment.configs), *options, "${args}"],
        "parameters": {name: _parameter(choice) for name, choice in space.items()},
    }


def _parameter(choice: Any) -> dict[str, Any]:
    if isinstance(choice, list):
        return {"values": choice}
    bounds = {"min": choice["low"], "max": choice["high"]}
    if choice.get("log"):
        return {"distribution": "log_uniform_values", **bounds}
    if step := choice.get("step"):
        return {"distribution": "q_uniform", "q": step, **bounds}
    return {
        "distribution": "int_uniform" if type(choice["low"]) is type(choice["high"]) is int else "uniform",
        **bounds,
    }
