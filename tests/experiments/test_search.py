"""``vqlab sweep --search`` over runs that take milliseconds."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.helpers.sweeps import diary, run, start, times_done, wait_for, write
from vqlab.errors import UserError

optuna = pytest.importorskip("optuna")
SPACE = {
    "model.lr": {"low": "1e-4", "high": 1, "log": True},
    "data.batch_size": {"low": 8, "high": 64, "step": 8},
    "model.levels": [[8, 5], [4, 4, 4]],
    "model.decoder.out_activation": [None, "tanh"],
}


def study(runs="runs"):
    return optuna.load_study(study_name="x", storage=f"sqlite:///{runs}/x.search.db")


def outcomes():
    return {trial.user_attrs["row"]: trial.value for trial in study().trials if trial.state.name == "COMPLETE"}


def test_trials_are_ordinary_runs_with_their_best_value(capsys):
    write(space=SPACE, common={"fake.seconds": 0})
    assert run("--search=3") == 0
    assert list(outcomes()) == [f"x_trial{number:04d}" for number in range(3)]
    for trial in study().trials:
        assert trial.value == pytest.approx(trial.params["model.lr"] * 100 / 20 + 1)  # the last step's
        assert trial.params["data.batch_size"] % 8 == 0
        assert 1e-4 <= trial.params["model.lr"] <= 1
        assert json.loads(trial.params["model.levels"]) in ([8, 5], [4, 4, 4])
    table = capsys.readouterr().out.splitlines()[-3:]
    values = [float(line.split()[2]) for line in table]
    assert values == sorted(values)

    first = [trial.params for trial in study().trials]
    assert run("--search=5", "--jobs=2") == 0, "goes on"
    assert [trial.params for trial in study().trials][:3] == first
    assert len(outcomes()) == 5
    assert run("--search=5") == 0
    assert set(times_done().values()) == {1}


def test_the_same_search_draws_the_same():
    write(space=SPACE)
    for runs in "ab":
        run("--search=2", f"--runs={runs}")
    a, b = ([trial.params for trial in study(runs).trials] for runs in "ab")
    assert a == b
    assert a[0] != a[1]


def test_the_direction_is_that_of_the_checkpoint():
    write(space={"model.lr": [0.1, 0.9]}, common={"checkpoint.mode": "max", "checkpoint.monitor": "train/loss"})
    run("--search=2")
    assert study().direction.name == "MAXIMIZE"
    for trial in study().trials:
        assert trial.value == pytest.approx(trial.params["model.lr"] * 100)


def test_trials_that_fail_are_counted_and_shown(capsys):
    write(space={"model.lr": [0.1, 0.9]}, common={"fake.fail_at": 3})
    assert run("--search=2") == 0
    out = capsys.readouterr().out
    assert out.count("failed: RuntimeError: out of memory, says the fake") == 2
    assert out.splitlines()[-1].split()[1:3] == ["failed", "-"]
    write(space={"model.lr": [0.1, 0.9]}, common={"checkpoint.monitor": "val/none"})
    assert run("--search=3") == 0
    assert "val/none is not logged" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_trial_is_resumed(number):
    write(space={"model.lr": {"low": 0.1, "high": 0.9}})
    process = start("--search=3", "--fake.seconds=0.05")
    wait_for(lambda: len(diary()) > 28)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in output
    if number == signal.SIGKILL:
        os.kill(diary()[-1][0], signal.SIGKILL)
    assert run("--search=3") == 0
    assert list(outcomes()) == ["x_trial0000", "x_trial0001", "x_trial0002"]
    assert max(times_done().values()) <= 2
    assert times_done()["x_trial0001", 0] == 1, "resumed, not begun again"


def test_two_processes_share_a_search():
    write(space=SPACE)
    processes = [start("--search=4", "--fake.seconds=0.02", "--jobs=2") for _ in range(2)]
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(outcomes()) == 4
    assert set(times_done().values()) == {1}
    assert len({json.dumps(trial.params) for trial in study().trials}) == len(study().trials)


def test_other_settings_or_another_space_need_another_search():
    write(space={"model.lr": [1, 2]})
    run("--search=1", "--trainer.max_steps=5")
    with pytest.raises(UserError, match=r"x_trial0000 was begun with trainer.max_steps=5"):
        run("--search=2")
    write(space={"model.lr": [1, 3]})
    with pytest.raises(UserError, match=r"not that of runs/x\.search\.db"):
        run("--search=2", "--trainer.max_steps=5")


LOW_HIGH = {"low": 1, "high": 2}


@pytest.mark.parametrize(
    "choice",
    [3, [], {}, {"low": 1}, {"low": 1, "high": 1}, {"low": "a", "high": 1}, {"low": 0, "high": 1, "log": True},
     {**LOW_HIGH, "step": 1, "log": True}, {**LOW_HIGH, "base": 3}],
)  # fmt: skip
def test_a_wrong_choice_is_refused_first(choice):
    write(space={"model.lr": choice})
    with pytest.raises(UserError, match=r"model\.lr in space of x\.yaml must"):
        run("--search=2")
    assert not Path("runs").exists()


def test_without_optuna_the_message_names_the_package(monkeypatch):
    write(space={"model.lr": [1, 2]})
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'vqlab\[search\]'"):
        run("--search=2")
    assert not Path("runs").exists()
