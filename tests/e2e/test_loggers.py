"""What a short run leaves in W&B, TensorBoard and metrics.csv, read back from the files."""

import json
from pathlib import Path

import pytest
import torch
import wandb

from tests.e2e.tiny import fit, logged
from tests.helpers.forks import fork, status_of
from tests.helpers.logs_read_back import read_tensorboard, read_wandb

RUN = Path("runs/vqvae/first")
QUICK = ["--name=first", "--trainer.max_steps=20", "--trainer.val_check_interval=10"]


def test_all_loggers_hold_the_same(tmp_path, monkeypatch):
    def run():
        own = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=own"]  # comes beside the others
        fit(*QUICK, *own, "--wandb.mode=offline", "--wandb.log_model=true", "--tensorboard=true")
        wandb.finish()

    # In a process of its own, because W&B keeps what an earlier run of the same process began.
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    assert status_of(fork(run)) == 0
    rows, found, board = logged(RUN / "metrics.csv"), read_wandb(RUN), read_tensorboard(RUN / "tensorboard")
    for name in ("train/loss", "val/loss", "val/psnr", "lr/autoencoder", "grad_norm/encoder"):
        series = [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
        assert len(series) == (2 if name.startswith("val") else 4)
        assert [(row["trainer/global_step"], row[name]) for row in found.history if name in row] == series
        assert [(scalar.step, scalar.value) for scalar in board.Scalars(name)] == series
    for name in ("samples/step", "samples/codes"):
        images = [row for row in found.history if f"{name}/filenames" in row]
        assert [row["trainer/global_step"] for row in images] == [9, 19], "those of their validation's metrics"
        assert all(list(RUN.glob(f"wandb/offline-run-*/files/{row[f'{name}/filenames'][0]}")) for row in images)
        assert [image.step for image in board.Images(name)] == [9, 19]
        assert [image.step for image in read_tensorboard(next(Path("own").glob("*/*"))).Images(name)] == [9, 19]
    uses = [row["samples/uses_per_code/values"] for row in found.history if "samples/uses_per_code/values" in row]
    assert [sum(values) for values in uses] == [32, 32], "one use per code"
    assert [round(h.histogram_value.num) for h in board.Histograms("samples/uses_per_code")] == [32, 32]
    assert found.config["config"]["model"]["init_args"]["quantizer"]["init_args"]["num_embeddings"] == 32
    assert found.x == "trainer/global_step"
    (artifact,) = found.artifacts
    best = torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["callbacks"]["LastAndBest"]
    assert (artifact.type, {*artifact.aliases}) == ("model", {"latest", "best"})
    score = pytest.approx(best["best_score"])
    assert json.loads(artifact.metadata) == {"step": best["best_step"], "monitor": "val/loss", "score": score}
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.size) == ("model.ckpt", (RUN / "checkpoints/best.ckpt").stat().st_size)
