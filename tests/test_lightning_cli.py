"""How the options of ``vqlab fit`` are read; nothing is built."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Trainer

from vqlab.lightning_cli import CLI, prepare

CHOSEN = ["--model=VQVAE", "--data=Docstrings"]
INT_OR_FLOAT = [
    f"trainer.{name}"
    for name, parameter in inspect.signature(Trainer.__init__).parameters.items()
    if {"int", "float"} <= {getattr(kind, "__name__", "") for kind in getattr(parameter.annotation, "__args__", ())}
]


def parsed(*args: str) -> tuple[Any, dict[str, Any]]:
    """Return the options that ``args`` set, and what would be saved as config.yaml."""

    class Parsed(CLI):
        def before_instantiate_classes(self) -> None:
            pass

        instantiate_classes = _run_subcommand = lambda *args: None

    prepare()
    cli = Parsed(["fit", *CHOSEN, *args])
    return cli.config.fit, yaml.safe_load(cli._parser("fit").dump(cli.config.fit))


@pytest.mark.parametrize("value", ["1", "1.0", "0.5", "100"])
def test_an_integer_stays_an_integer(value):
    assert {"trainer.limit_val_batches", "trainer.overfit_batches", "trainer.val_check_interval"} <= {*INT_OR_FLOAT}
    expected = yaml.safe_load(value)
    flags, saved = parsed(*(f"--{name}={value}" for name in INT_OR_FLOAT))
    trainer = {name.removeprefix("trainer."): expected for name in INT_OR_FLOAT}
    Path("a.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    Path("b.yaml").write_text(yaml.safe_dump(saved))
    from_file, _ = parsed("--config=a.yaml")
    again, _ = parsed("--config=b.yaml")
    for name in INT_OR_FLOAT:
        values = [flags[name], from_file[name], saved["trainer"][name.removeprefix("trainer.")], again[name]]
        assert [repr(found) for found in values] == [repr(expected)] * 4, name


def test_an_integer_stays_an_integer_in_a_class():
    config, _ = parsed("--data.min_df=3", "--data.max_df=1")
    assert [repr(config.data.init_args[name]) for name in ("min_df", "max_df")] == ["3", "1"]
