"""vqlab info, of a trained checkpoint; tests/experiments has damaged ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import vqlab
from tests.e2e.tiny import fit
from vqlab.cli.main import main
from vqlab.cli.save_config import git_revision

BEST = Path("runs/vqvae/first/checkpoints/best.ckpt")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ten steps with two validations and averaged weights."""
    folder = tmp_path_factory.mktemp("info")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit("--name=first", "--trainer.max_steps=10", "--trainer.val_check_interval=5", "--ema.decay=0.9")
    return folder


def facts(capsys, path) -> dict:
    main(["info", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def shown(capsys, path) -> dict[str, str]:
    """Return what is printed, by first word."""
    main(["info", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path)
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if line.strip()}


def test_facts_are_those_of_the_checkpoint_and_the_log(run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    screen, found, checkpoint = shown(capsys, BEST), facts(capsys, BEST), torch.load(BEST, weights_only=True)
    expected = {
        "model": "VQVAE", "data": "Digits", "step": f"{checkpoint['global_step']} of 10, epoch 0", "run": "finished",
        "model.quantizer": "VectorQuantizer", "model.quantizer.num_embeddings": "32", "data.batch_size": "32",
    }  # fmt: skip
    assert {name: screen[name] for name in expected} == expected
    assert screen["ema"].endswith("decay 0.9")
    assert f"vqlab {vqlab.__version__}" in screen["made"]
    sizes = {name: value.numel() for name, value in checkpoint["state_dict"].items()}
    assert found["weights"]["values"] == sum(sizes.values())
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    assert found["weights"]["parts"]["encoder"] == encoder
    best, loss = checkpoint["callbacks"]["LastAndBest"], found["metrics"]["val/loss"]
    assert next(iter(found["metrics"])) == "val/loss", "the monitored metric comes first"
    assert (loss["best"], loss["best_step"]) == (pytest.approx(best["best_score"]), best["best_step"])
    assert (loss["here"], loss["last_step"]) == (loss["best"], 10)
    assert yaml.safe_load(checkpoint["config"]) == yaml.safe_load(Path("runs/vqvae/first/config.yaml").read_text())
    assert checkpoint["made_by"].get("revision", "") == git_revision()


def test_checkpoints_without_their_run_and_from_notebooks(run, capsys):
    shutil.copy(run / BEST, "alone.ckpt")
    found, there = facts(capsys, "alone.ckpt"), facts(capsys, run / BEST)
    for name in ("model", "data", "model_settings", "data_settings", "made_by", "ema", "max_steps"):
        assert found[name] == there[name], name
    assert found["run"] is None
    checkpoint = torch.load("alone.ckpt", weights_only=True)
    best = checkpoint["callbacks"]["LastAndBest"]
    assert found["metrics"] == {"val/loss": {"best": best["best_score"], "best_step": best["best_step"]}}
    for name in ("made_by", "config", "callbacks", "averaging_state", "current_model_state"):
        del checkpoint[name]
    torch.save(checkpoint, "old.ckpt")
    screen = shown(capsys, "old.ckpt")
    assert (screen["data"], screen["ema"], screen["model.lr"]) == ("not recorded", "no", "0.002")


def test_it_is_quick_for_it_needs_no_torch(run):
    main = "import sys; from vqlab.cli.main import main; main(sys.argv[1:])"
    asked = f"{main}; print({{'torch', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked, "info", run / BEST], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_no_revision_where_git_knows_nothing_of_the_files(tmp_path):
    assert git_revision(tmp_path) == ""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "vqlab").mkdir()
    assert git_revision(tmp_path / "vqlab") == "", "installed inside a repository that does not hold it"
