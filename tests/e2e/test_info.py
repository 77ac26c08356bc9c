"""vqlab info, of a trained checkpoint and of what is none."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import vqlab
from tests.e2e.tiny import fails, fit
from vqlab.cli.main import main
from vqlab.cli.save_config import git_revision

BEST = Path("runs/vqvae/first/checkpoints/best.ckpt")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of twenty steps with two validations and averaged weights."""
    folder = tmp_path_factory.mktemp("info")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit("--name=first", "--trainer.max_steps=20", "--trainer.val_check_interval=10", "--ema.decay=0.9")
    return folder


def facts(capsys, path) -> dict:
    main(["info", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def shown(capsys, path) -> dict[str, str]:
    """What is on the screen, by first word."""
    main(["info", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path)
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if line.strip()}


def test_facts_are_those_of_the_checkpoint_and_the_log(run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    screen, found, checkpoint = shown(capsys, BEST), facts(capsys, BEST), torch.load(BEST, weights_only=True)
    expected = {
        "model": "VQVAE", "data": "Digits", "step": f"{checkpoint['global_step']} of 20, epoch 0", "run": "finished",
        "model.quantizer": "VectorQuantizer", "model.quantizer.num_embeddings": "32", "data.batch_size": "32",
    }  # fmt: skip
    assert {name: screen[name] for name in expected} == expected
    assert screen["ema"].endswith("decay 0.9")
    assert f"vqlab {vqlab.__version__}" in screen["made"]
    assert f"torch {torch.__version__}" in screen["made"]
    sizes = {name: value.numel() for name, value in checkpoint["state_dict"].items()}
    assert found["weights"]["values"] == sum(sizes.values())
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    assert found["weights"]["parts"]["encoder"] == encoder
    best = checkpoint["callbacks"]["LastAndBest"]
    loss = found["metrics"]["val/loss"]
    assert next(iter(found["metrics"])) == "val/loss", "the monitored metric comes first"
    assert (loss["best"], loss["best_step"]) == (pytest.approx(best["best_score"]), best["best_step"])
    assert (loss["here"], loss["last_step"]) == (loss["best"], 20)
    assert yaml.safe_load(checkpoint["config"]) == yaml.safe_load(Path("runs/vqvae/first/config.yaml").read_text())
    assert checkpoint["made_by"].get("revision", "") == git_revision()


def test_checkpoints_without_their_run_and_from_notebooks(run, capsys, tmp_path):
    alone = tmp_path / "alone.ckpt"
    shutil.copy(run / BEST, alone)
    found, there = facts(capsys, alone), facts(capsys, run / BEST)
    for name in ("model", "data", "model_settings", "data_settings", "made_by", "ema", "max_steps"):
        assert found[name] == there[name], name
    assert found["run"] is None
    checkpoint = torch.load(alone, weights_only=True)
    best = checkpoint["callbacks"]["LastAndBest"]
    assert found["metrics"] == {"val/loss": {"best": best["best_score"], "best_step": best["best_step"]}}

    for name in ("made_by", "config", "callbacks", "averaging_state", "current_model_state"):
        del checkpoint[name]
    torch.save(checkpoint, "old.ckpt")
    screen = shown(capsys, "old.ckpt")
    assert (screen["data"], screen["ema"], screen["model.lr"]) == ("not recorded", "no", "0.002")
    assert screen["made"].startswith("by  lightning 2")


def test_what_is_no_checkpoint_of_vqlab(run, capsys, tmp_path):
    whole = (run / BEST).read_bytes()
    Path("torn.ckpt").write_bytes(whole[: len(whole) // 2])
    Path("text.ckpt").write_text("no checkpoint\n")
    checkpoint = torch.load(run / BEST, weights_only=True)
    torch.save(checkpoint["state_dict"], "weights.ckpt")
    torch.save({**checkpoint, "hyper_parameters": {"lr": 1}}, "foreign.ckpt")
    torch.save({**checkpoint, "path": Path("x")}, "code.ckpt")
    before = sorted(Path().iterdir())
    for name, words in {
        "missing.ckpt": "does not exist",
        ".": "is a folder",
        "torn.ckpt": "is damaged or no checkpoint",
        "text.ckpt": "is damaged or no checkpoint",
        "weights.ckpt": "has no state_dict",
        "foreign.ckpt": "was not made by a vqlab model",
        "code.ckpt": "refuses to unpickle (pathlib",
    }.items():
        assert words in fails(capsys, ["info", name])
    assert "vqlab info --help" in fails(capsys, ["info"])
    assert sorted(Path().iterdir()) == before


def test_it_is_quick_for_it_needs_no_torch(run):
    asked = (
        "import sys; from vqlab.cli.main import main; main(sys.argv[1:]); print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", asked, "info", run / BEST], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_reader_that_has_seen_enough(run):
    process = subprocess.Popen(
        [sys.executable, "-m", "vqlab", "info", run / BEST], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def test_no_revision_where_git_knows_nothing_of_the_files(tmp_path):
    assert git_revision(tmp_path) == ""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "vqlab").mkdir()
    assert git_revision(tmp_path / "vqlab") == "", "installed inside a repository that does not hold it"
