"""What every system must do, for each of them: train, be evaluated, go on after a kill."""

import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import vqlab
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import TRAINER, assert_same_log, assert_same_runs, fails, fit_and_kill, logged, weights
from vqlab.cli.main import main

DRAWS = ("CodePrior", "JSA", "DiscreteVAE", "SGAN")  # vqlab sample draws images from them
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


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_it_goes_on_after_a_kill_as_if_there_had_been_none(system):
    last = run(system, "killed") / "checkpoints/last.ckpt"
    moment = random.Random(f"{system} {WAITS}").randint(4, 16)
    end = fit_and_kill(last, moment, *options(system), "--ema.decay=0.9", "--name=killed") + 9
    main([*options(system), "--ema.decay=0.9", "--name=whole", f"--trainer.max_steps={end}"])
    main([*options(system), "--ema.decay=0.9", f"--ckpt_path={last}", f"--trainer.max_steps={end}"])
    assert_same_runs(run(system, "killed"), run(system, "whole"))


@pytest.mark.slow  # tests/models trains each in bf16
@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_half_precision(system, monkeypatch):
    monkeypatch.setattr("vqlab.cli.devices.has_bf16_instructions", lambda: True)  # in bf16 even where it is slow
    main([*options(system), "--name=half", "--trainer.max_steps=6", "--trainer.precision=bf16-mixed"])
    assert all(math.isfinite(value) for row in logged(run(system, "half") / "metrics.csv") for value in row.values())
    assert all(value.dtype != torch.bfloat16 for value in weights(run(system, "half")).values())


@pytest.mark.slow
@pytest.mark.parametrize("system", ["VQGAN", "SGAN"], indirect=True)
def test_compiled_networks_train_the_same(system):
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        main([*options(system), f"--name={name}", "--trainer.max_steps=6", f"--model.compile={compiled}"])
    assert_same_log(run(system, "compiled"), run(system, "plain"), rel=1e-3)
