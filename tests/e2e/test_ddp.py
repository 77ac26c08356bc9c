"""Two processes train what one process trains with the same global batch."""

from pathlib import Path

import pytest
import torch

from tests.e2e.tiny import FIT, command, fit, logged

RANK_CHECK = '''
import lightning, torch

class SaveQuantizer(lightning.Callback):
    """Write every rank's own codebook state, which a checkpoint of rank 0 would hide."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.quantizer.state_dict(), f"quantizer_{trainer.global_rank}.pt")

class NaNOnRank1(lightning.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 3:
            batch["image"][0] = float("nan")
'''
COMMON = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"]


def run_two(*options: str, path: Path) -> tuple[int, str]:
    (path / "rank_check.py").write_text(RANK_CHECK)
    process = command(*FIT, "--trainer.devices=2", *COMMON, *options, PYTHONPATH=str(path))
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_two_processes_equal_one(tmp_path, codebook_update):
    # A small rate: at a large one, rounding alone drives the runs apart tenfold every few steps.
    options = ["--trainer.max_steps=50", f"--model.quantizer.codebook_update={codebook_update}", "--model.lr=0.0005"]
    own = ["--name=two", "--data.batch_size=16", "--trainer.callbacks+=rank_check.SaveQuantizer"]
    status, output = run_two(*options, *own, path=tmp_path)
    assert status == 0, output
    first, second = (torch.load(f"quantizer_{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs between the ranks"
    assert first["steps"] == 50

    fit("--name=one", *options, *COMMON, "--data.batch_size=32")
    one, two = (logged(f"runs/vqvae/{name}/metrics.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 10
    for row, expected in zip(two, one, strict=True):
        # train/loss is of rank 0's own half of the batch; the validation every 5 steps is the curve to compare.
        for name in ("val/loss", "val/rec_loss", "val/psnr"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name
        # Perplexity is no continuous function: one of 2,560 assignments that rounding flips moves it by some 4e-4.
        for name in ("val/perplexity", "train/perplexity"):
            assert row[name] == pytest.approx(expected[name], rel=2e-3), name


def test_nan_on_one_rank_stops_both(tmp_path):
    options = ["--name=nan", "--trainer.max_steps=50", "--trainer.callbacks+=rank_check.NaNOnRank1"]
    status, output = run_two(*options, path=tmp_path)
    assert status == 2
    assert "rec_loss, commitment_loss is NaN or infinite at batch 3" in output
    assert "Traceback" not in output
    assert Path("runs/vqvae/nan/health.jsonl").read_text().count('"non_finite"') == 1
