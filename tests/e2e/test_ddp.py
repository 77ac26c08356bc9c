"""Two processes train what one process trains with the same global batch."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e import tiny
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import FIT, ROOT, STOPS, TRAINER, assert_same_log, fit_on_two_ranks, logged, reached, weights
from tests.helpers import stops
from tests.helpers.forks import on_two_ranks
from vqlab.cli.main import main

VALIDATED = ("val/loss", "val/rec_loss", "val/psnr")
REGULARISED = ["--model.adversarial.r1_weight=0.1", "--model.adversarial.disc_warmup=2"]
# In float32, one activation that rounding moves across LeakyReLU's kink changes gradients by 1e-3.
FLOAT64 = "--trainer.precision=64-true"
TOLERANCE = {"VQGAN": 1e-6, "S4DVQ": 1e-3}
SIGNALS = ("val/loss", "val/mse", "val/snr", "val/correlation", "val/perplexity")
SLOW = pytest.mark.slow
# With a large learning rate, the effect of rounding grows tenfold every few steps.
SLOWLY = ["--model.lr=0.0005", "--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"]


def test_two_processes_started_by_lightning_equal_one():
    options = [*SLOWLY, "--trainer.max_steps=20"]
    two = [*FIT, *options, "--name=two", "--data.batch_size=16", "--trainer.devices=2"]
    call = [sys.executable, "-m", "vqlab", *two, f"--trainer.callbacks+={STOPS}.SaveAll"]
    subprocess.run(call, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=240)
    tiny.assert_equal(*(torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)))
    tiny.fit("--name=one", *options)
    # train/loss is of rank 0's half of the batch, so the validations every 5 steps are compared.
    assert_same_log("runs/vqvae/two", "runs/vqvae/one", rel=1e-4, only=VALIDATED)
    # Perplexity is not continuous: rounding that changes one of 2,560 assignments changes it by about 4e-4.
    assert_same_log("runs/vqvae/two", "runs/vqvae/one", rel=2e-3, only=("val/perplexity", "train/perplexity"))


@pytest.mark.parametrize(
    ("system", "steps", "columns", "options"),
    [
        ("VQGAN", 20, VALIDATED, [FLOAT64, "--model.adversarial.lecam_weight=0"]),
        ("VQGAN", 20, VALIDATED, [FLOAT64, *REGULARISED]),
        pytest.param("CodePrior", 10, ("val/loss", "val/nll"), ["--model.dropout=0"], marks=SLOW),
        pytest.param("MaskedPrior", 10, ("val/loss", "val/nll"), ["--model.dropout=0"], marks=SLOW),
        pytest.param("NextScalePrior", 10, ("val/loss", "val/nll"), ["--model.dropout=0"], marks=SLOW),
        # Batch norm normalizes half of the batch in each of two processes, so layer norm replaces it here.
        pytest.param("S4DVQ", 30, SIGNALS, ["--model.encoder.norm=layer", "--model.decoder.norm=layer"], marks=SLOW),
        ("SGAN", 10, (), []),
        ("SGAN", 10, (), ["--model.weight_norm=true", "--model.discriminator.norm=none"]),
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
        names = [name for name in ours if name == "counts" or (system == "VQGAN" and "usage" not in name)]
        pairs = [{name: values[name] for name in names} for values in (ours, theirs)]
        torch.testing.assert_close(*pairs, rtol=1e-6, atol=1e-6)
    if system == "VQGAN":
        moved = torch.load(two / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
        assert len(moved) == 2
        assert all(state["step"] > 10 for state in moved[1]["state"].values()), "the discriminator was not trained"


NEGATIVES = ["--model.negatives.size=128", "--model.negatives.langevin_steps=2", "--model.likelihood=Gaussian"]
NEGATIVES += ["--model.likelihood.sigma=0.3"]


@pytest.mark.parametrize(
    "options",
    [[], ["--model.sampler.kernel=ncg", "--model.tied_logits=true", *NEGATIVES]],
    ids=["mis", "ncg and negatives"],
)
def test_chains_of_two_processes_equal_those_of_one_which_resumes_from_two(options):
    options = ["fit", *SYSTEMS["JSA"], *TRAINER, "--trainer.limit_val_batches=2", "--model.lr=0.0005", *options]
    fit_on_two_ranks(*options, "--name=two", "--trainer.max_steps=20", "--data.batch_size=16")
    main([*options, "--name=one", "--trainer.max_steps=20"])
    one, two = weights("runs/jsa/one"), weights("runs/jsa/two")
    assert (two["codes"] >= 0).all(1).sum() == 20 * 32
    # Rounding may change single decisions of a chain.
    assert (one["codes"] == two["codes"]).all(1).float().mean() > 0.95
    for name in ("latent.encoder.layers.0.weight", "latent.quantizer.codebook", "latent.likelihood.mse"):
        torch.testing.assert_close(two[name], one[name], rtol=2e-2, atol=2e-3)
    if "negatives.x" in one:
        near = (one["negatives.x"] - two["negatives.x"]).abs().flatten(1).amax(1) < 0.05
        assert near.float().mean() > 0.9
        assert torch.equal(one["negatives.next"], two["negatives.next"])
    last = ["--config=runs/jsa/two/config.yaml", "--ckpt_path=runs/jsa/two/checkpoints/last.ckpt"]
    main(["fit", *last, "--trainer.max_steps=22", "--trainer.devices=1", "--trainer.callbacks=null"])
    assert reached(Path("runs/jsa/two/checkpoints/last.ckpt")) == 22


def test_signal_on_one_rank_stops_both_after_the_same_batch():
    stops.Stop.plan = ("on_train_batch_start", 3, signal.SIGINT)
    options = [*FIT, "--trainer.max_steps=100000", "--name=two", "--data.batch_size=8"]
    (status, output), (_, other) = on_two_ranks(*options, f"--trainer.callbacks+={STOPS}.StopOnRank1")
    assert status == 130, output
    last = Path("runs/vqvae/two/checkpoints/last.ckpt")
    assert f"stopped at step {reached(last)}: resume with" in output
    assert "Traceback" not in output + other


@SLOW
@pytest.mark.parametrize(
    "rendezvous",
    [
        ["--master_addr=127.0.0.1", "--master_port={port}", "--node_rank={node}"],
        ["--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=vqlab", "--local_addr=127.0.0.1"],
    ],
)
def test_two_nodes_started_by_torchrun_equal_two_devices(rendezvous):
    half = [*FIT, *SLOWLY, "--trainer.max_steps=10", "--data.batch_size=16"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    nodes = []
    for node in (0, 1):
        meet = [option.format(port=port, node=node) for option in rendezvous]
        call = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *meet, "-m", "vqlab"]
        nodes.append(subprocess.Popen([*call, *half, "--trainer.num_nodes=2", "--trainer.devices=1"], env=env))
    assert [node.wait(timeout=240) for node in nodes] == [0, 0]
    (run,) = Path("runs/vqvae").iterdir()  # named by the time of the first node
    fit_on_two_ranks(*half, "--name=two")
    tiny.assert_same_runs(run, run.with_name("two"))
