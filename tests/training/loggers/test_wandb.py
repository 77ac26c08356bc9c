"""How W&B and TensorBoard are started."""

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.logs_read_back import read_tensorboard
from tests.helpers.refusal import refused
from vqlab.training.loggers.boards import tensorboard_logger, wandb_logger

KEY = "0" * 40


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The home folder of a user without API key, settings, and standard input."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    return home


@pytest.fixture
def started(monkeypatch):
    """Record the calls of ``wandb.init``; ``fails`` may be an error for the mode online."""
    import wandb

    found = SimpleNamespace(calls=[], fails=None)

    def init(**kwargs):
        found.calls.append(kwargs)
        if kwargs["mode"] == "online" and found.fails:
            raise found.fails
        return SimpleNamespace(id="x", define_metric=lambda *_, **__: None, name=kwargs["name"])

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr("vqlab.training.loggers.boards.WandbLogger", lambda experiment: experiment)
    return found


@pytest.mark.parametrize(
    ("mode", "environment", "netrc", "modes"),
    [
        ("disabled", {}, "", []),
        ("auto", {"WANDB_MODE": "disabled"}, "", []),
        ("auto", {"WANDB_API_KEY": KEY}, "", ["online"]),
        ("auto", {}, f"machine api.wandb.ai login user password {KEY}\n", ["online"]),
        ("auto", {}, f"machine api.forge.coreweave.com login user password {KEY}\n", ["online"]),
        ("auto", {"WANDB_BASE_URL": "https://a.org"}, f"machine a.org login user password {KEY}\n", ["online"]),
        ("auto", {}, "", ["offline"]),
        ("auto", {}, "machine example.org login user password secret\n", ["offline"]),
        ("auto", {}, "machine machine machine\n", ["offline"]),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "", ["offline"]),
    ],
)
def test_mode_follows_environment_and_netrc(started, monkeypatch, home, mode, environment, netrc, modes):
    (home / ".netrc").write_text(netrc)
    (home / ".netrc").chmod(0o600)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = wandb_logger("run", "mine", mode)
    assert [call["mode"] for call in started.calls] == modes
    assert bool(logger) == bool(modes)
    assert all(call["project"] == "mine" and call["dir"] == Path("run").absolute() for call in started.calls)


@pytest.mark.parametrize("error", [RuntimeError("no network\nsecond line"), TimeoutError()])
def test_failure_to_go_online_is_printed_and_logged_offline(started, caplog, error):
    caplog.set_level(logging.INFO)
    started.fails = error
    assert wandb_logger("run", "vqlab", "online") is not None
    assert [call["mode"] for call in started.calls] == ["online", "offline"]
    reason = (str(error).splitlines() or ["TimeoutError"])[0]
    assert f"wandb could not go online ({reason}); logging offline" in caplog.messages


def test_resumed_tensorboard_discards_later_steps():
    for first, last, value in ((0, 9, 1.0), (5, 12, 2.0)):
        logger = tensorboard_logger("run", first)
        assert first or not Path("run").exists(), "nothing is written before the first log"
        for step in range(first, last):
            logger.log_metrics({"val/loss": value}, step)
        logger.finalize("success")
    scalars = read_tensorboard("run/tensorboard").Scalars("val/loss")
    assert [scalar.step for scalar in scalars] == list(range(12))
    assert [scalar.value for scalar in scalars] == 5 * [1.0] + 7 * [2.0]


def test_unknown_mode_and_missing_tensorboard_are_refused(monkeypatch):
    with refused("onlin", "--wandb.mode"):
        wandb_logger("run", "vqlab", "onlin")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with refused("pip install 'vqlab[tensorboard]'"):
        tensorboard_logger("run")
