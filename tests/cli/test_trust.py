"""The configuration of a foreign run folder or checkpoint runs and imports nothing, and is refused in one line."""

import copy
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch
import yaml

from tests.e2e.tiny import fails, fit
from vqlab.cli.lightning import ALWAYS, CLI, Checked, prepare
from vqlab.cli.main import main
from vqlab.cli.trust import Untrusted, trusted
from vqlab.experiments.settings import flatten

EXECUTED = Path("executed")
TAG = f"trainer: !!python/object/apply:os.system ['touch {EXECUTED}']"
OWN = {"class_path": "payload.Net", "init_args": {}}
CALLBACK = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {}}
LAST = "runs/vqvae/it/checkpoints/last.ckpt"
HINT = "pass --config runs/vqvae/it/config.yaml to trust it"
SOUND = {
    "model": {"class_path": "vqlab.VQVAE", "init_args": {"lr": 0.1, "optimization": {"clip": None}}},
    "data": {"class_path": "vqlab.Digits", "init_args": {"batch_size": 8}},
    "trainer": {"max_steps": 3, "strategy": "auto"},
}
# Setting, hostile value, beginning of the message.
HOSTILE = [
    ("trainer.callbacks", [CALLBACK], "lightning.pytorch.callbacks.LambdaCallback"),
    ("trainer.callbacks", ["LambdaCallback"], "LambdaCallback"),
    ("trainer.logger", OWN, "payload.Net"),
    ("trainer.plugins", ["payload"], "payload"),
    ("trainer.strategy", "payload.Net", "payload.Net"),
    ("trainer.default_root_dir", "/tmp/x", "/tmp/x"),
    ("trainer", "payload.yaml", "payload.yaml"),
    ("model", OWN, "payload.Net"),
    ("model", "os.system", "os.system"),
    ("model", {"class_path": "vqlab.VQVAE", "init_args": "a.yaml"}, "a.yaml"),
    ("model", {"class_path": "vqlab.VQVAE", "dict_kwargs": {"x": 1}}, "vqlab.VQVAE"),
    ("model", "\x1b[2Jx.y\nz", r"\x1b[2Jx.y\nz"),
    ("data", {"class_path": "vqlab.VQVAE"}, "vqlab.VQVAE"),
    ("data", {"class_path": "vqlab.ImageShards", "init_args": {"cache": "/home"}}, "/home"),
    ("model.encoder", "payload.Net", "payload.Net"),
    ("model.encoder", {"class_path": "torch.nn.Identity"}, "torch.nn.Identity"),
    ("model.encoder", {"class_path": "vqlab.experiments.runner.subprocess.Popen"}, "vqlab.experiments.runner.subproc"),
    ("model.encoder", {"class_path": "vqlab.cli.run_folder.Path"}, "vqlab.cli.run_folder.Path"),
    ("model.encoder", {"class_path": "vqlab.cli.main.main"}, "vqlab.cli.main.main"),
    ("model.quantizer", [OWN], "payload.Net"),
    ("model.lr", "payload.Net", "payload.Net"),
    ("model.optimization", {"schedule": "payload.Net"}, "payload.Net"),
    ("model.optimization", {"betas": [0.9, OWN]}, "payload.Net"),
    ("checkpoint", OWN, "payload.Net"),
    ("wandb", {"project": OWN}, "payload.Net"),
    ("seed_everything", "payload.Net", "payload.Net"),
    ("optimizer", OWN, "payload.Net"),
]


def changed(name, value):
    """Return the sound configuration with one setting replaced."""
    config = copy.deepcopy(SOUND)
    group, _, argument = name.partition(".")
    if argument:
        place = config[group].get("init_args", config[group])
        place[argument] = value
    else:
        config[group] = value
    return config


@pytest.mark.parametrize(("name", "value", "named"), HOSTILE)
def test_hostile_setting_is_refused(tmp_path, monkeypatch, name, value, named):
    Path("payload.py").write_text(f"open('{EXECUTED}', 'w')\nclass Net:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert trusted(SOUND, ALWAYS)["trainer"] == SOUND["trainer"]
    with pytest.raises(Untrusted) as refused:
        trusted(changed(name, value), ALWAYS)
    assert str(refused.value).startswith(f"'{named}")
    assert "payload" not in sys.modules


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of a sound run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        fit("--name=it", "--trainer.max_steps=1")
        return torch.load(LAST, weights_only=True)


def put(checkpoint, config, in_folder="{}"):
    """Write a run folder with ``config`` in its checkpoint, None for none, and ``in_folder`` as config.yaml."""
    Path(LAST).parent.mkdir(parents=True, exist_ok=True)
    others = {key: value for key, value in checkpoint.items() if key != "config"}
    torch.save(others if config is None else {**others, "config": config}, LAST)
    Path("runs/vqvae/it/config.yaml").write_text(in_folder)


@pytest.mark.parametrize(
    "text",
    [TAG, "model: !!python/name:payload.Net", "model: &m [*m]", "model: " + "[" * 5000, "model: " + "x" * 2_000_000, 7],
    ids=["tag that calls", "tag that imports", "alias of itself", "brackets", "large", "number"],
)
def test_invalid_text_is_refused(checkpoint, capsys, text):
    put(checkpoint, text)
    message = fails(capsys, ["validate", f"--ckpt_path={LAST}"])
    assert "this run's config" in message
    assert message.endswith(HINT)
    assert not EXECUTED.exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_each_command_refuses_hostile_checkpoint_and_folder(checkpoint, capsys, command):
    hostile = yaml.safe_dump(changed("trainer.callbacks", [CALLBACK]))
    for places in ((hostile,), (None, hostile)):
        put(checkpoint, *places)
        message = fails(capsys, [command, "--ckpt_path", LAST])
        assert "names 'lightning.pytorch.callbacks.LambdaCallback' (trainer.callbacks)" in message
        assert message.endswith(HINT)
    put(checkpoint, hostile)
    Path(LAST).rename("alone.ckpt")
    assert fails(capsys, [command, "--ckpt_path=alone.ckpt"]).endswith("pass a --config of your own to trust it")


def test_config_of_the_folder_is_not_read_if_the_checkpoint_has_one_and_passed_config_is_trusted(checkpoint):
    put(checkpoint, checkpoint["config"], TAG)
    main(["validate", f"--ckpt_path={LAST}"])
    assert not EXECUTED.exists()
    own = yaml.safe_load(checkpoint["config"])
    own["trainer"]["callbacks"] = [CALLBACK]
    Path("own.yaml").write_text(yaml.safe_dump(own))
    main(["validate", "--config=own.yaml", f"--ckpt_path={LAST}"])


def test_options_for_places_of_files_are_ignored():
    mine = {"runs": "/elsewhere", "name": "../x", "codes": "/etc/x.npz", "weights_only": False, "ckpt_path": "x.ckpt"}
    assert trusted(SOUND | mine, ALWAYS).keys() == SOUND.keys()


def test_checkpoint_path_is_not_read_as_a_class():
    config = {"model": {"class_path": "vqlab.CodePrior", "init_args": {"tokenizer": "best.ckpt"}}}
    assert trusted(config, {})["model"]["init_args"]["tokenizer"] == "./best.ckpt"


def test_builtin_configs_are_trusted():
    """In the complete form that a run stores, so that its checkpoints need no ``--config``."""
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
