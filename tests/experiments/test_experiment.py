"""Rows of experiment files, and messages about mistakes in them."""

import itertools
from pathlib import Path

import pytest
import yaml

from vqlab.cli.lightning import option_errors
from vqlab.errors import UserError
from vqlab.experiments.experiment import read_experiment

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "experiments").glob("*.yaml"))
BASE = {
    "model": {"class_path": "vqlab.VQVAE", "init_args": {"lr": 0.1, "schedule": {"warmup_steps": 50}}},
    "data": {"class_path": "Digits"},
    "trainer": {"max_steps": 1000},
}


def read(extra=(), scale=1.0, **content):
    Path("base.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    Path("x.yaml").write_text(yaml.safe_dump({"base": "base.yaml", **content}, sort_keys=False))
    return read_experiment(Path("x.yaml"), extra, scale=scale)


def test_rows_override_common_and_the_command_line_overrides_rows():
    rows = [{"name": "a", "model.lr": 1}, {"name": "b"}, {"name": "c", "model": "JSA"}]
    typed = ["--data.path=x", "--data", "ImageArrays"]
    experiment = read(typed, common={"model.lr": 2, "data.batch_size": 3}, rows=rows)
    a, b, c = experiment.rows
    assert experiment.fit(a) == [
        "fit", "--config=base.yaml", "--name=a", "--trainer.devices=1",
        "--data.batch_size=3", "--model.lr=1", "--data=ImageArrays", "--data.path=x",
    ]  # fmt: skip
    assert [row.settings.get("model.lr") for row in (a, b, c)] == [1, 2, None], "another class, without its options"
    assert [experiment.folder(row).as_posix() for row in (a, b, c)] == ["runs/vqvae/a", "runs/vqvae/b", "runs/jsa/c"]


def test_grid_is_multiplied_with_rows_and_seeds():
    grid = {"model.encoder.norm": ["none", "batch"], "model.decoder.norm": ["a/b"], "levels": [[8, 5]], "lr": [1e-5, 1]}
    experiment = read(rows=[{"name": "p"}, {"name": "q"}], grid=grid, seeds=[0, 7])
    expected = [
        f"{row}_encoder.norm={norm}_decoder.norm=a-b_levels=8-5_lr={lr}_seed{seed}"
        for row, norm, lr, seed in itertools.product("pq", ["none", "batch"], ["1e-05", "1"], [0, 7])
    ]
    assert [row.name for row in experiment.rows] == expected
    assert {row.label for row in experiment.rows} == {name.rpartition("_seed")[0] for name in expected}
    first = experiment.rows[1].options
    assert (first["seed_everything"], first["data.seed"], first["lr"]) == (7, 7, 1e-5)
    assert [row.name for row in read(grid={"model.lr": [1, 2]}).rows] == ["lr=1", "lr=2"]
    rows = read(common={"data.seed": 5}, seeds=[1, 2]).rows
    found = [(row.name, row.options["seed_everything"], row.options["data.seed"]) for row in rows]
    assert found == [("x_seed1", 1, 5), ("x_seed2", 2, 5)]


def test_scale_applies_to_steps_and_schedules():
    rows = [{"name": "a", "trainer.max_steps": 300}, {"name": "b", "model.schedule": None, "model.num_mis_steps": 20}]
    a, b = read(["--trainer.val_check_interval=70"], 0.1, common={"trainer.val_check_interval": 100}, rows=rows).rows
    assert a.options == {
        "trainer.devices": 1, "trainer.max_steps": 30, "model.schedule.warmup_steps": 5,
        "trainer.val_check_interval": "70",
    }  # fmt: skip
    assert b.options == {
        "trainer.devices": 1, "trainer.max_steps": 100, "model.schedule": None, "model.num_mis_steps": 20,
        "trainer.val_check_interval": "70",
    }  # fmt: skip


def test_base_is_found_relative_to_parents_of_the_file(monkeypatch, tmp_path):
    read(rows=[{"name": "a"}])
    Path("deep/er").mkdir(parents=True)
    Path("x.yaml").rename("deep/er/x.yaml")
    monkeypatch.chdir("deep")
    assert read_experiment(Path("er/x.yaml")).configs[0] == tmp_path / "base.yaml"


A = {"name": "a"}
MISTAKES = [  # changes of an experiment with the row a, options of the command line, message
    ({"row": []}, [], "unknown key 'row' in x.yaml: did you mean rows"),
    ({"rows": [{"model.lr": 1}]}, [], "list of mappings with a name"),
    ({"rows": [A, A]}, [], "two rows of the name a"),
    ({"rows": [{"name": "../a"}]}, [], "cannot be a folder"),
    ({"rows": {"a": 1}}, [], "must be a list"),
    ({"rows": [{"name": "a", "--model.lr": 1}]}, [], "without --"),
    ({"common": A}, [], "sets name"),
    ({"grid": {"model.lr": 3}}, [], "must be a list of values"),
    ({"seeds": [0, 0]}, [], "list of different integers"),
    ({"seeds": [0], "common": {"seed_everything": 3}}, [], "seed_everything is set too"),
    ({"base": "nowhere.yaml"}, [], "base config nowhere.yaml of x.yaml does not exist"),
    ({}, ["--name=a"], "sets name"),
    ({}, ["--model.lr"], "needs a value"),
    ({}, ["lr=3"], "unexpected 'lr=3'"),
    ({}, ["--config=none.yaml"], "none.yaml cannot be read"),
]


@pytest.mark.parametrize(("content", "extra", "words"), MISTAKES)
def test_message_of_mistake(content, extra, words):
    with pytest.raises(UserError, match=words) as error:
        read(extra, **{"rows": [A], **content})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_builtin_experiments_have_valid_options(path):
    """In the first and the last row."""
    experiment = read_experiment(path, scale=0.1)
    rows = [experiment.rows[0], experiment.rows[-1]]
    assert len({row.name for row in experiment.rows}) == len(experiment.rows)
    wrong = [*experiment.fit(rows[0]), "--model.no_such_option=1"]
    *good, last = option_errors([*map(experiment.fit, rows), wrong])
    assert good == [None, None]
    assert "no_such_option" in last
