"""What every system must do: train, be evaluated, draw, come back, go on after a kill, refuse mistakes."""

import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import vqlab
from tests.e2e.systems import MODELS, OFTEN, SOURCES, SYSTEMS, prepare
from tests.e2e.tiny import TRAINER, assert_same_log, assert_same_runs, fails, fit_and_kill, logged, weights
from vqlab.cli.main import main

SEED = int(os.environ.get("VQLAB_KILL_SEED", "0"))  # another seed kills at other moments
DRAWS = ("CodePrior", "JSA", "DiscreteVAE", "SGAN")  # vqlab sample draws images from them
METRICS = {
    "VQVAE": {"train/rec_loss", "val/psnr", "val/ssim", "val/codebook_usage", "lr/autoencoder", "grad_norm/encoder"},
    "VQGAN": {"train/rec_loss", "train/d_acc", "val/psnr", "val/perplexity", "lr/discriminator"},
    "JSA": {"train/accept_rate", "val/nll", "val/perplexity"},
    "DiscreteVAE": {"val/nll", "val/perplexity"},
    "CodePrior": {"val/nll", "val/bits_per_token", "val/bits_per_dim", "val/unigram_bits", "grad_norm/network"},
    "SGAN": {"val/acc", "val/diversity", "val/classes_drawn", "train/d_acc", "train/g_loss", "train/p_real"}
    | {"train/p_fake", "train/fakes_caught", "grad_norm/generator", "lr/discriminator"},
    "S4DVQ": {"val/snr", "val/correlation", "val/perplexity", "train/rec_loss", "lr/ssm"},
    "GANTopicModel": {"val/npmi", "val/cv", "val/npmi_doc", "val/topic_diversity", "val/nmi", "val/purity"}
    | {"train/wasserstein", "train/g_loss", "train/cycle", "lr/critic", "grad_norm/generator"},
    "FontGAN": {f"val/{name}{end}" for name in ("l1", "rmse", "ssim", "iou") for end in ("", "_identity", "_gain")}
    | {"val/dense_l1_gain", "val/grey", "val/p_real", "val/p_fake", "train/l1", "train/g_loss", "train/d_loss"},
}
SAMPLES = {"SGAN": {"step", "confusion"}, "GANTopicModel": {"topics"}}  # kinds of files in samples/


@pytest.fixture
def system(request):
    prepare(request.param)
    return request.param


def run(system, name):
    return Path("runs") / system.lower() / name


def options(system):
    return ["fit", *SYSTEMS[system], *TRAINER, *OFTEN, "--trainer.limit_val_batches=2"]


def assert_finite(folder):
    assert all(math.isfinite(value) for row in logged(folder / "metrics.csv") for value in row.values())


@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_it_trains_is_evaluated_and_comes_back(system, capsys):
    main([*options(system), "--name=it", "--trainer.max_steps=12", "--ema.decay=0.9"])
    folder = run(system, "it")
    rows = logged(folder / "metrics.csv")
    assert_finite(folder)
    assert {row["step"] for row in rows if "val/loss" in row} == {4, 9}
    assert METRICS[system] <= set().union(*rows)
    assert SAMPLES.get(system, {"step"}) <= {path.name.partition("_")[0] for path in (folder / "samples").iterdir()}
    assert not (folder / "health.jsonl").exists()
    last, best = (str(folder / "checkpoints" / f"{which}.ckpt") for which in ("last", "best"))
    main(["validate", f"--ckpt_path={last}"])
    main(["test", f"--ckpt_path={best}"])
    (tested,) = logged(folder / "test.csv")
    assert math.isfinite(tested["test/loss"])
    more = ["--data.charset=U+2B00-2B7F"] if system == "FontGAN" else []  # what Serif lacks
    main(["predict", f"--ckpt_path={best}", *more])
    with np.load(folder / "codes.npz") as arrays:
        assert all(len(array) for array in arrays.values())
    if system in DRAWS:
        main(["sample", last, "--num", "4", "--out", "drawn.png"])
        assert Path("drawn.png").exists()
    else:
        assert "sample" in fails(capsys, ["sample", last])
    model = vqlab.load(last)
    assert type(model).__name__ == system
    assert not model.training
    main(["report", "runs", "-o", "log", "--format", "md"])
    assert "it" in (Path("log") / "report.md").read_text()


def test_an_sgan_draws_a_class():
    main([*options("SGAN"), "--name=it", "--trainer.max_steps=2", "--model.conditional=true"])
    last = str(run("SGAN", "it") / "checkpoints/last.ckpt")
    main(["predict", f"--ckpt_path={last}", "--codes=classes.npz"])
    with np.load(run("SGAN", "it") / "classes.npz") as arrays:
        assert arrays["probabilities"].shape == (180, 10)
    main(["sample", last, "--num", "4", "--label", "3", "--out", "drawn.png"])
    assert Path("drawn.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_it_goes_on_after_a_kill_as_if_there_had_been_none(system):
    last = run(system, "killed") / "checkpoints/last.ckpt"
    moment = random.Random(f"{system} {SEED}").randint(4, 16)
    end = fit_and_kill(last, moment, *options(system), "--ema.decay=0.9", "--name=killed") + 9
    main([*options(system), "--ema.decay=0.9", "--name=whole", f"--trainer.max_steps={end}"])
    main([*options(system), "--ema.decay=0.9", f"--ckpt_path={last}", f"--trainer.max_steps={end}"])
    assert_same_runs(run(system, "killed"), run(system, "whole"))


@pytest.mark.slow  # tests/models trains each in bf16
@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_half_precision(system, monkeypatch):
    monkeypatch.setattr("vqlab.cli.devices.has_bf16_instructions", lambda: True)  # in bf16 even where it is slow
    main([*options(system), "--name=half", "--trainer.max_steps=6", "--trainer.precision=bf16-mixed"])
    assert_finite(run(system, "half"))
    assert all(value.dtype != torch.bfloat16 for value in weights(run(system, "half")).values())


@pytest.mark.slow
@pytest.mark.parametrize("system", ["VQGAN", "SGAN"], indirect=True)
def test_compiled_networks_train_the_same(system):
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        main([*options(system), f"--name={name}", "--trainer.max_steps=6", f"--model.compile={compiled}"])
    assert_same_log(run(system, "compiled"), run(system, "plain"), rel=1e-3)


@pytest.mark.parametrize(
    ("system", "mistake", "words"),
    [
        ("VQGAN", "--trainer.gradient_clip_val=1", "optimization.clip=1"),
        ("VQGAN", "--trainer.accumulate_grad_batches=2", "--model.accumulate=2"),
        ("VQGAN", "--model.adversarial.discriminator.num_layers=4", "too small"),
        ("VQGAN", "--model.adversarial.loss=vanilla", "hinge"),
        ("JSA", "--data.augment=true", "augment must be false"),
        ("JSA", "--trainer.gradient_clip_val=1", "optimization.clip=1"),
        ("JSA", "--model.sampler.kernel=gibbs", "isir"),
        ("JSA", "--model.sampler.num_mis_steps=0", "num_mis_steps"),
        ("JSA", "--model.prior=markov", "prior"),
        ("JSA", "--model.base_lr=1e-6", "base_lr"),
        ("JSA", "--model.optimization.proposal_lr=-1", "proposal_lr"),
        ("SGAN", "--data.labels_per_class=1000", "--data.labels_per_class must be at most"),
        ("SGAN", "--trainer.gradient_clip_val=1", "optimization.clip=1"),
        ("SGAN", "--trainer.accumulate_grad_batches=2", "raise batch_size"),
        ("SGAN", "--model.objective=wgan", "objective"),
        ("SGAN", "--model.head=two", "head"),
        ("GANTopicModel", "--model.num_topics=5000", "--model.num_topics"),
        ("GANTopicModel", "--data.min_df=500", "min_df"),
        ("GANTopicModel", "--data.batch_size=4000", "--data.batch_size="),
        ("GANTopicModel", "--data.text_column=body", "text, label"),
        ("GANTopicModel", "--model.regularizer=none", "regularizer"),
        ("GANTopicModel", "--data=Digits", "made for texts"),
        ("FontGAN", "--model.adversarial=wgan", "adversarial"),
        ("FontGAN", "--model.balance=both", "balance"),
        ("FontGAN", "--model.l1_weight=-1", "l1_weight"),
        ("FontGAN", "--model.spectral_norm=true", "norm=spectral"),
        ("FontGAN", "--model.discriminator.num_layers=4", "num_layers=4"),
        ("FontGAN", "--model.generator.norm=layer", "norm"),
        ("FontGAN", "--data.image_size=48", "--data.image_size"),
        ("FontGAN", "--plateau.patience=0", "patience"),
        ("FontGAN", "--data=Digits", "made for fonts"),
        ("S4DVQ", "--data=Digits", "made for signals, Digits has images"),
    ],
)
def test_a_mistake_gets_one_line(capsys, system, mistake, words):
    if system == "GANTopicModel":
        prepare(system)
    assert words in fails(capsys, [*options(system), mistake, "--trainer.max_steps=2"])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([*SYSTEMS["JSA"], *(f"--model.likelihood{o}" for o in ("=Gaussian", ".sigma=0"))], "sigma"),
        ([*SYSTEMS["VQGAN"], "--model.perceptual_weight=1", "--model.perceptual.net=alex"], "too small for LPIPS"),
        ([*SYSTEMS["VQGAN"], "--model.perceptual_weight=1", "--model.perceptual.backbone=no.pth"], "no.pth"),
        ([*MODELS["VQVAE"], *SOURCES["S4DVQ"]], "made for images, ECG has signals"),
    ],
)
def test_mistakes_of_two_options(capsys, args, words):
    assert words in fails(capsys, ["fit", *args, *TRAINER])
    assert not Path("runs").exists()
