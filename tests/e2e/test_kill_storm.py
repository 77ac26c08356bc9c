"""Fifty signals at random moments lose nothing: VQLAB_KILLS=50, and others with VQLAB_KILL_SEED=1."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e import storm
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import TRAINER, assert_same_runs, command, fit, reached, write_experiment
from tests.helpers import warm_vqlab
from tests.helpers.forks import fork, status_of, stop
from vqlab.cli.check_options import complaints
from vqlab.cli.main import main
from vqlab.cli.report import report
from vqlab.cli.sweep import sweep

SPAN = 2.0  # seconds within which a training is killed: some hundred steps, and as many checkpoints
ROWS = [{"name": "vector"}, {"name": "fsq", "model.quantizer": "FSQ", "model.quantizer.levels": [5, 5]}]
NAMES = [f"{row['name']}_seed{seed}" for row in ROWS for seed in (0, 1)]


def begin(kind, number):
    """Return what draws the moments, the options that train a system, and its folder."""
    system = storm.system_of(kind, number)
    prepare(system)
    options = ["fit", *SYSTEMS[system], *TRAINER, *OFTEN, "--trainer.limit_val_batches=2", "--ema.decay=0.9"]
    return storm.draws(kind, number), options, Path("runs") / system.lower() / "killed"


def assert_ends_as_if_nothing_had_happened(options, killed):
    """Let a killed run go on for a few steps, and compare it with one that was let alone."""
    last = killed / "checkpoints/last.ckpt"
    end = f"--trainer.max_steps={reached(last) + 9}"
    main([*options, "--name=whole", end])
    main(["fit", f"--ckpt_path={last}", end])
    assert_same_runs(killed, killed.with_name("whole"))
    storm.assert_whole(killed)
    assert not storm.torn(killed), "what a killed run was writing is still there"
    assert [*map(str, storm.files(killed))] == [
        str(path).replace("whole", "killed") for path in storm.files(killed.with_name("whole"))
    ]


@pytest.mark.parametrize(("number", "kills"), storm.shares("training", most=3))
def test_a_training_is_killed_and_resumed_again_and_again(number, kills):
    draw, options, killed = begin("training", number)
    call = [*options, "--name=killed"]
    for _ in range(kills):
        storm.kill_in_training(draw, killed, SPAN, *call)
        storm.assert_whole(killed)
        call = ["fit", f"--ckpt_path={killed}/checkpoints/last.ckpt"]
    assert_ends_as_if_nothing_had_happened(options, killed)


@pytest.mark.parametrize(("number", "kills"), storm.shares("write", most=1))
def test_a_training_is_killed_between_two_bytes_of_a_checkpoint(number, kills):
    draw, options, killed = begin("write", number)
    spared = draw.randint(1, 8)
    storm.dies_writing(".ckpt", spared, draw.random(), *options, "--name=killed", "--trainer.max_steps=1000")
    assert len(storm.torn(killed)) == 1
    storm.assert_whole(killed)
    assert_ends_as_if_nothing_had_happened(options, killed)


@pytest.mark.parametrize(("number", "signals"), storm.shares("signal", most=1))
def test_a_training_gets_a_signal_and_is_resumed(number, signals):
    draw, options, stopped = begin("signal", number)
    sent, seconds = draw.choice([signal.SIGINT, signal.SIGTERM]), draw.uniform(0, SPAN)
    mark = stopped / draw.choice([".lock", "config.yaml", "checkpoints/last.ckpt"])  # before, at and after the start
    status = storm.signal_in_training(sent, mark, seconds, *options, "--name=killed")
    output = Path("output.txt").read_text()
    assert status == 128 + sent, output
    assert "Traceback" not in output
    if stopped.exists():
        last = stopped / "checkpoints/last.ckpt"
        assert f"stopped at step {reached(last)}: resume with vqlab fit --ckpt_path {last}" in output
        assert_ends_as_if_nothing_had_happened(options, stopped)


KILLED = """
import os, signal, lightning

class KillInValidation(lightning.Callback):
    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step == 20:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_training_is_killed_in_a_validation_that_falls_on_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.syspath_prepend(tmp_path)
    prepare("VQGAN")
    options, killed = ["fit", *SYSTEMS["VQGAN"], *TRAINER, *OFTEN], Path("runs/vqgan/killed")
    dying = fork(main, [*options, "--name=killed", "--trainer.callbacks+=killed.KillInValidation"])
    assert status_of(dying) == signal.SIGKILL
    assert reached(killed / "checkpoints/last.ckpt") == 16, "one of step 20 would let the validation be skipped"
    call = ["fit", f"--config={killed}/config.yaml", f"--ckpt_path={killed}/checkpoints/last.ckpt"]
    main([*call, "--trainer.callbacks=null", "--trainer.max_steps=30"])
    main([*options, "--name=whole", "--trainer.max_steps=30"])
    assert_same_runs(killed, killed.with_name("whole"))


def start_sweep(call, command):
    """Sweep in a process of its own."""
    return fork(sweep, call, command, complaints, output=Path("output.txt"))


def finished(runs):
    """Return what the finished rows of a sweep consist of, and when it was written."""
    rows = [runs / name for name in NAMES if (runs / name / "finished.json").exists()]
    return {path: storm.state(path) for row in rows for path in storm.files(row) if path.name != "sweep.log"}


@pytest.mark.parametrize(("number", "kills"), storm.shares("sweep", most=4))
def test_a_sweep_is_killed_and_started_again_and_again(number, kills):
    draw, runs = storm.draws("sweep", number), Path("runs/vqvae")
    write_experiment(*ROWS)
    call = ["x.yaml", "--jobs=2", "--wandb.mode=disabled", *TRAINER]
    done = {}
    with warm_vqlab.serve() as command:
        begun = time.monotonic()
        assert status_of(start_sweep([*call, "--runs=calm"], command)) == 0, Path("output.txt").read_text()
        whole = time.monotonic() - begun
        for _ in range(kills):
            process = start_sweep(call, command)
            time.sleep(draw.uniform(0, whole / (kills + 1)))
            children = stop(process)
            victims = children if draw.random() < 0.5 else []  # else its rows go on alone
            for victim in [*victims, process]:
                os.kill(victim, signal.SIGKILL)
            assert status_of(process) == signal.SIGKILL, "the test was too slow to kill it"
            done |= finished(runs)
            for folder in runs.glob("*"):
                storm.assert_whole(folder)
        assert status_of(start_sweep(call, command)) == 0, Path("output.txt").read_text()
    assert done == {path: storm.state(path) for path in done}, "a row that was finished was run again"
    for name in NAMES:
        assert_same_runs(runs / name, Path("calm/vqvae") / name)
        assert not storm.torn(runs / name)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in storm.files(Path(folder))}


@pytest.mark.parametrize(("number", "kills"), storm.shares("report", most=50))
def test_a_report_is_killed_while_it_takes_the_place_of_an_older_one(number, kills):
    draw, log = storm.draws("report", number), Path("log")
    for name in ("a", "b"):
        fit(f"--name={name}", "--trainer.max_steps=10", "--trainer.val_check_interval=5", *OFTEN[1:])
    calls = {}
    for style, suffix in (("html", ".html"), ("md", ".svg")):
        calls[suffix] = ["runs", f"--format={style}"]
        report([*calls[suffix], "--title=old", "-o", "old"])
        report([*calls[suffix], "--title=old", "-o", "log"])
    begun = time.monotonic()
    for call in calls.values():
        process = command("report", *call, "--title=new", "-o", "new")
        assert process.wait() == 0
    seconds = (time.monotonic() - begun) / 2
    for kill in range(kills):
        suffix = draw.choice([*calls])
        call = ["report", *calls[suffix], "--title=new", "-o", "log"]
        if kill % 2:
            storm.dies_writing(suffix, 0, draw.random(), *call)
            assert storm.torn(log)
        else:
            storm.kill_at_a_time(draw, seconds, *call)
        old, new, now = (contents(folder) for folder in ("old", "new", "log"))
        assert now.keys() == new.keys()
        assert all(now[name] in (old[name], new[name]) for name in now)
    for call in calls.values():
        main(["report", *call, "--title=new", "-o", "log"])
    assert not storm.torn(log)
    assert contents("log") == contents("new")
