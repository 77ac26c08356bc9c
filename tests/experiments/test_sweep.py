"""``vqlab sweep`` with fake runs of milliseconds: what it starts, skips, resumes and prints."""

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.tiny import fails
from tests.helpers import sweeps
from tests.helpers.fake_vqlab import EVERY
from tests.helpers.sweeps import ROWS, diary, run, start, times_done, wait_for, write
from vqlab.cli.sweep import sweep
from vqlab.errors import UserError
from vqlab.experiments.runner import split_resources

STEPS = 20
ALL = [f"{row}_seed{seed}" for row in "abc" for seed in (0, 1)]


def folder(name):
    return Path("runs/toy") / name


def assert_complete(names):
    for name in names:
        assert json.loads((folder(name) / "finished.json").read_text()) == {"step": STEPS}
        steps = [line.split(",")[0] for line in (folder(name) / "metrics.csv").read_text().splitlines()[1:]]
        assert steps == [str(step) for step in range(STEPS)]
        assert not (folder(name) / "failed.json").exists()


def test_each_row_is_run_once(capsys):
    write(rows=ROWS, seeds=[0, 1])
    assert run("--jobs=3") == 0
    assert_complete(ALL)
    assert set(times_done().values()) == {1}
    out = capsys.readouterr().out
    rows = [line.split() for line in out[out.index("row ") :].splitlines()]
    assert rows[0] == ["row", "status", "steps", "best", "at", "step", "last", "of"]
    assert rows[3] == ["b_seed0", "finished", "20", "2", "20", "2", "val/loss"]  # 0.2 x 100 / 20 + 1
    assert run() == 0
    assert "nothing to do: all 6 rows are finished" in capsys.readouterr().out
    assert len(diary()) == len(ALL) * STEPS


def test_dry_run_prints_the_commands_and_how_long_they_take(capsys):
    write(rows=ROWS, common={"trainer.max_steps": 3000, "trainer.val_check_interval": 1000})
    before = sorted(Path().rglob("*"))
    assert run("--dry-run", "--test", "--data.batch_size", "8", "--trainer.max_steps=3000") == 0
    lines = capsys.readouterr().out.splitlines()
    b = "--config=base.yaml --name=b --trainer.devices=1 --trainer.val_check_interval=1000 --model.lr=0.2"
    b += " --data.batch_size=8 --trainer.max_steps=3000"
    assert lines[2:4] == [f"vqlab fit {b}", f"vqlab test {b} --ckpt_path=runs/toy/b/checkpoints/best.ckpt"]
    assert "measuring a few batches of 1 model ..." in lines
    assert [line.split()[:2] for line in lines[-4:-1]] == [["a", "3,000"], ["b", "3,000"], ["c", "3,000"]]
    # 3 x (3,000 steps of 1 s, 3 validations and a test of 30 s)
    assert lines[-1] == "3 rows, 1 at a time: about 3 hours on this machine"
    assert sorted({*Path().rglob("*")} - {*before}) == [Path("runs"), Path("runs/.times.json")]


def test_dry_run_of_a_finished_sweep_measures_nothing(capsys):
    write(rows=ROWS)
    run()
    capsys.readouterr()
    assert run("--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [f"# {name} is finished" for name in "abc"]


def test_times_are_measured_once_per_model(capsys):
    other = {"name": "d", "model.width": 4}
    write(rows=[*ROWS, other])
    run("--dry-run")
    assert "measuring a few batches of 2 models" in capsys.readouterr().out
    write(rows=[*ROWS, other, {**other, "name": "e", "model.lr": 0.5}, {**other, "name": "f", "model.lr": 0}])
    run("--dry-run")
    assert "measuring a few batches of 1 model" in capsys.readouterr().out


def test_row_that_does_not_train_is_named_by_the_dry_run():
    write(rows=[*ROWS, {"name": "d", "fake.fail_at": 7}])
    with pytest.raises(UserError, match="row d: the fake run has no data"):
        run("--dry-run")


def test_budget_scales_all_rows_by_one_factor_which_is_noted(capsys):
    write(rows=ROWS, common={"trainer.max_steps": 100_000, "trainer.val_check_interval": 50_000})
    assert run("--budget=10m") == 0
    found = re.search(r"by (\S+) in all 3 rows; starts and validations take 3 minutes of it\n", capsys.readouterr().out)
    factor = float(found[1])
    assert factor == pytest.approx(0.00139, abs=2e-5)  # (600 s - 6 validations of 30 s) / (3 x 100,000 s)
    for name in "abc":
        assert json.loads((folder(name) / "finished.json").read_text())["step"] == round(100_000 * factor)
        noted = json.loads((folder(name) / "row.json").read_text())
        assert (noted["scale"], noted["budget"]) == (factor, "10m")


def test_resumed_sweep_keeps_the_factor_of_its_budget(capsys):
    write(rows=ROWS, common={"trainer.max_steps": 100_000})
    run("--budget=10m")
    factor = capsys.readouterr().out.splitlines()[1].partition(";")[0]
    Path("runs/.times.json").unlink()
    write(rows=[*ROWS, {"name": "d"}], common={"trainer.max_steps": 100_000})
    run("--budget=10m")
    assert factor.removesuffix("3 rows") in capsys.readouterr().out
    with pytest.raises(UserError, match=r"row a has .*: choose another folder with --runs"):
        run("--budget=20m")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--budget=2 hours"], "budget must be a time such as 2h, 90m or 1h30m, got '2 hours'"),
        (["--budget=0m"], "budget must be a time such as 2h, 90m or 1h30m, got '0m'"),
        (["--budget=2m"], "budget must be more than 3 minutes, the time of starts and validations alone: raise it"),
        (["--budget=2h", "--scale-steps=0.1"], "budget 2h chooses scale-steps: leave out one of the two"),
    ],
)
def test_budget_that_cannot_be_kept_is_refused(options, line):
    write(rows=ROWS, common={"trainer.max_steps": 100_000, "trainer.val_check_interval": 50_000})
    with pytest.raises(UserError, match=re.escape(line)):
        run(*options)
    assert not Path("runs/toy").exists()


def test_failed_row_is_recorded_and_the_others_continue(capsys):
    write(rows=[*ROWS, {"name": "d", "fake.fail_at": 7}])
    assert run("--jobs=2") == 1
    assert_complete("abc")
    out = capsys.readouterr().out
    assert "1 failed" in out
    assert out.splitlines()[-1] == "  d: RuntimeError: out of memory in the fake run (runs/toy/d/sweep.log)"
    assert json.loads((folder("d") / "failed.json").read_text())["error"].startswith("RuntimeError: out of memory")
    write(rows=[*ROWS, {"name": "d"}])
    assert run() == 0
    assert_complete("abcd")
    assert [step for _, name, step in diary() if name == "d"] == [*range(8), *range(EVERY, STEPS)]


def test_rows_are_tested_once_on_the_best_checkpoint():
    write(rows=ROWS)
    assert run("--rows=a,b") == 0
    assert run("--test") == 0
    written = {name: (folder(name) / "test.csv").stat().st_mtime_ns for name in "abc"}
    assert run("--test") == 0
    assert written == {name: (folder(name) / "test.csv").stat().st_mtime_ns for name in "abc"}
    (folder("b") / "test.csv").write_text("step,time,test/loss\n")  # killed before the metrics
    (folder("b") / "checkpoints" / "best.ckpt").unlink()
    assert run("--test") == 0
    assert "--ckpt_path=runs/toy/b/checkpoints/last.ckpt" in (folder("b") / "sweep.log").read_text()


def test_run_without_checkpoint_starts_again_only_if_a_sweep_started_it(capsys):
    write(rows=ROWS[:1])
    folder("a").mkdir(parents=True)
    (folder("a") / "config.yaml").write_text("{}")
    assert run() == 1
    assert "holds a run without a checkpoint: move it away" in capsys.readouterr().out
    (folder("a") / "config.yaml").unlink()
    run()
    for name in ("finished.json", "checkpoints/last.ckpt"):
        (folder("a") / name).unlink()
    assert run() == 0
    assert_complete("a")
    assert set(times_done().values()) == {2}


def test_run_with_other_settings_is_refused():
    write(rows=ROWS, seeds=[0, 1])
    run("--rows=b", "--trainer.max_steps=5")
    write(rows=ROWS, seeds=[0, 1])
    with pytest.raises(UserError, match=r"b_seed0 was started with trainer.max_steps=5.* has 20: .*--runs"):
        run()
    assert {name for _, name, _ in diary()} == {"b_seed0", "b_seed1"}
    assert run("--trainer.max_steps=5.0", "--wandb.mode=offline", "--rows=b_seed1") == 0, "equal settings"
    assert run("--runs=other") == 0


def test_killed_sweep_is_resumed():
    """SIGKILL to the sweep and its children: finished rows stay, and at most EVERY steps of a row are lost."""
    write(rows=ROWS, seeds=[0, 1])
    process = start("--jobs=2", "--fake.seconds=0.01")
    wait_for(lambda: len(diary()) > 50)
    process.kill()
    process.wait()
    for child in {child for child, _, _ in diary()}:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    before = {name for name in ALL if (folder(name) / "finished.json").exists()}
    done = {name: max((step for _, other, step in diary() if other == name), default=-1) for name in ALL}
    wait_for(lambda: run("--fake.seconds=0") == 0)
    assert_complete(ALL)
    for (name, step), times in times_done().items():
        assert times == 1 or (times == 2 and name not in before and step > done[name] - EVERY)


def test_children_of_a_killed_sweep_continue_and_are_not_started_again(capsys):
    write(rows=ROWS)
    process = start("--jobs=2", "--fake.seconds=0.05")
    wait_for(lambda: {name for _, name, _ in diary()} == {"a", "b"})
    process.kill()
    process.wait()
    assert run("--fake.seconds=0.05") == 0
    assert_complete("abc")
    assert set(times_done().values()) == {1}


def test_two_processes_run_one_sweep():
    write(rows=ROWS, seeds=[0, 1])
    processes = [start("--jobs=2", "--fake.seconds=0.02") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_complete(ALL)
    assert set(times_done().values()) == {1}
    assert len({(process, name) for process, name, _ in diary()}) == len(ALL)
    assert any("runs elsewhere" in output for output in outputs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_children_and_the_sweep_is_resumed(number):
    write(rows=ROWS)
    process = start("--jobs=2", "--fake.seconds=0.2")
    wait_for(lambda: len(diary()) > 3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "the same command resumes" in output
    assert "Traceback" not in output
    done = diary()
    for child in {child for child, _, _ in done}:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    assert not list(Path().rglob("failed.json"))
    assert run("--fake.seconds=0") == 0
    assert_complete("abc")


def test_child_with_status_0_that_is_not_finished_has_failed(capsys):
    """As Lightning after SIGTERM."""
    Path("early.py").write_text("print('half\\rReceived SIGTERM: 15')")
    write(rows=ROWS[:1])
    with pytest.raises(SystemExit, match="1"):
        sweep(["x.yaml"], [sweeps.FAKE[0], "early.py"], lambda calls: [None])
    assert "a: stopped before it was finished: Received SIGTERM: 15" in capsys.readouterr().out


def test_wrong_option_stops_the_sweep_before_the_first_row():
    write(rows=ROWS)
    with pytest.raises(UserError, match=r"row b: --model: no option 'lrr' \(and 1 more"):
        sweep(["x.yaml"], sweeps.FAKE, lambda calls: [None, "--model: no option 'lrr'", "too"])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        (["x.yaml", "--rows=a,d"], "has no row 'd'"),
        (["x.yaml", "--dryrun"], "did you mean --dry-run?"),
        (["x.yaml", "--jobs=0"], "jobs must be at least 1"),
        (["x.yaml", "--scale-steps=-1"], "scale-steps must be a positive number"),
        (["empty.yaml"], "has no rows: add rows, grid or seeds"),
    ],
)
def test_message_of_mistake(args, words, capsys):
    write(rows=ROWS, seeds=[0, 1])
    Path("empty.yaml").write_text("base: base.yaml")
    assert words in fails(capsys, ["sweep", *args])


def test_slurm_array_runs_each_row_once(capsys):
    write(rows=ROWS, seeds=[0, 1])
    run("--slurm=array.sh", "--rows=a,c_seed1", "--test", "--runs=else where", "--data.path=my data")
    script = Path("array.sh").read_text()
    assert "#SBATCH --array=0-2\n" in script
    Path("array.sh").write_text(script.replace("exec vqlab", "printf '%s\\n'"))
    for task, row in enumerate(("a_seed0", "a_seed1", "c_seed1")):
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}
        call = subprocess.run(["bash", "array.sh"], env=env, capture_output=True, text=True).stdout.splitlines()
        assert call == ["sweep", "x.yaml", "--test", "--runs=else where", "--data.path=my data", f"--rows={row}"]


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("4,5,6,7", 2, ["4,5", "6,7"]),
        ("0,1", 4, ["0", "1", "0", "1"]),
        ("", 2, [None, None]),
        ("0,1", 1, [None]),
    ],
)
def test_simultaneous_rows_divide_gpus_and_cores(monkeypatch, gpus, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = split_resources(jobs)
    assert [resources.get("CUDA_VISIBLE_DEVICES") for resources in found] == expected
    assert {resources.get("OMP_NUM_THREADS") for resources in found} == {None if jobs == 1 else str(8 // jobs)}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert {resources.get("OMP_NUM_THREADS", "5") for resources in split_resources(jobs)} == {"5"}
