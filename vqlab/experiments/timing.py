"""How long the rows of an experiment take on this machine, from a few measured batches of each different model."""

import hashlib
import json
import os
import platform
import re
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError
from vqlab.experiments.experiment import SEEDED, Experiment, Row
from vqlab.experiments.run_state import ROW, TIMES_FILE
from vqlab.experiments.runner import Runner, reason_of
from vqlab.experiments.settings import HARMLESS, STEP_COUNTS, as_text, parsed
from vqlab.experiments.text import duration, plural

CACHE = ".times.json"  # in the folder of all runs
UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# Settings that do not change the time of a step, besides those that count steps and numbers other than 0.
WITHOUT_TIME = (*HARMLESS, *SEEDED, "plateau.", "health.", "checkpoint.", "trainer.log_every_n_steps")


@dataclass(frozen=True)
class Times:
    """Times of a run in seconds."""

    start: float  # until the first step
    step: float
    validation: float  # the whole set
    epoch: int  # steps

    def of(self, row: Row, test: bool = False) -> float:
        """Return the time of ``row``, with the test of its best checkpoint if ``test``."""
        steps = steps_of(row, self.epoch)
        interval = float(row.settings.get("trainer.val_check_interval") or 1.0)  # at most 1: a part of an epoch
        interval = interval if interval > 1 else max(1.0, interval * self.epoch)
        tested = self.start + self.validation if test else 0
        return self.start + steps * self.step + steps // interval * self.validation + tested


def steps_of(row: Row, epoch: int) -> int:
    """Return the number of steps that ``row`` trains, from its settings and the steps of an epoch."""
    steps, epochs = (row.settings.get(f"trainer.max_{unit}") for unit in ("steps", "epochs"))
    known = [int(steps)] if steps not in (None, -1) else []
    known += [int(epochs) * epoch] if epochs not in (None, -1) else []
    return min(known, default=1000 * epoch)  # the Trainer's default


def read_budget(text: str) -> float:
    """Return the seconds of a text such as ``2h``, ``90m`` or ``1h30m``; raises UserError for other texts."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(map("".join, parts)) != text or not (seconds := sum(float(n) * UNITS[u] for n, u in parts)):
        raise UserError(f"budget must be a time such as 2h, 90m or 1h30m, got {text!r}")
    return seconds


def total(experiment: Experiment, rows: Sequence[Row], times: dict[str, Times], jobs: int, test: bool) -> float:
    """Return the time of the rows with these names in ``experiment``, ``jobs`` at a time."""
    names = {row.name for row in rows}
    seconds = [times[row.name].of(row, test) for row in experiment.rows if row.name in names]
    return max(sum(seconds) / jobs, *seconds)


def fitting_scale(budget: float, time_at: Callable[[float], float]) -> tuple[float, float]:
    """Return the largest factor of at most 1 at which ``time_at`` is within ``budget``, and the time without steps.

    Raises:
        UserError: If the time without steps is not within ``budget``.
    """
    whole = time_at(1.0)
    fixed = 2 * time_at(0.5) - whole  # starts and validations
    if whole <= budget:
        return 1.0, fixed
    if fixed >= budget:
        raise UserError(
            f"budget must be more than {duration(fixed)}, the time of starts and validations alone: raise it, or add "
            "--trainer.limit_val_batches=..."
        )
    return float(f"{(budget - fixed) / (whole - fixed) * 0.995:.3g}"), fixed


def started_scale(experiment: Experiment, rows: Sequence[Row], budget: str) -> float | None:
    """Return the factor of rows that were started with the same budget, so that a resumed sweep keeps it."""
    for row in rows:
        with suppress(OSError, ValueError, TypeError, KeyError):  # not started, or damaged
            found = json.loads((experiment.folder(row) / ROW).read_bytes())
            if found["budget"] == budget:
                return float(found["scale"])
    return None


def measure(experiment: Experiment, rows: Sequence[Row], runner: Runner) -> dict[str, Times]:
    """Return the times of each row by name, measured once per different model and machine, and kept in ``CACHE``.

    Raises:
        UserError: If a row does not train.
    """
    path = experiment.runs / CACHE
    known: dict[str, Times] = {}
    with suppress(OSError, ValueError, TypeError):  # missing or damaged
        known = {key: Times(**times) for key, times in json.loads(path.read_bytes()).items()}
    keys = {row.name: model_key(experiment, row, len(runner.resources)) for row in rows}
    unknown = list({keys[row.name]: row for row in reversed(rows) if keys[row.name] not in known}.values())[::-1]
    if unknown:
        print(f"measuring a few batches of {plural(len(unknown), 'model')} ...", flush=True)
        with ThreadPoolExecutor(len(runner.resources)) as pool:
            try:
                for row, times in zip(unknown, pool.map(lambda row: measure_row(row, runner), unknown), strict=True):
                    known[keys[row.name]] = times
                    content = {key: asdict(value) for key, value in known.items()}
                    with write_atomic(path) as file:
                        file.write(json.dumps(content, indent=1).encode())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                runner.stop()
                raise
    return {row.name: known[keys[row.name]] for row in rows}


def model_key(experiment: Experiment, row: Row, jobs: int) -> str:
    """Return a key that rows share whose steps take the same time: only 0 is a number that changes the work."""
    machine = [platform.node(), os.cpu_count(), os.environ.get("CUDA_VISIBLE_DEVICES"), jobs, version("vqlab")]
    settings = dict.fromkeys(steady_options(row), "")
    for name, value in {**row.settings, **row.options}.items():
        counts = name.rpartition(".")[2] in STEP_COUNTS or "schedule" in name
        if not counts and not name.startswith(WITHOUT_TIME):
            number = parsed(value)
            settings[name] = "number" if isinstance(number, float) and number else as_text(value)
    text = json.dumps([machine, sorted(settings.items())])
    return f"{row.settings['model']} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def steady_options(row: Row) -> list[str]:
    """Return options that start the discriminator with the first step, if ``row`` trains until it starts."""
    steps = steps_of(row, epoch=10**6)
    starts = [name for name, value in row.settings.items() if name.endswith("disc_start") and int(value) < steps]
    both = [name for start in starts for name in (start, start.replace("start", "warmup"))]
    return [f"--{name}=1" for name in both if name in row.settings]


def measure_row(row: Row, runner: Runner) -> Times:
    """Return the times of a run with the options of ``row``, which is ended when it has measured them."""
    with tempfile.TemporaryDirectory(prefix="vqlab-") as folder:
        file, output = Path(folder, "times.json"), Path(folder, "output")
        arguments = [*runner.experiment.fit(row), *steady_options(row), f"--runs={folder}", "--wandb.mode=disabled"]
        started = time.time()
        with open(output, "w") as log, runner.child(arguments, log, {TIMES_FILE: str(file)}) as child:
            while child.poll() is None and not file.exists():
                time.sleep(0.05)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if not file.exists():
            raise UserError(f"row {row.name}: {reason_of(child.returncode, output, 0)}")
        found = json.loads(file.read_bytes())
        return Times(**(found | {"start": found["start"] - started}))
