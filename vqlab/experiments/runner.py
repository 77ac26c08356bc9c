"""Runs the rows of an experiment, each in a process of its own, and leaves alone what is done or runs elsewhere."""

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
from vqlab.experiments.metrics_log import log_or_empty
from vqlab.experiments.resources import shares
from vqlab.experiments.row_lock import INHERITED, row_lock
from vqlab.experiments.run_files import open_file
from vqlab.experiments.run_state import FAILED, LAST, OUTPUT, State, begin_again, settings_of, state_of
from vqlab.experiments.settings import HARMLESS, equal
from vqlab.experiments.status import Board

VQLAB = (sys.executable, "-m", "vqlab")
TAIL = 20_000  # bytes at the end of the output that may say why a row failed
PATIENCE = 60.0  # seconds that a child has to end its batch and to write last.ckpt after SIGTERM


class Status(StrEnum):
    """How a row ended."""

    FINISHED = "finished"
    FAILED = "failed"
    ELSEWHERE = "runs elsewhere"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """How a row ended, and in one line why, if it failed."""

    status: Status
    error: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.error}" if self.error else str(self.status)


class Runner:
    """Runs rows; safe to be killed at any moment, and to be used by several threads, processes and machines.

    Args:
        experiment: Where the rows come from.
        test: Whether a row is tested, on its best checkpoint, when it is trained.
        jobs: How many rows run at once: each gets its share of GPUs and cores.
        command: How ``vqlab`` is called.
    """

    def __init__(self, experiment: Experiment, test: bool, jobs: int = 1, command: Sequence[str] = VQLAB) -> None:
        self.experiment, self.test, self.jobs, self.command = experiment, test, jobs, list(command)
        self.board = Board(experiment)
        self.places = shares(jobs)
        self.children: dict[str, subprocess.Popen] = {}  # by the row's name
        self.stopping = threading.Event()
        self.guard = threading.Lock()

    def is_done(self, row: Row) -> bool:
        """Whether nothing is left to do for ``row``."""
        return not self.commands(row)

    def commands(self, row: Row) -> list[list[str]]:
        """Return what is left to do for ``row``, as arguments of ``vqlab``."""
        folder, found = self.experiment.folder(row), []
        state = state_of(folder)
        if state is not State.FINISHED:
            resume = [f"--ckpt_path={folder / LAST}"] if state is State.INTERRUPTED else []
            found.append([*self.experiment.fit(row), *resume])
        if self.test and not is_tested(folder):
            best = folder / "checkpoints" / "best.ckpt"
            known = best.exists() or state is not State.FINISHED
            # With the experiment's own settings, which may name classes that a checkpoint's config may not.
            found.append(["test", *self.experiment.fit(row)[1:], f"--ckpt_path={best if known else folder / LAST}"])
        return found

    def run(self, row: Row) -> Outcome:
        """Do what is left to do for ``row``, unless another process does; the board shows how it stands."""
        if self.stopping.is_set():
            return Outcome(Status.STOPPED)
        self.board.begin(row)
        outcome = Outcome(Status.FAILED, "the sweep itself failed")
        try:
            outcome = self._run(row)
        finally:
            self.board.end(row, str(outcome))
        return outcome

    def _run(self, row: Row) -> Outcome:
        folder = self.experiment.folder(row)
        with row_lock(folder) as lock:
            if lock is None:
                return Outcome(Status.ELSEWHERE)
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
        """Let all children save and end; at a second Ctrl-C, or where it takes too long, end them at once."""
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
        """Run ``vqlab`` with ``arguments``; return in one line why it did not do what it should, if so."""
        folder = self.experiment.folder(row)
        output = folder / OUTPUT
        with disk_errors(output), open(output, "a", opener=no_link) as log:
            print(f"$ vqlab {shlex.join(arguments)}", file=log, flush=True)
            start = log.tell()
            with self.guard:
                if self.stopping.is_set():
                    return None
                place = self.places.pop(0)
                child = subprocess.Popen(
                    [*self.command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={"WANDB_RUN_GROUP": self.experiment.path.stem, **os.environ, **place, INHERITED: str(lock)},
                    start_new_session=True,  # Ctrl-C is the sweep's to pass on
                    pass_fds=(lock,),
                )
                self.children[row.name] = child
            child.wait()
            with self.guard:
                del self.children[row.name]
                self.places.append(place)
        done = state_of(folder) is State.FINISHED if arguments[0] == "fit" else is_tested(folder)
        return None if done else explain(child.returncode, output, start)


def is_tested(folder: Path) -> bool:
    """Whether ``vqlab test`` has written its figures."""
    return bool(log_or_empty(folder / "test.csv").times)


def conflict(row: Row, folder: Path) -> str | None:
    """Return how the run in ``folder`` was begun differently from what ``row`` says, if it was."""
    begun = settings_of(folder)
    for name, value in row.settings.items():
        if name in begun and not name.startswith(HARMLESS) and not equal(value, begun[name]):
            return f"{folder} was begun with {name}={begun[name]}, and row {row.name} says {value}"
    return None


def explain(status: int, output: Path, start: int) -> str:
    """Return in one line why a command ended with ``status``, from what it printed after position ``start``."""
    with open_file(output.parent, output.name) as log:
        log.seek(max(start, log.seek(0, os.SEEK_END) - TAIL))
        text = log.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("vqlab: error: ")]
    if ours:
        return ours[-1].removeprefix("vqlab: error: ")
    last = lines[-1][:300] if lines else "it printed nothing"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}: {last}"
    return last if status else f"stopped before it was finished: {last}"


def refuse_conflicts(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Raise UserError if a row's folder holds a run of other settings."""
    found = []
    for row in rows:
        folder = experiment.folder(row)
        if state_of(folder) in (State.INTERRUPTED, State.FINISHED) and (line := conflict(row, folder)):
            found.append(line)
    if found:
        more = f" (and {len(found) - 1} more rows)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}: choose another folder with --runs, or move the run away")
