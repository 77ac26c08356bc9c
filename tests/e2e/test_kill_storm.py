"""Signals at random moments lose nothing: more of them with VQLAB_KILLS=50, others with VQLAB_KILL_SEED=1."""

import csv
import io
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

import vqlab
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import STOPS, TRAINER, assert_same_runs, fit, reached, write_experiment
from tests.helpers import warm_vqlab
from tests.helpers.forks import Forked, fork, status_of, stop
from vqlab import atomic_io
from vqlab.cli.check_options import complaints
from vqlab.cli.main import main
from vqlab.cli.report import report
from vqlab.cli.sweep import sweep

pytestmark = pytest.mark.slow
CASES = range(int(os.environ.get("VQLAB_KILLS", "5")) // 5)  # of each kind
SEED = os.environ.get("VQLAB_KILL_SEED", "0")  # another seed kills other systems, at other moments
SPAN = 2.0  # seconds within which a training is killed: some hundred steps, and as many checkpoints
END = "--trainer.max_steps=1000000"
ROWS = [{"name": "vector"}, {"name": "fsq", "model.quantizer": "FSQ", "model.quantizer.levels": [5, 5]}]
NAMES = [f"{row['name']}_seed{seed}" for row in ROWS for seed in (0, 1)]


def begin(kind, number):
    """Return what draws the moments, the options that train a system, and its folder; all systems have their turn."""
    systems = random.Random(f"{kind} {SEED}").sample(list(SYSTEMS), len(SYSTEMS))
    system = systems[number % len(systems)]
    prepare(system)
    options = ["fit", *SYSTEMS[system], *TRAINER, *OFTEN, "--trainer.limit_val_batches=2", "--ema.decay=0.9"]
    return random.Random(f"{kind} {number} {SEED}"), options, Path("runs") / system.lower() / "killed"


def kill(process):
    """SIGKILL a process that has not ended by itself."""
    assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


class Dying(io.FileIO):
    """A file that kills its writer when ``limit`` bytes of it are on disk."""

    limit = 0

    def write(self, data):
        data, room = memoryview(data).cast("B"), self.limit - self.tell()
        if len(data) >= room:
            super().write(data[:room])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)


def dies_writing(suffix, spared, fraction, *args):
    """Run ``vqlab``, which dies when a fraction of a file of that suffix is written, the first ``spared`` being whole.

    The fraction is of the file that would be replaced.
    """
    opened = []

    def open_dying(partial, mode, **options):
        old = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
        opened.append(old.suffix == suffix)
        if not opened[-1] or sum(opened) <= spared:
            return open(partial, mode, **options)
        file = Dying(partial, mode)
        file.limit = int(fraction * (old.stat().st_size if old.exists() else 10_000))
        return file

    process = Forked(*args, before=lambda: setattr(atomic_io, "open", open_dying))
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def state(path):
    """Return what changes when a file is replaced."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def wait_for(condition, process):
    """Wait until ``condition()`` holds while the process runs."""
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() - begun < 120
        time.sleep(0.005)


def assert_whole(folder):
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
        elif path.suffix in (".json", ".jsonl"):
            assert all(map(json.loads, path.read_text().splitlines())), path
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        else:
            assert path.name in (".lock", "sweep.log"), path


def files(folder):
    """Return the files of a folder, without those that a kill left unfinished."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".partial"]


def partial(folder):
    return list(folder.rglob(".*.partial"))


def assert_ends_as_if_nothing_had_happened(options, killed):
    """Let a killed run go on for a few steps, and compare it with one that was let alone."""
    last, whole = killed / "checkpoints/last.ckpt", killed.with_name("whole")
    end = f"--trainer.max_steps={reached(last) + 9}"
    main([*options, "--name=whole", end])
    main(["fit", f"--ckpt_path={last}", end])
    assert_same_runs(killed, whole)
    assert_whole(killed)
    assert not partial(killed), "what a killed run was writing is still there"
    assert [path.relative_to(killed) for path in files(killed)] == [path.relative_to(whole) for path in files(whole)]


@pytest.mark.parametrize("number", CASES)
def test_a_training_is_killed_and_resumed_again_and_again(number):
    draw, options, killed = begin("training", number)
    last, log, call = killed / "checkpoints/last.ckpt", killed / "metrics.csv", [*options, "--name=killed"]
    for _ in range(3):
        mark = log if last.exists() else last  # a resumed run cuts the log before it goes on
        before = state(mark)
        process = Forked(*call, END)
        wait_for(lambda mark=mark, before=before: state(mark) != before, process)
        time.sleep(draw.uniform(0, SPAN))
        reading = Forked("report", "runs", "-o", "log")  # of a run that dies while it is read
        time.sleep(draw.uniform(0, 0.3))
        kill(process)
        output, _ = reading.communicate()
        assert reading.returncode == 0, output
        assert_whole(killed)
        call = ["fit", f"--ckpt_path={last}"]
    assert_ends_as_if_nothing_had_happened(options, killed)


@pytest.mark.parametrize("number", CASES)
def test_a_training_is_killed_between_two_bytes_of_a_checkpoint(number):
    draw, options, killed = begin("write", number)
    dies_writing(".ckpt", draw.randint(1, 8), draw.random(), *options, "--name=killed", "--trainer.max_steps=1000")
    assert len(partial(killed)) == 1
    assert_whole(killed)
    assert_ends_as_if_nothing_had_happened(options, killed)


@pytest.mark.parametrize("number", CASES)
def test_a_training_gets_a_signal_and_is_resumed(number):
    draw, options, stopped = begin("signal", number)
    sent, seconds = draw.choice([signal.SIGINT, signal.SIGTERM]), draw.uniform(0, SPAN)
    mark = stopped / draw.choice([".lock", "config.yaml", "checkpoints/last.ckpt"])  # before, at and after the start
    process = Forked(*options, "--name=killed", END)
    wait_for(mark.exists, process)
    time.sleep(seconds)
    process.send_signal(sent)
    output, _ = process.communicate()
    assert process.returncode == 128 + sent, output
    assert "Traceback" not in output
    if stopped.exists():
        last = stopped / "checkpoints/last.ckpt"
        assert f"stopped at step {reached(last)}: resume with vqlab fit --ckpt_path {last}" in output
        assert_ends_as_if_nothing_had_happened(options, stopped)


def test_a_training_is_killed_in_a_validation_that_falls_on_a_checkpoint():
    options, killed = ["fit", *SYSTEMS["VQGAN"], *TRAINER, *OFTEN], Path("runs/vqgan/killed")
    process = Forked(*options, "--name=killed", f"--trainer.callbacks+={STOPS}.KillInValidation")
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert reached(killed / "checkpoints/last.ckpt") == 16, "one of step 20 would let the validation be skipped"
    call = ["fit", f"--config={killed}/config.yaml", f"--ckpt_path={killed}/checkpoints/last.ckpt"]
    main([*call, "--trainer.callbacks=null", "--trainer.max_steps=30"])
    main([*options, "--name=whole", "--trainer.max_steps=30"])
    assert_same_runs(killed, killed.with_name("whole"))


@pytest.mark.parametrize("number", CASES)
def test_a_sweep_is_killed_and_started_again_and_again(number):
    draw, runs = random.Random(f"sweep {number} {SEED}"), Path("runs/vqvae")
    write_experiment(*ROWS)
    call = ["x.yaml", "--jobs=2", "--wandb.mode=disabled", *TRAINER]
    done = {}

    def start(command, *options):
        return fork(sweep, [*call, *options], command, complaints, output=Path("output.txt"))

    with warm_vqlab.serve() as command:
        begun = time.monotonic()
        assert status_of(start(command, "--runs=calm")) == 0, Path("output.txt").read_text()
        whole = time.monotonic() - begun
        for _ in range(3):
            process = start(command)
            time.sleep(draw.uniform(0, whole / 4))
            children = stop(process)
            victims = children if draw.random() < 0.5 else []  # else its rows go on alone
            for victim in [*victims, process]:
                os.kill(victim, signal.SIGKILL)
            assert status_of(process) == signal.SIGKILL, "the test was too slow to kill it"
            for folder in runs.glob("*"):
                assert_whole(folder)
                if (folder / "finished.json").exists():
                    done |= {path: state(path) for path in files(folder) if path.name != "sweep.log"}
        assert status_of(start(command)) == 0, Path("output.txt").read_text()
    assert done == {path: state(path) for path in done}, "a row that was finished was run again"
    for name in NAMES:
        assert_same_runs(runs / name, Path("calm/vqvae") / name)
        assert not partial(runs / name)


@pytest.mark.parametrize("number", CASES)
def test_a_report_is_killed_while_it_takes_the_place_of_an_older_one(number):
    draw, log = random.Random(f"report {number} {SEED}"), Path("log")
    for name in ("a", "b"):
        fit(f"--name={name}", "--trainer.max_steps=10", "--trainer.val_check_interval=5", *OFTEN[1:])
    calls = {}
    for style, suffix in (("html", ".html"), ("md", ".svg")):
        calls[suffix] = ["runs", f"--format={style}"]
        for folder, title in (("old", "old"), ("log", "old"), ("new", "new")):
            report([*calls[suffix], f"--title={title}", "-o", folder])
    old, new = contents(Path("old")), contents(Path("new"))
    for _ in range(10):
        suffix = draw.choice([*calls])
        dies_writing(suffix, 0, draw.random(), "report", *calls[suffix], "--title=new", "-o", "log")
        assert partial(log)
        now = contents(log)
        assert now.keys() == new.keys()
        assert all(now[name] in (old[name], new[name]) for name in now)
    for call in calls.values():
        report([*call, "--title=new", "-o", "log"])
    assert not partial(log)
    assert contents(log) == new


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files(folder)}
