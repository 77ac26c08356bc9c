"""What every system must do, for each of them: train, be evaluated, go on after a kill, run on two processes."""

import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import vqlab
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import TRAINER, assert_ranks_hold_the_same, assert_same_runs, fails, fit_and_kill, logged
from vqlab.cli.main import main

DRAWS = ("CodePrior", "JSA", "DiscreteVAE", "SGAN")  # vqlab sample draws images from them
# What other files test more closely, or of a class that shares its code, is left out, but with VQLAB_MATRIX=all.
ALL = os.environ.get("VQLAB_MATRIX") == "all"
RESUMED = [] if ALL else ["VQVAE", "VQGAN", "JSA", "DiscreteVAE", "CodePrior"]
PAIRED = [] if ALL else ["VQVAE", "VQGAN", "JSA", "DiscreteVAE", "S4DVQ", "CodePrior"]
WAITS = int(os.environ.get("VQLAB_KILL_SEED", "0"))  # another seed kills at other moments


@pytest.fixture
def system(request):
    prepare(request.param)
    return request.param


def run(system, name):
    return Path("runs") / system.lower() / name


def options(system):
    return ["fit", *SYSTEMS[system], *TRAINER, *OFTEN, "--trainer.limit_val_batches=2"]


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_it_trains_is_evaluated_and_comes_back(system, capsys):
    main([*options(system), "--name=it", "--trainer.max_steps=12", "--ema.decay=0.9"])
    folder = run(system, "it")
    rows = logged(folder / "metrics.csv")
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert {row["step"] for row in rows if "val/loss" in row} == {4, 9}
    assert any(name.startswith("grad_norm/") for name in rows[0])
    assert any(name.startswith("lr/") for name in rows[0])
    assert not (folder / "health.jsonl").exists()
    last, best = (str(folder / "checkpoints" / f"{which}.ckpt") for which in ("last", "best"))
    main(["validate", f"--ckpt_path={last}"])
    main(["test", f"--ckpt_path={best}"])
    (tested,) = logged(folder / "test.csv")
    assert math.isfinite(tested["test/loss"])
    more = ["--data.charset=U+2B00-2B7F"] if system == "FontGAN" else []  # what Serif lacks
    main(["predict", f"--ckpt_path={best}", *more])
    with np.load(folder / "codes.npz") as arrays:
        assert all(len(array) for array in arrays.values())
    if system in DRAWS:
        main(["sample", last, "--num", "4", "--out", "drawn.png"])
        assert Path("drawn.png").exists()
    else:
        assert "sample" in fails(capsys, ["sample", last])
    model = vqlab.load(last)
    assert type(model).__name__ == system
    assert not model.training
    main(["report", "runs", "-o", "log", "--format", "md"])
    assert "it" in (Path("log") / "report.md").read_text()


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in RESUMED], indirect=True)
def test_it_goes_on_after_a_kill_as_if_there_had_been_none(system):
    last = run(system, "killed") / "checkpoints/last.ckpt"
    moment = random.Random(f"{system} {WAITS}").randint(4, 16)
    end = fit_and_kill(last, moment, *options(system), "--ema.decay=0.9", "--name=killed") + 9
    main([*options(system), "--ema.decay=0.9", "--name=whole", f"--trainer.max_steps={end}"])
    main([*options(system), "--ema.decay=0.9", f"--ckpt_path={last}", f"--trainer.max_steps={end}"])
    assert_same_runs(run(system, "killed"), run(system, "whole"))


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in PAIRED], indirect=True)
def test_two_processes_hold_the_same_weights(system, tmp_path):
    assert_ranks_hold_the_same(
        tmp_path, *options(system), "--data.batch_size=8", "--trainer.max_steps=10", "--name=two"
    )
    checkpoint = torch.load(run(system, "two") / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 10
    assert all(math.isfinite(value) for row in logged(run(system, "two") / "metrics.csv") for value in row.values())


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_half_precision(system, monkeypatch):
    monkeypatch.setattr("vqlab.cli.devices.has_bf16_instructions", lambda: True)  # in bf16 even where it is slow
    main([*options(system), "--name=half", "--trainer.max_steps=6", "--trainer.precision=bf16-mixed"])
    assert all(math.isfinite(value) for row in logged(run(system, "half") / "metrics.csv") for value in row.values())
    weights = torch.load(run(system, "half") / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.dtype != torch.bfloat16 for value in weights.values())


@pytest.mark.skipif(not ALL, reason="compiles for long: set VQLAB_MATRIX=all")
@pytest.mark.parametrize("system", ["VQGAN", "SGAN"], indirect=True)
def test_compiled_networks_train_the_same(system):
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        main([*options(system), f"--name={name}", "--trainer.max_steps=6", f"--model.compile={compiled}"])
    rows, expected = (logged(run(system, name) / "metrics.csv") for name in ("compiled", "plain"))
    assert rows == [pytest.approx(row, rel=1e-3, abs=1e-4) for row in expected]
