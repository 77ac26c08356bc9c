"""How the options of ``vqlab fit`` are read; nothing is built."""

import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Trainer

from tests.e2e.tiny import FIT, fails
from vqlab.cli.lightning import CLI, option_errors, prepare
from vqlab.cli.main import main

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
    cli = Parsed(["fit", *CHOSEN, *args], ExitStack())
    return cli.config.fit, yaml.safe_load(cli._parser("fit").dump(cli.config.fit))


@pytest.mark.parametrize("value", ["1", "1.0", "0.5"])
def test_integer_option_stays_an_integer(value):
    assert {"trainer.limit_val_batches", "trainer.overfit_batches", "trainer.val_check_interval"} <= {*INT_OR_FLOAT}
    expected = yaml.safe_load(value)
    flags, saved = parsed(*(f"--{name}={value}" for name in INT_OR_FLOAT))
    Path("b.yaml").write_text(yaml.safe_dump(saved))
    again, _ = parsed("--config=b.yaml")
    for name in INT_OR_FLOAT:
        values = [flags[name], saved["trainer"][name.removeprefix("trainer.")], again[name]]
        assert [repr(found) for found in values] == [repr(expected)] * 3, name


def test_integer_argument_of_a_class_stays_an_integer():
    config, _ = parsed("--data.min_df=3", "--data.max_df=1")
    assert [repr(config.data.init_args[name]) for name in ("min_df", "max_df")] == ["3", "1"]


WRONG = [
    (["--trainer.precision=bf16-mxied"], "did you mean bf16-mixed?"),
    (["--trainer.precision=int8"], "'bf16-mixed', '32-true', '64-true'], got int8"),
    (["--model.quantizer.num_embeddings=[64]"], "--model.quantizer.num_embeddings must be int, got [64]"),
    (["--trainer.limit_val_batches=all"], "--trainer.limit_val_batches must be int or float or null, got all"),
    (["--trainer.max_steps=null"], "--trainer.max_steps must be int, got null"),
    (["--model.optimization.schedule.kind=cosin"], "did you mean cosine?"),
    (["--trainer.max_step=5"], "there is no option --trainer.max_step: did you mean --trainer.max_steps?"),
    (["--max_steps=5"], "did you mean --trainer.max_steps?"),
    (["--trainer.foo=5"], "there is no option --trainer.foo: see vqlab fit --help"),
    (["--lr=1"], "did you mean --model.lr?"),
    (["--batch_size=1"], "did you mean --data.batch_size?"),
    (["--data.batchsize=1"], "Digits has no option 'batchsize': did you mean --data.batch_size?"),
    (["--checkpoint.monitr=x"], "did you mean --checkpoint.monitor?"),
    (["--model.encoder.foo=1"], "SmallEncoder has no option 'foo': choose from in_channels, hidden_channels"),
    (["--model.quantizer=FSQ", "--model.quantizer.level=5"], "did you mean --model.quantizer.levels?"),
    (
        ["--model.quantizer=ResidualQuantizer", "--model.quantizer.quantizer.num_embeddings=5"],
        "put --model.quantizer.quantizer=CLASS in front of it",
    ),
    (["--model.quantizer=FSQQ"], "--model.quantizer: there is no class 'FSQQ': did you mean FSQ?"),
    (["--trainer.callbacks=Foo"], "there is no class 'Foo': give the dotted path of one"),
    (["configs/vqgan.yaml"], "did you mean --config configs/vqgan.yaml?"),
    (["last.ckpt"], "did you mean --ckpt_path last.ckpt?"),
    (["--trainer.max_steps"], "--trainer.max_steps: expected one argument"),
    (["--model=JSA", "--model.prior=Transformer"], "set --model.prior.NAME=VALUE for num_tokens, length"),
]


def test_message_of_wrong_option():
    found = option_errors([[*FIT, *args] for args, _ in WRONG])
    for (args, words), message in zip(WRONG, found, strict=True):
        assert words in (message or ""), args
        assert len(message) <= 200


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (
            [f"--model.quantizer{p}" for p in ("=ResidualQuantizer", ".quantizer=FSQ", ".quantizer.levels=[1]")],
            "levels",
        ),
        (["--model.decoder=ConvDecoder", "--model.decoder.attention_levels=[9]"], "attention_levels"),
        (["--model.lr=0"], "lr"),
    ],
)
def test_invalid_argument_is_named_as_an_option(capsys, args, option):
    message = fails(capsys, [*FIT, *args])
    assert any(f"{arg.partition('=')[0]} must" in message for arg in args if f".{option}=" in arg)


def test_message_of_wrong_option_in_a_file(capsys):
    Path("a.yaml").write_text("trainer: {max_stepz: 1}")
    assert "no option trainer.max_stepz: did you mean --trainer.max_steps?" in fails(capsys, ["fit", "--config=a.yaml"])
    Path("b.yaml").write_text("data: {class_path: Digits, init_args: {batchsize: 1}}")
    assert "did you mean --data.batch_size?" in fails(capsys, ["fit", "--config=b.yaml", "--model=VQVAE"])


def test_hints_of_libraries_are_hidden(capsys):
    main([*FIT, "--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=50"])
    printed = "".join(capsys.readouterr())
    assert "Seed set to" not in printed
    assert "logging interval" not in printed
