"""``vqlab sweep --search`` over runs that take milliseconds."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.sweeps import diary, run, start, times_done, write
from vqlab.errors import UserError
from vqlab.experiments import search as module

optuna = pytest.importorskip("optuna")
SPACE = {
    "model.lr": {"low": "1e-4", "high": 1, "log": True},
    "data.batch_size": {"low": 8, "high": 64, "step": 8},
    "model.levels": [[8, 5], [4, 4, 4]],
    "model.decoder.out_activation": [None, "tanh"],
}


@pytest.fixture(autouse=True)
def _diary(monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_DIARY", str(tmp_path / "diary"))


def study():
    return optuna.load_study(study_name="x", storage="sqlite:///runs/x.search.db")


def outcomes():
    return {trial.user_attrs["row"]: trial.value for trial in study().trials if trial.state.name == "COMPLETE"}


def test_trials_are_ordinary_runs_judged_by_their_best_figure(capsys):
    write(space=SPACE, common={"fake.seconds": 0})
    assert run("--search=3") == 0
    rows = [f"x_trial{number:04d}" for number in range(3)]
    assert list(outcomes()) == rows
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
    run("--search=2", "--runs=a")
    run("--search=2", "--runs=b")
    params = [
        [trial.params for trial in optuna.load_study(study_name="x", storage=f"sqlite:///{runs}/x.search.db").trials]
        for runs in "ab"
    ]
    assert params[0] == params[1]
    assert len({str(trial) for trial in params[0]}) == 2


def test_the_largest_is_best_where_the_checkpoint_says_so():
    write(space={"model.lr": [0.1, 0.9]}, common={"checkpoint.mode": "max", "checkpoint.monitor": "train/loss"})
    run("--search=2")
    assert study().direction.name == "MAXIMIZE"
    assert all(
        value == pytest.approx(study().trials[i].params["model.lr"] * 100)
        for i, value in enumerate(outcomes().values())
    )


def test_trials_that_fail_are_counted_and_shown(capsys):
    write(space={"model.lr": [0.1, 0.9]}, common={"fake.fail_at": 3})
    assert run("--search=2") == 0
    assert capsys.readouterr().out.count("failed") == 4  # each as it ends, and in the table
    assert [trial.user_attrs["error"] for trial in study().trials] == ["RuntimeError: out of memory, says the fake"] * 2
    write(space={"model.lr": [0.1, 0.9]}, common={"checkpoint.monitor": "val/none"})
    assert run("--search=3") == 0
    assert study().trials[2].user_attrs["error"] == "val/none is not logged"


def test_ctrl_c_and_started_again():
    write(space={"model.lr": {"low": 0.1, "high": 0.9}})
    process = start("--search=3", "--fake.seconds=0.05")
    for _ in range(400):
        if len(diary()) > 28:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert run("--search=3") == 0
    assert list(outcomes()) == ["x_trial0000", "x_trial0001", "x_trial0003"]
    assert max(times_done().values()) <= 2
    assert times_done()["x_trial0001", 0] == 1, "resumed, not begun again"


def test_a_trial_of_a_killed_process_is_taken_up_again(monkeypatch):
    monkeypatch.setattr(module, "BEAT", 1)
    monkeypatch.setattr(module, "SILENCE", 2)
    write(space={"model.lr": {"low": 0.1, "high": 0.9}})
    process = start("--search=1", "--fake.seconds=0.1")
    for _ in range(400):
        if len(diary()) > 7:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    os.kill(diary()[0][0], signal.SIGKILL)
    assert run("--search=1") == 0
    assert list(outcomes()) == ["x_trial0000"]
    assert times_done()["x_trial0000", 0] == 1


def test_two_processes_share_a_search():
    write(space=SPACE)
    processes = [start("--search=4", "--fake.seconds=0.02") for _ in range(2)]
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert 4 <= len(outcomes()) <= 5
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


@pytest.mark.parametrize(
    "choice",
    [
        3,
        [],
        {},
        {"low": 1},
        {"low": 1, "high": 1},
        {"low": "a", "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 2, "step": 1, "log": True},
        {"low": 1, "high": 2, "base": 3},
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_first(choice):
    write(space={"model.lr": choice})
    with pytest.raises(UserError, match=r"model\.lr in space of x\.yaml must"):
        run("--search=2")
    assert not Path("runs").exists()


def test_without_optuna_it_says_what_to_install(monkeypatch):
    write(space={"model.lr": [1, 2]})
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'vqlab\[search\]'"):
        run("--search=2")
    assert not Path("runs").exists()
