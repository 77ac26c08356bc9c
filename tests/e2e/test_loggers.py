"""What a short run leaves in W&B, TensorBoard and metrics.csv, read back from the files."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.tiny import FIT, command, fails, fit, logged
from tests.helpers.logs_read_back import read_tensorboard, read_wandb
from vqlab.cli.main import main

RUN = Path("runs/vqvae/first")
QUICK = ["--name=first", "--trainer.max_steps=20", "--trainer.val_check_interval=10"]


@pytest.fixture(autouse=True)
def ended(monkeypatch, tmp_path):
    """Keep W&B's copies in the test's folder, and end its run."""
    import wandb

    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    yield
    wandb.finish()


def test_all_loggers_hold_the_same():
    # In a process of its own, because W&B keeps what an earlier run of the same process began.
    process = command(*FIT, *QUICK, "--wandb.mode=offline", "--wandb.log_model=true", "--tensorboard=true")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    rows, found, board = logged(RUN / "metrics.csv"), read_wandb(RUN), read_tensorboard(RUN / "tensorboard")
    for name in ("train/loss", "val/loss", "val/psnr", "lr/autoencoder", "grad_norm/encoder"):
        series = [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
        assert len(series) == (2 if name.startswith("val") else 4)
        assert [(row["trainer/global_step"], row[name]) for row in found.history if name in row] == series
        assert [(scalar.step, scalar.value) for scalar in board.Scalars(name)] == series
    for name in ("samples/step", "samples/codes"):
        images = [row for row in found.history if f"{name}/filenames" in row]
        assert [row["trainer/global_step"] for row in images] == [9, 19], "those of their validation's figures"
        assert all(list(RUN.glob(f"wandb/offline-run-*/files/{row[f'{name}/filenames'][0]}")) for row in images)
        assert [image.step for image in board.Images(name)] == [9, 19]
    uses = [row["samples/uses_per_code/values"] for row in found.history if "samples/uses_per_code/values" in row]
    assert [sum(values) for values in uses] == [32, 32], "one use per code"
    assert [round(h.histogram_value.num) for h in board.Histograms("samples/uses_per_code")] == [32, 32]
    assert found.config["config"]["model"]["init_args"]["quantizer"]["init_args"]["num_embeddings"] == 32
    assert found.config["config"]["data"]["init_args"]["batch_size"] == 32
    assert found.x == "trainer/global_step"

    (artifact,) = found.artifacts
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["callbacks"]["LastAndBest"]
    assert (artifact.type, {*artifact.aliases}) == ("model", {"latest", "best"})
    score = pytest.approx(best["best_score"])
    assert json.loads(artifact.metadata) == {"step": best["best_step"], "monitor": "val/loss", "score": score}
    (entry,) = artifact.manifest.contents
    assert entry.path == "model.ckpt"
    assert entry.size == (RUN / "checkpoints/best.ckpt").stat().st_size


def test_no_artifact_unless_it_is_asked_for():
    import wandb

    fit(*QUICK, "--wandb.mode=offline")
    wandb.finish()
    assert read_wandb(RUN).artifacts == []
    assert not (RUN / "tensorboard").exists()


def test_a_logger_of_the_users_comes_beside_the_log(capsys):
    own = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=board", "--trainer.logger.name=mine"]
    fit(*QUICK, *own)
    assert len(logged(RUN / "metrics.csv")) == 4
    board = read_tensorboard("board/mine/version_0")
    assert [image.step for image in board.Images("samples/step")] == [9, 19]
    main(["report", "runs"])
    assert "Best val/loss" in capsys.readouterr().out


def test_a_resumed_run_goes_on_in_the_same_board():
    fit(*QUICK, "--tensorboard=true")
    main(["fit", f"--ckpt_path={RUN}/checkpoints/last.ckpt", "--trainer.max_steps=40"])
    board = read_tensorboard(RUN / "tensorboard")
    assert [image.step for image in board.Images("samples/step")] == [9, 19, 29, 39]
    assert [scalar.step for scalar in board.Scalars("val/loss")] == [9, 19, 29, 39]


def test_where_tensorboard_is_not_installed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert "pip install 'vqlab[tensorboard]'" in fails(capsys, [*FIT, *QUICK, "--tensorboard=true"])
    assert not list(Path().iterdir())
