"""A run folder or checkpoint from somewhere else runs nothing, imports nothing and is refused in one line."""

import copy
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch
import yaml

from tests.e2e.tiny import fails, fit
from vqlab.cli.check_options import Checked
from vqlab.cli.lightning import ALWAYS, CLI, prepare
from vqlab.cli.main import main
from vqlab.cli.trust import Untrusted, trusted
from vqlab.experiments.settings import flatten

EXECUTED = Path("executed")
SHELL = f"__import__('os').system('touch {EXECUTED}')"
LAMBDA = {"class_path": "sympy.core.function.Lambda", "dict_kwargs": {"signature": "x", "expr": SHELL}}
POPEN = {"class_path": "vqlab.experiments.runner.subprocess.Popen", "init_args": {"args": ["touch", str(EXECUTED)]}}
OWN = {"class_path": "payload.Net", "init_args": {}}
LAST = "runs/vqvae/it/checkpoints/last.ckpt"
HINT = "pass --config runs/vqvae/it/config.yaml to trust it"


def callback(name, **options):
    return [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": options}]


def under(**changes):
    """A function that sets dotted names, ``__`` for the dot, in the config of a sound run."""

    def change(config):
        for name, value in changes.items():
            *parents, last = name.split("__")
            place = config
            for parent in parents:
                place = place[parent]
                place = place.get("init_args", place)
            place[last] = copy.deepcopy(value)
        return config

    return change


NINES = [(n, ", ".join([f"*k{n - 1}"] * 9)) for n in range(1, 30)]  # each line holds the line above nine times
ALIASES = "\n".join(["k0: &k0 [1, 2]", *(f"k{n}: &k{n} [{nine}]" for n, nine in NINES)])
MERGED = "\n".join(["k0: &k0 {a: 1}", *(f"k{n}: &k{n} {{<<: [{nine}]}}" for n, nine in NINES)])
# What a hostile configuration says, and what the refusal names.
HOSTILE = {
    "callback with a function that evaluates text": (
        under(trainer__callbacks=callback("LambdaCallback", on_validation_start=LAMBDA)),
        "'lightning.pytorch.callbacks.LambdaCallback' (trainer.callbacks)",
    ),
    "callback as a text": (under(trainer__callbacks="payload.Net"), "'payload.Net' (trainer.callbacks)"),
    "callback by its short name": (under(trainer__callbacks=["LambdaCallback"]), "'LambdaCallback'"),
    "one callback without a list": (under(trainer__callbacks=OWN), "'payload.Net'"),
    "logger": (under(trainer__logger=OWN), "'payload.Net' (trainer.logger)"),
    "logger as a text": (under(trainer__logger="payload.Net"), "'payload.Net' (trainer.logger)"),
    "plugins": (under(trainer__plugins=[OWN]), "'payload.Net' (trainer.plugins)"),
    "plugins as a text": (under(trainer__plugins="payload"), "'payload' (trainer.plugins)"),
    "profiler": (under(trainer__profiler=OWN), "'payload.Net' (trainer.profiler)"),
    "strategy": (under(trainer__strategy=OWN), "'payload.Net' (trainer.strategy)"),
    "strategy as a text": (under(trainer__strategy="payload.Net"), "'payload.Net' (trainer.strategy)"),
    "accelerator as a text": (under(trainer__accelerator="payload.Net"), "'payload.Net' (trainer.accelerator)"),
    "folder of the Trainer": (under(trainer__default_root_dir="/tmp/x"), "'/tmp/x' (trainer.default_root_dir)"),
    "Trainer as a file": (under(trainer="payload.yaml"), "'payload.yaml' (trainer)"),
    "model": (under(model=OWN), "'payload.Net' (model)"),
    "model as a text": (under(model="os.system"), "'os.system' (model)"),
    "model as a file": (under(model="payload.yaml"), "'payload.yaml' (model)"),
    "data": (under(data=OWN), "'payload.Net' (data)"),
    "data that are a model": (under(data={"class_path": "vqlab.VQVAE"}), "'vqlab.VQVAE' (data)"),
    "network": (under(model__encoder=OWN), "'payload.Net' (model.encoder)"),
    "network as a text": (under(model__encoder="payload.Net"), "'payload.Net' (model.encoder)"),
    "network of torch": (under(model__encoder={"class_path": "torch.nn.Identity"}), "'torch.nn.Identity'"),
    "network that downloads": (
        under(model__encoder={"class_path": "torchmetrics.functional.image.lpips._LPIPS", "init_args": {}}),
        "'torchmetrics.functional.image.lpips._LPIPS' (model.encoder)",
    ),
    "quantizer in a list": (under(model__quantizer=[OWN]), "'payload.Net' (model.quantizer)"),
    "name that another module holds": (under(model__encoder=POPEN), "'vqlab.experiments.runner.subprocess.Popen'"),
    "class that vqlab imports": (
        under(model__encoder={"class_path": "vqlab.cli.run_folder.Path"}),
        "'vqlab.cli.run_folder.Path'",
    ),
    "function of vqlab": (under(model__encoder={"class_path": "vqlab.cli.main.main"}), "'vqlab.cli.main.main'"),
    "dataclass as a text": (
        under(model__optimization={"schedule": "payload.Net"}),
        "'payload.Net' (model.optimization.schedule)",
    ),
    "class under a number": (under(model__lr=OWN), "'payload.Net' (model.lr)"),
    "text under a number": (under(model__lr="payload.Net"), "'payload.Net' (model.lr)"),
    "class in betas": (under(model__optimization={"betas": [0.9, OWN]}), "'payload.Net' (model.optimization.betas)"),
    "unknown argument": (under(model__surprise="payload.Net"), "'payload.Net' (model.surprise)"),
    "arguments beside init_args": (
        under(model={"class_path": "vqlab.VQVAE", "dict_kwargs": {"x": 1}}),
        "'dict_kwargs' (model)",
    ),
    "init_args as a file": (under(model={"class_path": "vqlab.VQVAE", "init_args": "a.yaml"}), "'a.yaml' (model)"),
    "folder that is tidied up": (
        under(data={"class_path": "vqlab.ImageShards", "init_args": {"path": "https://x", "cache": "/home"}}),
        "'/home' (data.cache)",
    ),
    "callback of vqlab's that is another": (under(checkpoint=OWN), "'payload.Net' (checkpoint"),
    "health as a text": (under(health="payload.yaml"), "'payload.yaml' (health)"),
    "class under wandb": (under(wandb__project=OWN), "'payload.Net' (wandb.project)"),
    "seed": (under(seed_everything="payload.Net"), "'payload.Net' (seed_everything)"),
    "optimizer": (under(optimizer={"class_path": "torch.optim.Adam"}), "'torch.optim.Adam' (optimizer)"),
    "another config": (under(config="payload.yaml"), "'payload.yaml' (config)"),
    "path of the parser": (lambda config: config | {"__path__": "payload.yaml"}, "'payload.yaml' (__path__)"),
    "subcommand": (under(fit={"trainer": {"callbacks": [OWN]}}), "'payload.Net' (fit)"),
    "escape codes": (under(model="\x1b[2Jx.y\nz"), r"'\x1b[2Jx.y\nz' (model)"),
}
# Texts that are no configuration at all.
TEXTS = {
    "tag that calls": f"trainer: !!python/object/apply:os.system ['touch {EXECUTED}']",
    "tag that imports": "model: !!python/name:payload.Net",
    "tag that reads": "model: !include payload.yaml",
    "aliases": ALIASES,
    "merged aliases": MERGED,
    "alias of itself": "model: &m [*m]",
    "brackets": "model: " + "[" * 5000,
    "mappings": "model: " + "{a: " * 3000,
    "large": "model: " + "x" * 2_000_000,
    "date": "seed_everything: 2026-99-99",
    "key": "? [a, b]\n: 1",
    "list": "[1, 2]",
    "number": 7,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The config and the checkpoint of a sound run."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit("--name=it", "--trainer.max_steps=1")
        checkpoint = torch.load(LAST, weights_only=True)
    return yaml.safe_load(checkpoint["config"]), checkpoint


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module in the working folder, importable as under ``python -m vqlab``, that leaves a mark when imported."""
    Path("payload.py").write_text(f"open('{EXECUTED}', 'w')\nclass Net:\n    pass\n")
    Path("payload.yaml").write_text("class_path: payload.Net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not EXECUTED.exists()
    assert "payload" not in sys.modules


def put(run, text, where="checkpoint"):
    """Write a run folder whose checkpoint, or config.yaml alone, holds ``text``."""
    _, checkpoint = run
    Path(LAST).parent.mkdir(parents=True)
    checkpoint = {key: value for key, value in checkpoint.items() if key != "config"}
    if where == "checkpoint":
        checkpoint["config"] = text
    torch.save(checkpoint, LAST)
    Path("runs/vqvae/it/config.yaml").write_text("{}" if where == "checkpoint" else text)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_is_refused(run, capsys, name):
    change, words = HOSTILE[name]
    put(run, yaml.safe_dump(change(copy.deepcopy(run[0]))))
    complaint = fails(capsys, ["validate", f"--ckpt_path={LAST}"])
    assert f"this run's config names {words}" in complaint
    assert complaint.endswith(HINT)
    assert len(complaint) < 250


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_configuration_is_refused(run, capsys, text):
    put(run, text)
    complaint = fails(capsys, ["validate", f"--ckpt_path={LAST}"])
    assert "this run's config" in complaint
    assert complaint.endswith(HINT)
    assert len(complaint) < 250


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_each_command_refuses_the_config_of_a_folder_whose_checkpoint_holds_none(run, capsys, command):
    change, words = HOSTILE["callback with a function that evaluates text"]
    put(run, yaml.safe_dump(change(copy.deepcopy(run[0]))), where="folder")
    for given in ([f"--ckpt_path={LAST}"], ["--ckpt_path", LAST]):
        assert words in fails(capsys, [command, *given])


def test_a_checkpoint_outside_of_a_run_is_refused_without_naming_a_file(run, capsys):
    Path("x").mkdir()
    torch.save(run[1] | {"config": "model: os.system"}, "x/a.ckpt")
    assert fails(capsys, ["test", "--ckpt_path=x/a.ckpt"]).endswith("pass a --config of your own to trust it")


def test_a_hostile_folder_beside_a_sound_checkpoint_is_not_read(run, capsys):
    put(run, run[1]["config"])
    Path("runs/vqvae/it/config.yaml").write_text(f"trainer: !!python/object/apply:os.system ['touch {EXECUTED}']")
    main(["validate", f"--ckpt_path={LAST}"])
    assert not EXECUTED.exists()


def test_a_config_that_is_passed_is_trusted(run, capsys):
    own = under(trainer__callbacks=callback("LambdaCallback"), trainer__max_steps=1)(copy.deepcopy(run[0]))
    put(run, yaml.safe_dump(own))
    Path("runs/vqvae/it/config.yaml").write_text(yaml.safe_dump(own))
    assert fails(capsys, ["validate", f"--ckpt_path={LAST}"]).endswith(HINT)
    main(["validate", "--config", "runs/vqvae/it/config.yaml", f"--ckpt_path={LAST}"])


def test_what_decides_where_files_go_is_not_taken(run):
    mine = {"runs": "/elsewhere", "name": "../x", "codes": "/etc/x.npz", "weights_only": False, "ckpt_path": "x.ckpt"}
    taken = trusted(run[0] | mine, ALWAYS)
    assert not {*mine, "font", "family"} & set(taken)
    assert taken["trainer"] == run[0]["trainer"]
    assert taken["data"]["init_args"] == run[0]["data"]["init_args"]


def test_a_checkpoint_named_like_a_module_is_a_file():
    config = {"model": {"class_path": "vqlab.CodePrior", "init_args": {"tokenizer": "best.ckpt"}}}
    assert trusted(config, {})["model"]["init_args"]["tokenizer"] == "./best.ckpt"
    with pytest.raises(Untrusted, match=r"'os.system' \(model.dim\)"):
        trusted({"model": {"class_path": "vqlab.CodePrior", "init_args": {"dim": "os.system"}}}, {})


def test_every_config_of_vqlab_is_trusted():
    """As the parser completes it and a run stores it, so that a resume is one short command."""
    configs = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert len(configs) > 5
    prepare()

    class Completed(CLI):
        def parse_arguments(self, parser, args):
            for config in configs:
                super().parse_arguments(parser, ["fit", "--config", str(config)])
                text = self._parser("fit").dump(self.config["fit"], skip_unset=False, skip_link_targets=True)
                whole = yaml.safe_load(text)
                taken = trusted(whole, ALWAYS)
                assert taken["trainer"] == whole["trainer"], config.name
                for group in ("model", "data"):
                    assert flatten({group: taken[group]}) == flatten({group: whole[group]}), config.name
            raise Checked

    with suppress(Checked):
        Completed(args=[], held=ExitStack())
