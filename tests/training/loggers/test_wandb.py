"""W&B without questions."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from vqlab.errors import UserError
from vqlab.training.loggers.wandb import wandb_logger


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A user without a key, settings, or a keyboard."""
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
    """Record how wandb would be started, without starting it."""
    import wandb

    calls = []

    def init(**kwargs):
        calls.append(kwargs)
        if kwargs["mode"] == "online" and wandb_fails:
            raise wandb_fails[0]
        return SimpleNamespace(id="x", define_metric=lambda *_, **__: None, name=kwargs["name"])

    wandb_fails = []
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr("vqlab.training.loggers.wandb.WandbLogger", lambda experiment: experiment)
    return SimpleNamespace(calls=calls, fails=wandb_fails, modes=lambda: [call["mode"] for call in calls])


def test_disabled(started, monkeypatch, tmp_path):
    assert wandb_logger(tmp_path / "run", "vqlab", "disabled") is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(tmp_path / "run", "vqlab", "auto") is None
    assert started.calls == []
    assert not (tmp_path / "run").exists()


def test_auto_without_a_key_writes_offline_and_never_asks(tmp_path):
    """The one real start."""
    logger = wandb_logger(tmp_path / "runs" / "first", "vqlab", "auto")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.experiment.finish()
    assert logger.experiment.settings._offline
    assert logger.experiment.name == "first"
    assert list((tmp_path / "runs/first/wandb").glob("offline-run-*/*.wandb")), "nothing was written"


@pytest.mark.parametrize("key", ["environment", "api.wandb.ai", "api.forge.coreweave.com", "wandb.example.org"])
def test_auto_with_a_key_goes_online(started, monkeypatch, tmp_path, nobody, key):
    if key == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
        (nobody / ".netrc").write_text(f"machine {key} login user password {'0' * 40}\n")
        (nobody / ".netrc").chmod(0o600)
    assert wandb_logger(tmp_path / "run", "mine", "auto").name == "run"
    assert started.modes() == ["online"]
    assert started.calls[0]["project"] == "mine"
    assert started.calls[0]["dir"] == tmp_path / "run"


@pytest.mark.parametrize(
    ("entries", "environment"),
    [
        ("machine example.org login user password secret\n", {}),  # a key for another server
        ("machine machine machine\n", {}),
        ("", {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}),  # the mode wins over the key
    ],
)
def test_auto_stays_offline(started, monkeypatch, tmp_path, nobody, entries, environment):
    (nobody / ".netrc").write_text(entries)
    (nobody / ".netrc").chmod(0o600)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wandb_logger(tmp_path / "run", "vqlab", "auto")
    assert started.modes() == ["offline"]


@pytest.mark.parametrize("error", [RuntimeError("no network\nsecond line"), TimeoutError(), Exception("api key")])
@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_failure_to_go_online_is_printed_and_the_run_goes_offline(
    started, monkeypatch, tmp_path, caplog, mode, error
):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    started.fails.append(error)
    assert wandb_logger(tmp_path / "run", "vqlab", mode) is not None
    assert started.modes() == ["online", "offline"]
    said = [record.getMessage() for record in caplog.records if "wandb could not go online" in record.getMessage()]
    assert len(said) == 1
    assert "\n" not in said[0]
    assert (str(error).splitlines() or ["TimeoutError"])[0] in said[0]


def test_an_unknown_mode_is_refused(started, tmp_path):
    with pytest.raises(UserError, match=r"onlin.*--wandb\.mode"):
        wandb_logger(tmp_path / "run", "vqlab", "onlin")
    assert started.calls == []
