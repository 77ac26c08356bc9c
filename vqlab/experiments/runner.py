"""Runs the rows of an experiment, each in its own process; skips what is finished or runs elsewhere."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vqlab.atomic_io import disk_errors, no_link, write_atomic
from vqlab.errors import UserError
from vqlab.experiments.experiment import Experiment, Row
from vqlab.experiments.row_lock import INHERITED, row_lock
from vqlab.experiments.run_state import FAILED, LAST, OUTPUT, State, begin_again, settings_of, state_of
from vqlab.experiments.runs import read_run
from vqlab.experiments.settings import HARMLESS, equal
from vqlab.experiments.text import clock

VQLAB = (sys.executable, "-m", "vqlab")
PATIENCE = 60.0  # seconds that a child has to end its batch and to write last.ckpt after SIGTERM


class Status(StrEnum):
    """How a row ended."""

    FINISHED = "finished"
    FAILED = "failed"
    ELSEWHERE = "runs elsewhere"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """How a row ended, and the reason in one line if it failed."""

    status: Status
    error: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.error}" if self.error else str(self.status)


class Runner:
    """Runs rows; may be killed at any moment, and used by several threads, processes and machines.

    Args:
        experiment: The experiment of the rows.
        test: Whether a row is tested on its best checkpoint after the training.
        jobs: How many rows run at once, each on its part of the GPUs and cores.
        command: How ``vqlab`` is called.
    """

    def __init__(self, experiment: Experiment, test: bool, jobs: int = 1, command: Sequence[str] = VQLAB) -> None:
        self.experiment, self.test, self.jobs, self.command = experiment, test, jobs, list(command)
        self.resources = split_resources(jobs)
        self.children: dict[str, subprocess.Popen] = {}  # by the row's name
        self.stopping = threading.Event()
        self.guard = threading.Lock()

    def commands(self, row: Row) -> list[list[str]]:
        """Return what is left to do for ``row``, as arguments of ``vqlab``."""
        folder, found = self.experiment.folder(row), []
        state = state_of(folder)
        if state is not State.FINISHED:
            resume = [f"--ckpt_path={folder / LAST}"] if state is State.INTERRUPTED else []
            found.append([*self.experiment.fit(row), *resume])
        if self.test and not read_run(folder).tested:
            best = folder / "checkpoints" / "best.ckpt"
            known = best.exists() or state is not State.FINISHED
            # With the experiment's settings, which may name classes that a checkpoint's config may not.
            found.append(["test", *self.experiment.fit(row)[1:], f"--ckpt_path={best if known else folder / LAST}"])
        return found

    def run(self, row: Row) -> Outcome:
        """Do what is left to do for ``row``, unless another process does, and print how it ended."""
        if self.stopping.is_set():
            return Outcome(Status.STOPPED)
        started = time.monotonic()
        print(f"{row.name}: started", flush=True)
        folder = self.experiment.folder(row)
        with row_lock(folder) as lock:
            outcome = Outcome(Status.ELSEWHERE) if lock is None else self._run(row, folder, lock)
        print(f"{row.name}: {outcome} ({clock(time.monotonic() - started)})", flush=True)
        return outcome

    def _run(self, row: Row, folder: Path, lock: int) -> Outcome:
        if state_of(folder) is State.UNSAVED:
            if not (folder / OUTPUT).exists():
                return Outcome(Status.FAILED, f"{folder} holds a run without a checkpoint: move it away")
            begin_again(folder)
        (folder / FAILED).unlink(missing_ok=True)
        while commands := self.commands(row):
            error = self._call(commands[0], row, lock)
            if self.stopping.is_set():
                return Outcome(Status.STOPPED)
            if error is not None:
                record = {"time": round(time.time(), 1), "error": error, "command": shlex.join(commands[0])}
                with write_atomic(folder / FAILED) as file:
                    file.write(json.dumps(record).encode())
                return Outcome(Status.FAILED, error)
        return Outcome(Status.FINISHED)

    def stop(self) -> None:
        """Let all children save and end; at a second Ctrl-C, or after PATIENCE, kill them."""
        with self.guard:
            self.stopping.set()
            children = list(self.children.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
            deadline = time.monotonic() + PATIENCE
            with suppress(KeyboardInterrupt):
                while any(child.poll() is None for child in children) and time.monotonic() < deadline:
                    time.sleep(0.05)

    def _call(self, arguments: list[str], row: Row, lock: int) -> str | None:
        """Run ``vqlab`` with ``arguments``; return the reason in one line if it failed."""
        folder = self.experiment.folder(row)
        output = folder / OUTPUT
        with disk_errors(output), open(output, "a", opener=no_link) as log:
            print(f"$ vqlab {shlex.join(arguments)}", file=log, flush=True)
            start = log.tell()
            with self.guard:
                if self.stopping.is_set():
                    return None
                resources = self.resources.pop(0)
                child = subprocess.Popen(
                    [*self.command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={"WANDB_RUN_GROUP": self.experiment.path.stem, **os.environ, **resources, INHERITED: str(lock)},
                    start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on
                    pass_fds=(lock,),
                )
                self.children[row.name] = child
            child.wait()
            with self.guard:
                del self.children[row.name]
                self.resources.append(resources)
        done = state_of(folder) is State.FINISHED if arguments[0] == "fit" else read_run(folder).tested
        return None if done else reason_of(child.returncode, output, start)


def reason_of(status: int, output: Path, start: int) -> str:
    """Return in one line why a command ended with ``status``, from what it printed after position ``start``."""
    text = output.read_bytes()[start:].decode(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it printed nothing"]
    if ours := [line for line in lines if line.startswith("vqlab: error: ")]:
        return ours[-1].removeprefix("vqlab: error: ")
    if status < 0:
        return f"ended by {signal.Signals(-status).name}: {lines[-1][:300]}"
    return lines[-1][:300] if status else f"stopped before it was finished: {lines[-1][:300]}"


def refuse_conflicts(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Raise UserError if a row's folder holds a run that was started with other settings."""
    for row in rows:
        folder = experiment.folder(row)
        begun = settings_of(folder) if state_of(folder) in (State.INTERRUPTED, State.FINISHED) else {}
        for name, value in row.settings.items():
            if name in begun and not name.startswith(HARMLESS) and not equal(value, begun[name]):
                what = f"{folder} was begun with {name}={begun[name]}, and row {row.name} has {value}"
                raise UserError(f"{what}: choose another folder with --runs, or move the run away")


def split_resources(jobs: int) -> list[dict[str, str]]:
    """Return for each of ``jobs`` rows that run at once the environment with its GPUs and cores.

    More rows than GPUs share them. A single row has everything. ``OMP_NUM_THREADS`` is kept where it is set.
    """
    if jobs == 1:
        return [{}]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    gpus = visible_gpus()
    each = max(1, len(gpus) // jobs)
    found = [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]
    for place, resources in enumerate(found if gpus else []):
        first = place * each % len(gpus)
        resources["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + each])
    return found


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without importing torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip()]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
