"""``vqlab info`` of a trained checkpoint; tests/experiments has damaged ones."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

import vqlab
from vqlab.cli.main import main
from vqlab.cli.save_config import git_revision


@pytest.fixture(scope="module")
def best(first):
    return first / "checkpoints/best.ckpt"


def info(capsys, path) -> tuple[dict[str, str], dict]:
    """Return the printed lines by first word, and the content of the JSON output."""
    main(["info", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(path)
    main(["info", str(path), "--json"])
    printed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if line.strip()}
    return printed, json.loads(capsys.readouterr().out)


def test_info_agrees_with_the_checkpoint_and_the_log(best, capsys):
    (screen, found), checkpoint = info(capsys, best), torch.load(best, weights_only=True)
    expected = {
        "model": "VQVAE", "data": "Digits", "step": f"{checkpoint['global_step']} of 20, epoch 0", "run": "finished",
        "model.quantizer": "VectorQuantizer", "model.quantizer.num_embeddings": "32", "data.batch_size": "32",
    }  # fmt: skip
    assert {name: screen[name] for name in expected} == expected
    assert screen["ema"].endswith("decay 0.9")
    assert f"vqlab {vqlab.__version__}" in screen["made"]
    sizes = {name: value.numel() for name, value in checkpoint["state_dict"].items()}
    assert found["weights"]["values"] == sum(sizes.values())
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    assert found["weights"]["parts"]["encoder"] == encoder
    state, loss = checkpoint["callbacks"]["LastAndBest"], found["metrics"]["val/loss"]
    assert next(iter(found["metrics"])) == "val/loss", "the monitored metric comes first"
    assert (loss["best"], loss["best_step"]) == (pytest.approx(state["best_score"]), state["best_step"])
    assert (loss["here"], loss["last_step"]) == (loss["best"], 20)
    assert yaml.safe_load(checkpoint["config"]) == yaml.safe_load((best.parents[1] / "config.yaml").read_text())
    assert checkpoint["made_by"].get("revision", "") == git_revision()


def test_info_of_checkpoints_without_their_run_and_from_notebooks(best, capsys):
    shutil.copy(best, "alone.ckpt")
    (_, found), (_, there) = info(capsys, "alone.ckpt"), info(capsys, best)
    for name in ("model", "data", "model_settings", "data_settings", "made_by", "ema", "max_steps"):
        assert found[name] == there[name], name
    assert found["run"] is None
    checkpoint = torch.load("alone.ckpt", weights_only=True)
    state = checkpoint["callbacks"]["LastAndBest"]
    assert found["metrics"] == {"val/loss": {"best": state["best_score"], "best_step": state["best_step"]}}
    for name in ("made_by", "config", "callbacks", "averaging_state", "current_model_state"):
        del checkpoint[name]
    torch.save(checkpoint, "old.ckpt")
    screen, _ = info(capsys, "old.ckpt")
    assert (screen["data"], screen["ema"], screen["model.lr"]) == ("not recorded", "no", "0.002")


def test_info_does_not_import_torch(best):
    main = "import sys; from vqlab.cli.main import main; main(sys.argv[1:])"
    code = f"{main}; print({{'torch', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "info", best], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_revision_is_empty_outside_a_repository_that_tracks_the_files(tmp_path):
    assert git_revision(tmp_path) == ""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "vqlab").mkdir()
    assert git_revision(tmp_path / "vqlab") == "", "installed inside another repository"
