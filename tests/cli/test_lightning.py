"""How the options of ``vqlab fit`` are read; nothing is built."""

import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Trainer

from tests.e2e.tiny import DATA, FIT, NETS, fails
from vqlab.cli.lightning import CLI, prepare
from vqlab.cli.main import main

SIZES = ["--model.prior.dim=100", "--model.prior.heads=3"]
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


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--trainer.precision=fp16"], ["'16-mixed'", "'32-true'", "got fp16"]),
        (["--trainer.precision=bf16-mxied"], ["did you mean bf16-mixed?"]),
        (["--trainer.precision=int8"], ["'bf16-mixed'", "got int8"]),
        (["--model.quantizer.num_embeddings=[64]"], ["--model.quantizer.num_embeddings must be int, got [64]"]),
        (["--model.optimization.betas=fast"], ["--model.optimization.betas must be tuple, got fast"]),
        (["--trainer.limit_val_batches=all"], ["--trainer.limit_val_batches must be int or float or null, got all"]),
        (["--trainer.max_steps=1.5"], ["--trainer.max_steps must be int, got 1.5"]),
        (["--trainer.max_steps=null"], ["--trainer.max_steps must be int, got null"]),
        (["--tensorboard=maybe"], ["--tensorboard must be bool, got maybe"]),
        (["--model.optimization.schedule.kind=cosin"], ["'linear'", "did you mean cosine?"]),
        (["--trainer.max_step=5"], ["no option --trainer.max_step: did you mean --trainer.max_steps?"]),
        (["--trainer.max_stepz=5"], ["did you mean --trainer.max_steps?"]),
        (["--max_steps=5"], ["did you mean --trainer.max_steps?"]),
        (["--epochs=5"], ["did you mean --trainer.max_epochs?"]),
        (["--trainer.foo=5"], ["no option --trainer.foo: see vqlab fit --help"]),
        (["--nam=x"], ["did you mean --name?"]),
        (["--ckpt=x"], ["did you mean --ckpt_path?"]),
        (["--lr=1"], ["did you mean --model.lr?"]),
        (["--batch_size=1"], ["did you mean --data.batch_size?"]),
        (["--data.batchsize=1"], ["Digits has no option 'batchsize': did you mean --data.batch_size?"]),
        (["--checkpoint.monitr=x"], ["did you mean --checkpoint.monitor?"]),
        (["--model.encoder.foo=1"], ["SmallEncoder has no option 'foo'", "hidden_channels"]),
        (["--model.encoder.foo.bar=1"], ["SmallEncoder has no option 'foo.bar'"]),
        (["--model.quantizer=FSQ", "--model.quantizer.num_embeddings=5"], ["FSQ has no option", "choose from levels"]),
        (["--model.quantizer=FSQ", "--model.quantizer.level=5"], ["did you mean --model.quantizer.levels?"]),
        (
            ["--model.quantizer=ResidualQuantizer", "--model.quantizer.quantizer.num_embeddings=5"],
            ["put --model.quantizer.quantizer=CLASS in front", "FSQ"],
        ),
        (["--trainer.callbacks=Foo"], ["no class 'Foo'", "dotted path"]),
        (["--trainer.strategy=dpp"], ["'dpp'", "ddp"]),
        (["--trainer", "x.yaml"], ["--trainer: 'x.yaml' is not a configuration file"]),
        (["--model.lr"], ["--model.lr needs a value"]),
        (["--trainer.max_steps"], ["--trainer.max_steps needs a value"]),
        (["configs/vqgan.yaml"], ["did you mean --config configs/vqgan.yaml?"]),
        (["last.ckpt"], ["did you mean --ckpt_path last.ckpt?"]),
        (["fast"], ["'fast' belongs to no option"]),
        (
            [f"--model.quantizer{part}" for part in ("=ResidualQuantizer", ".quantizer=FSQ", ".quantizer.levels=[1]")],
            ["--model.quantizer.quantizer.levels"],
        ),
        (["--model.decoder=ConvDecoder", "--model.decoder.attention_levels=[9]"], ["--model.decoder.attention_levels"]),
        (["--model=JSA", "--model.prior=Transformer"], ["Transformer needs num_tokens, length"]),
        (
            [
                "--model=JSA",
                "--model.prior=Transformer",
                "--model.prior.num_tokens=9",
                "--model.prior.length=4",
                *SIZES,
            ],
            ["--model.prior.dim"],
        ),
    ],
)
def test_options_that_do_not_exist(capsys, args, words):
    complaint = fails(capsys, [*FIT, *args])
    for word in words:
        assert word in complaint
    assert len(complaint) < 240


def test_options_in_a_file_that_do_not_exist(capsys):
    Path("a.yaml").write_text("trainer: {max_stepz: 1}")
    assert "no option trainer.max_stepz: did you mean --trainer.max_steps?" in fails(capsys, ["fit", "--config=a.yaml"])
    Path("b.yaml").write_text("data: {class_path: Digits, init_args: {batchsize: 1}}")
    assert "did you mean --data.batch_size?" in fails(capsys, ["fit", "--config=b.yaml", "--model=VQVAE"])
    Path("c.yaml").write_text("trainer: {callbacks: [null]}")
    complaint = fails(capsys, ["fit", *NETS, *DATA, "--config=c.yaml"])
    assert "--trainer.callbacks must name a class, got null" in complaint


def test_an_error_stands_alone(capsys):
    complaint = fails(capsys, [*FIT, "--model.lr=0", "--model.base_lr=0"])
    assert "lr" in complaint
    main([*FIT, "--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=50"])
    printed = "".join(capsys.readouterr())
    assert "Seed set to" not in printed
    assert "logging interval" not in printed


@pytest.mark.parametrize("flag", ["-V", "--version", "version"])
def test_the_version_is_printed(capsys, flag):
    main([flag])
    assert capsys.readouterr().out.startswith("vqlab 0.")
