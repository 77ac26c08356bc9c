"""Run the rows of an experiment, each in its own process; skip rows that are finished or run elsewhere."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple

from vqlab.atomic_io import disk_errors, no_link, write_atomic
from vqlab.errors import UserError
from vqlab.experiments.experiment import Experiment, Row
from vqlab.experiments.run_state import (
    FAILED,
    LAST,
    LOCK_FD,
    OUTPUT,
    ROW,
    State,
    clear_run,
    row_lock,
    settings_of,
    state_of,
)
from vqlab.experiments.runs import read_run
from vqlab.experiments.settings import HARMLESS, equal

VQLAB = (sys.executable, "-m", "vqlab")
PATIENCE = 60.0  # seconds in which a child must end its batch and write last.ckpt after SIGTERM


class Status(StrEnum):
    """How a row ended."""

    FINISHED = "finished"
    FAILED = "failed"
    ELSEWHERE = "runs elsewhere"
    STOPPED = "stopped"


class Outcome(NamedTuple):
    """How a row ended, and the reason in one line if it failed."""

    status: Status
    error: str = ""


class Stopping(Exception):
    """Raised in the place of a call after :meth:`Runner.stop`."""


class Runner:
    """Run rows, each on its part of the GPUs and cores; several threads and machines may do so at the same time."""

    def __init__(self, experiment: Experiment, test: bool, jobs: int = 1, command: Sequence[str] = VQLAB) -> None:
        self.experiment, self.test, self.command = experiment, test, command
        self.resources = split_resources(jobs)
        self.children: set[subprocess.Popen] = set()
        self.stopping = threading.Event()
        self.guard = threading.Lock()

    def commands(self, row: Row) -> list[list[str]]:
        """Return the remaining commands of ``row``, as arguments of ``vqlab``."""
        folder, found = self.experiment.folder(row), []
        state = state_of(folder)
        if state is not State.FINISHED:
            resume = [f"--ckpt_path={folder / LAST}"] if state is State.INTERRUPTED else []
            found.append([*self.experiment.fit(row), *resume])
        if self.test and not read_run(folder).tested:
            best = folder / "checkpoints" / "best.ckpt"
            known = best.exists() or state is not State.FINISHED
            # With the experiment's settings, because the config in a checkpoint may name classes of vqlab only.
            found.append(["test", *self.experiment.fit(row)[1:], f"--ckpt_path={best if known else folder / LAST}"])
        return found

    def run(self, row: Row) -> Outcome:
        """Run the remaining commands of ``row``, unless another process does, and print how it ended."""
        if self.stopping.is_set():
            return Outcome(Status.STOPPED)
        started = time.monotonic()
        print(f"{row.name}: started", flush=True)
        folder = self.experiment.folder(row)
        with row_lock(folder) as lock:
            try:
                outcome = Outcome(Status.ELSEWHERE) if lock is None else self._run_locked(row, folder, lock)
            except Stopping:
                outcome = Outcome(Status.STOPPED)
        ending, duration = ": ".join(filter(None, outcome)), timedelta(seconds=round(time.monotonic() - started))
        print(f"{row.name}: {ending} ({duration})", flush=True)
        return outcome

    def _run_locked(self, row: Row, folder: Path, lock: int) -> Outcome:
        if state_of(folder) is State.UNSAVED:
            if not (folder / OUTPUT).exists():
                return Outcome(Status.FAILED, f"{folder} holds a run without a checkpoint: move it away")
            clear_run(folder)
        (folder / FAILED).unlink(missing_ok=True)
        with write_atomic(folder / ROW) as file:
            file.write(json.dumps(self.experiment.place(row)).encode())
        while commands := self.commands(row):
            error = self._call(commands[0], folder, lock)
            if self.stopping.is_set():
                return Outcome(Status.STOPPED)
            if error is not None:
                record = {"time": round(time.time(), 1), "error": error, "command": shlex.join(commands[0])}
                with write_atomic(folder / FAILED) as file:
                    file.write(json.dumps(record).encode())
                return Outcome(Status.FAILED, error)
        return Outcome(Status.FINISHED)

    def stop(self) -> None:
        """Send SIGTERM to all children, which save and end; after PATIENCE, kill them."""
        with self.guard:
            self.stopping.set()
            children = list(self.children)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
            deadline = time.monotonic() + PATIENCE
            while any(child.poll() is None for child in children) and time.monotonic() < deadline:
                time.sleep(0.05)

    @contextmanager
    def child(
        self, arguments: list[str], log: IO, variables: dict[str, str], descriptors: Sequence[int] = ()
    ) -> Iterator[subprocess.Popen]:
        """Start ``vqlab`` with ``arguments`` on a free part of the machine; raises Stopping after :meth:`stop`."""
        with self.guard:
            if self.stopping.is_set():
                raise Stopping
            resources = self.resources.pop(0)
            child = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"WANDB_RUN_GROUP": self.experiment.path.stem, **os.environ, **resources, **variables},
                start_new_session=True,  # Ctrl-C reaches the sweep only, which passes it on
                pass_fds=descriptors,
            )
            self.children.add(child)
        try:
            yield child
        finally:
            with self.guard:
                self.children.remove(child)
                self.resources.append(resources)

    def _call(self, arguments: list[str], folder: Path, lock: int) -> str | None:
        """Run ``vqlab`` with ``arguments``; return the reason in one line if it failed."""
        output = folder / OUTPUT
        with disk_errors(output), open(output, "a", opener=no_link) as log:
            print(f"$ vqlab {shlex.join(arguments)}", file=log, flush=True)
            start = log.tell()
            with self.child(arguments, log, {LOCK_FD: str(lock)}, (lock,)) as child:
                child.wait()
        done = state_of(folder) is State.FINISHED if arguments[0] == "fit" else read_run(folder).tested
        return None if done else reason_of(child.returncode, output, start)


def reason_of(status: int, output: Path, start: int) -> str:
    """Return in one line why a command ended with ``status``, from its output after position ``start``."""
    text = output.read_bytes()[start:].decode(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it printed nothing"]
    if ours := [line for line in lines if line.startswith("vqlab: error: ")]:
        return ours[-1].removeprefix("vqlab: error: ")
    if status < 0:
        return f"ended by {signal.Signals(-status).name}: {lines[-1][:300]}"
    return ("" if status else "stopped before it was finished: ") + lines[-1][:300]


def refuse_conflicts(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Raise UserError if a row's folder holds a run that was started with other settings."""
    for row in rows:
        folder = experiment.folder(row)
        old = settings_of(folder) if state_of(folder) in (State.INTERRUPTED, State.FINISHED) else {}
        for name, value in row.settings.items():
            if name in old and not name.startswith(HARMLESS) and not equal(value, old[name]):
                what = f"{folder} was started with {name}={old[name]}, and row {row.name} has {value}"
                raise UserError(f"{what}: choose another folder with --runs, or move the run away")


def split_resources(jobs: int) -> list[dict[str, str]]:
    """Return the environment variables of ``jobs`` simultaneous rows: their GPUs, shared if too few, and cores."""
    if jobs == 1:
        return [{}]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    gpus = visible_gpus()
    each = max(1, len(gpus) // jobs)
    own = [gpus[i * each % len(gpus) :][:each] if gpus else [] for i in range(jobs)]
    return [{"OMP_NUM_THREADS": threads} | ({"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {}) for mine in own]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip()]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
