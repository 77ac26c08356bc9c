"""Two processes train what one process trains with the same global batch."""

import math
import re
from pathlib import Path

import pytest
import torch

from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import (
    FIT,
    STOPS,
    TRAINER,
    assert_equal,
    assert_same_log,
    command,
    fit,
    fit_on_two_ranks,
    logged,
    weights,
)
from tests.helpers.forks import on_two_ranks
from vqlab.cli.main import main

VALIDATED = ("val/loss", "val/rec_loss", "val/psnr")
REGULARISED = ["--model.adversarial.r1_weight=0.1", "--model.adversarial.disc_warmup=2"]
# In float32, one activation that rounding moves across LeakyReLU's kink changes gradients by 1e-3.
FLOAT64 = "--trainer.precision=64-true"
TOLERANCE = {"VQGAN": 1e-6, "S4DVQ": 1e-3}
SIGNALS = ("val/loss", "val/mse", "val/snr", "val/correlation", "val/perplexity")
# A small rate: at a large one, rounding alone drives the runs apart tenfold every few steps.
SLOWLY = ["--model.lr=0.0005", "--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"]


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_two_processes_equal_one(codebook_update):
    options = [*SLOWLY, "--trainer.max_steps=50", f"--model.quantizer.codebook_update={codebook_update}"]
    two = [*FIT, *options, "--name=two", "--data.batch_size=16"]
    if codebook_update == "ema":  # Lightning starts the other process, as for a user
        process = command(*two, "--trainer.devices=2", f"--trainer.callbacks+={STOPS}.SaveAll")
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        assert_equal(*(torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)))
    else:
        fit_on_two_ranks(*two)
    assert torch.load("rank_1.pt", weights_only=True)["quantizer.steps"] == 50
    fit("--name=one", *options, "--data.batch_size=32")
    # train/loss is of rank 0's own half of the batch; the validation every 5 steps is the curve to compare.
    assert_same_log("runs/vqvae/two", "runs/vqvae/one", rel=1e-4, only=VALIDATED)
    # Perplexity is no continuous function: one of 2,560 assignments that rounding flips moves it by some 4e-4.
    assert_same_log("runs/vqvae/two", "runs/vqvae/one", rel=2e-3, only=("val/perplexity", "train/perplexity"))


@pytest.mark.parametrize(
    ("system", "steps", "columns", "options"),
    [
        ("VQGAN", 20, VALIDATED, [FLOAT64, "--model.adversarial.lecam_weight=0"]),
        ("VQGAN", 20, VALIDATED, [FLOAT64, *REGULARISED]),
        ("CodePrior", 10, ("val/loss", "val/nll", "val/bits_per_token", "val/unigram_bits"), ["--model.dropout=0"]),
        # Batch norm sees half of the batch in each of two processes, so these comparisons are without.
        ("S4DVQ", 30, SIGNALS, ["--model.encoder.norm=layer", "--model.decoder.norm=layer"]),
        ("SGAN", 10, (), []),
        ("GANTopicModel", 10, (), []),
        ("FontGAN", 10, (), []),
    ],
)
def test_two_processes_of_a_system_equal_one(system, steps, columns, options):
    prepare(system)
    options = ["fit", *SYSTEMS[system], *TRAINER, *OFTEN, f"--trainer.max_steps={steps}", *options]
    size = int(re.search(r"--data.batch_size=(\d+)", " ".join(options))[1])
    fit_on_two_ranks(*options, "--name=two", f"--data.batch_size={size // 2}")
    two = Path("runs") / system.lower() / "two"
    assert all(math.isfinite(value) for row in logged(two / "metrics.csv") for value in row.values())
    if columns:
        one = two.with_name("one")
        main([*options, "--name=one"])
        assert_same_log(two, one, rel=TOLERANCE.get(system, 1e-4), only=columns)
        ours, theirs = weights(two), weights(one)
        for name in [name for name in ours if name == "counts" or (system == "VQGAN" and "usage" not in name)]:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    if system == "VQGAN":
        moved = torch.load(two / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
        assert len(moved) == 2
        assert all(state["step"] > 10 for state in moved[1]["state"].values()), "the discriminator took no part"


def test_nan_on_one_rank_stops_both():
    options = [*SLOWLY, "--name=nan", "--trainer.max_steps=50", f"--trainer.callbacks+={STOPS}.NaNOnRank1"]
    (status, output), (_, other) = on_two_ranks(*FIT, *options)
    assert status == 2
    assert "rec_loss, commitment_loss is NaN or infinite at batch 3" in output
    assert "Traceback" not in output + other
    assert Path("runs/vqvae/nan/health.jsonl").read_text().count('"non_finite"') == 1
