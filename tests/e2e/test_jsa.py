"""JSA as a user runs it: the chains survive kills, switches and a change of the number of processes."""

from pathlib import Path

import torch

import vqlab
from tests.e2e.systems import SYSTEMS
from tests.e2e.tiny import DATA, TRAINER, assert_equal, assert_same_runs, fails, fit_and_kill, fit_on_two_ranks, logged
from vqlab.cli.main import main

FIT = ["fit", *SYSTEMS["JSA"], *TRAINER]
STEPS = ["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=10"]


def checkpoint(run):
    return torch.load(f"runs/jsa/{run}/checkpoints/last.ckpt", weights_only=True)


def known(run):
    """Share of the examples whose chain has begun; an epoch leaves out what fills no batch."""
    return (checkpoint(run)["chains"]["codes"] >= 0).all(1).float().mean()


def test_sigkill_and_resume_lose_no_chain():
    last = Path("runs/jsa/killed/checkpoints/last.ckpt")
    end = fit_and_kill(last, 20, *FIT, "--name=killed", *STEPS) + 30
    main([*FIT, "--name=whole", f"--trainer.max_steps={end}", *STEPS])
    main([*FIT, f"--trainer.max_steps={end}", *STEPS, f"--ckpt_path={last}"])
    assert_same_runs("runs/jsa/killed", "runs/jsa/whole")
    assert_equal(checkpoint("killed")["chains"], checkpoint("whole")["chains"])
    assert known("killed") > 0.9


def test_chains_of_a_checkpoint_survive_a_run_without_the_cache():
    main([*FIT, "--name=first", "--trainer.max_steps=45", *STEPS])
    before = checkpoint("first")["chains"]
    assert known("first") > 0.9
    last = "runs/jsa/first/checkpoints/last.ckpt"
    main([*FIT, "--trainer.max_steps=50", *STEPS, f"--ckpt_path={last}", "--model.sampler.cache=false"])
    assert checkpoint("first")["global_step"] == 50
    assert_equal(checkpoint("first")["chains"], before)
    main([*FIT, "--trainer.max_steps=51", *STEPS, f"--ckpt_path={last}"])
    moved = (checkpoint("first")["chains"]["codes"] != before["codes"]).any(1)
    assert 0 < moved.sum() <= 32  # one batch; all others stand where the checkpoint had them


def test_the_cache_starts_when_it_should():
    epoch = len(vqlab.Digits(image_size=16, batch_size=32).train_dataloader())
    late = [*STEPS, "--model.sampler.cache_start_epoch=1"]
    main([*FIT, "--name=late", f"--trainer.max_steps={epoch}", *late])
    assert (checkpoint("late")["chains"]["codes"] == -1).all()
    main([*FIT, f"--trainer.max_steps={epoch + 3}", *late, "--ckpt_path=runs/jsa/late/checkpoints/last.ckpt"])
    assert (checkpoint("late")["chains"]["codes"] >= 0).all(1).sum() == 3 * 32


def test_two_processes_equal_one_and_one_goes_on_from_two():
    options = ["--trainer.max_steps=45", "--model.lr=0.0005", *STEPS]
    fit_on_two_ranks(*FIT, "--name=two", *options, "--data.batch_size=16")
    main([*FIT, "--name=one", *options])
    one, two = checkpoint("one"), checkpoint("two")
    assert known("two") > 0.9
    # Rounding may turn a decision of a chain here and there; all others are the same.
    assert (one["chains"]["codes"] == two["chains"]["codes"]).all(1).float().mean() > 0.95
    for name in ("latent.encoder.layers.0.weight", "latent.quantizer.codebook", "latent.likelihood.mse"):
        torch.testing.assert_close(two["state_dict"][name], one["state_dict"][name], rtol=2e-2, atol=2e-3)
    last = ["--config=runs/jsa/two/config.yaml", "--ckpt_path=runs/jsa/two/checkpoints/last.ckpt"]
    main(["fit", *last, "--trainer.max_steps=50", "--trainer.devices=1", "--trainer.callbacks=null"])
    assert checkpoint("two")["global_step"] == 50


def test_from_codes_to_new_images():
    critic = ["PatchGAN", "base_channels=8", "num_layers=1"]
    critic = [f"--model.adversarial.discriminator{'.' if '=' in part else '='}{part}" for part in critic]
    start = ["--model.adversarial.disc_weight=0.5", "--model.adversarial.disc_start=5"]
    main([*FIT, "--name=kept", "--trainer.max_steps=10", "--model.prior=factorized", *critic, *start])
    assert {"train/d_acc", "train/g_loss"} <= set().union(*logged("runs/jsa/kept/metrics.csv"))
    last = "runs/jsa/kept/checkpoints/last.ckpt"
    model = vqlab.load(last)
    assert type(model).__name__ == "JSA"
    main(["sample", last, "--num=4", "--out=drawn.png"])
    assert Path("drawn.png").stat().st_size > 0
    main(["predict", f"--ckpt_path={last}"])
    assert Path("runs/jsa/kept/codes.npz").exists()
    prior = ["--model=CodePrior", f"--model.tokenizer={last}", "--model.dim=16", "--model.depth=1", "--model.heads=2"]
    main(["fit", *prior, *DATA, *TRAINER, "--name=prior", "--trainer.max_steps=3"])
    assert vqlab.load("runs/codeprior/prior/checkpoints/last.ckpt").sample(2).shape == (2, 1, 16, 16)


def test_an_anneal_that_does_not_fit_gets_one_line(capsys):
    sigma = ["start=0.2", "end=0.02", "total_steps=10", "warmup_steps=6", "hold_steps=6"]
    options = [f"--model.likelihood.sigma.{part}" for part in sigma]
    complaint = fails(capsys, [*FIT, "--model.likelihood=Gaussian", "--model.likelihood.sigma=Anneal", *options])
    assert "warmup_steps 6 and hold_steps 6" in complaint


def test_chains_of_other_data_or_codes_are_refused(capsys):
    main([*FIT, "--name=first", "--trainer.max_steps=3"])
    resume = [*FIT, "--trainer.max_steps=6", "--ckpt_path=runs/jsa/first/checkpoints/last.ckpt"]
    complaint = fails(capsys, [*resume, "--data.val_size=100"])
    assert "chains" in complaint
    assert "checkpoint" in complaint
