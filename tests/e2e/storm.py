"""SIGKILL, SIGINT and SIGTERM at random moments, and what must hold of the files after each."""

import csv
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from PIL import Image

import vqlab
from tests.e2e.systems import SYSTEMS
from tests.e2e.tiny import command
from tests.helpers.forks import fork, status_of
from vqlab.cli.main import main

KINDS = ("training", "write", "sweep", "report", "signal")
KILLS = int(os.environ.get("VQLAB_KILLS", "5"))  # of all kinds together
SEED = os.environ.get("VQLAB_KILL_SEED", "0")  # another seed kills other systems, at other moments
DIES_WRITING = '''
import io, os, signal, sys
from pathlib import Path
from vqlab import atomic_io as whole_files
from vqlab.cli.main import main

suffix, spared, share = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
opened = []

class Dying(io.FileIO):
    """A file that kills its writer when ``limit`` bytes of it are on disk."""

    def write(self, data):
        data, room = memoryview(data).cast("B"), self.limit - self.tell()
        if len(data) >= room:
            super().write(data[:room])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)

def open_dying(partial, mode, **options):
    old = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    opened.append(old.suffix == suffix)
    if not opened[-1] or sum(opened) <= spared:
        return open(partial, mode, **options)
    file = Dying(partial, mode)
    file.limit = int(share * (old.stat().st_size if old.exists() else 10_000))
    return file

whole_files.open = open_dying
main(sys.argv[4:])
'''


def shares(kind: str, most: int) -> list[tuple[int, int]]:
    """Return the cases of a kind as (number, kills), of at most ``most`` kills each."""
    kills = len(range(KINDS.index(kind), KILLS, len(KINDS)))
    return [(number, min(most, kills - begun)) for number, begun in enumerate(range(0, kills, most))]


def draws(kind: str, number: int) -> random.Random:
    """Return what draws the moments of a case."""
    return random.Random(f"{kind} {number} {SEED}")


def system_of(kind: str, number: int) -> str:
    """Return which system a case is about: all have their turn, in an order that the seed decides."""
    return random.Random(f"{kind} {SEED}").sample(list(SYSTEMS), len(SYSTEMS))[number % len(SYSTEMS)]


def kill(process: subprocess.Popen) -> None:
    """SIGKILL a process that has not ended by itself."""
    assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def dies_writing(suffix: str, spared: int, share: float, *args: str) -> None:
    """Run ``vqlab``; it must die when ``share`` of a file of that suffix is written, the first ``spared`` being whole.

    The share is of the file that would be replaced.
    """
    call = [sys.executable, "-c", DIES_WRITING, suffix, str(spared), str(share), *args]
    process = subprocess.run(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert process.returncode == -signal.SIGKILL, process.stdout


def changed(path: Path, process: subprocess.Popen) -> None:
    """Wait until ``process`` has written ``path`` anew."""
    before, begun = state(path), time.monotonic()
    while state(path) == before:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() - begun < 120
        time.sleep(0.005)


def state(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def kill_in_training(draw: random.Random, folder: Path, span: float, *args: str) -> None:
    """Run ``vqlab`` and kill it within ``span`` seconds of its first checkpoint, or of its start if it is resumed.

    A report that is being written at that moment must end well.
    """
    last = folder / "checkpoints" / "last.ckpt"
    mark = folder / "metrics.csv" if last.exists() else last  # a resumed run cuts the log before it goes on
    process = command(*args, "--trainer.max_steps=1000000")
    changed(mark, process)
    time.sleep(draw.uniform(0, span))
    report = command("report", "runs", "-o", "log")
    time.sleep(draw.uniform(0, 0.3))
    kill(process)
    output, _ = report.communicate(timeout=60)
    assert report.returncode == 0, output


def signal_in_training(number: int, mark: Path, seconds: float, *args: str) -> int:
    """Run ``vqlab`` in a fork, send it a signal some seconds after ``mark`` exists, and return its exit status."""
    process = fork(exit_with_status, [*args, "--trainer.max_steps=1000000"], output=Path("output.txt"))
    begun = time.monotonic()
    while not mark.exists():
        assert time.monotonic() - begun < 120
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(process, number)
    return os.waitstatus_to_exitcode(status_of(process))


def exit_with_status(args: list[str]) -> None:
    """Run ``vqlab``, and end this process as the command would."""
    sys.stderr = sys.stdout
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
    try:
        main(args)
    except SystemExit as stopped:
        sys.stdout.flush()
        os._exit(stopped.code)


def kill_at_a_time(draw: random.Random, span: float, *args: str) -> None:
    """Run ``vqlab`` and kill it within ``span`` seconds of its start, until it does not end before."""
    while True:
        process = command(*args)
        time.sleep(draw.uniform(0, span))
        if process.poll() is None:
            return kill(process)
        process.communicate()


def assert_whole(folder: Path) -> None:
    """Check that each file of a run can be read to its end, whatever was killed."""
    for path in files(folder):
        if path.suffix == ".ckpt":
            vqlab.load(path)
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())["model"], path
        elif path.suffix == ".csv":
            text = path.read_text()
            header, *rows = csv.reader(io.StringIO(text))
            assert text.endswith("\n"), path
            assert all(len(row) == len(header) for row in rows), path
            assert path.parent != folder or [float(cell) for row in rows for cell in row if cell], path
        elif path.suffix in (".json", ".jsonl"):
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        else:
            assert path.name in (".lock", "sweep.log"), path


def files(folder: Path) -> Iterator[Path]:
    """Return the files of a folder, without those that a kill left unfinished."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not is_torn(path))


def torn(folder: Path) -> list[Path]:
    """Return the files that a kill left unfinished."""
    return [path for path in sorted(folder.rglob("*")) if is_torn(path)]


def is_torn(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".partial"
