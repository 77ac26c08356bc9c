"""Every model trains, is evaluated, samples, and resumes after a signal without a difference."""

import csv
import functools
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import vqlab
from tests.e2e.systems import MODELS, OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import DATA, STOPS, TRAINER, assert_equal, assert_same_runs, fails, logged, reached, weights
from tests.helpers.forks import Forked
from tests.helpers.stops import Stop
from tests.helpers.toy_fonts import SANS, SERIF
from vqlab.cli.main import main
from vqlab.fonts.draw import render

DRAWS = (
    "CodePrior",
    "MaskedPrior",
    "NextScalePrior",
    "JSA",
    "DiscreteVAE",
    "SGAN",
)  # vqlab sample draws images from them
PRIOR = {"val/nll", "val/bits_per_token", "val/bits_per_dim", "val/unigram_bits", "grad_norm/network"}
METRICS = {
    "VQVAE": {"train/rec_loss", "val/psnr", "val/ssim", "val/codebook_usage", "lr/autoencoder", "grad_norm/encoder"},
    "VQGAN": {"train/rec_loss", "train/d_acc", "val/psnr", "val/perplexity", "lr/discriminator"},
    "JSA": {"train/accept_rate", "val/nll", "val/perplexity"},
    "DiscreteVAE": {"val/nll", "val/perplexity"},
    "CodePrior": PRIOR,
    "MaskedPrior": PRIOR,
    "NextScalePrior": PRIOR,
    "SGAN": {"val/acc", "val/diversity", "val/classes_drawn", "train/d_acc", "train/g_loss", "train/p_real"}
    | {"train/p_fake", "train/fakes_caught", "grad_norm/generator", "lr/discriminator"},
    "FixMatch": {"val/acc", "train/confident", "train/supervised", "grad_norm/network", "lr/classifier"},
    "S4DVQ": {"val/snr", "val/correlation", "val/perplexity", "train/rec_loss", "lr/ssm"},
    "GANTopicModel": {"val/npmi", "val/cv", "val/npmi_doc", "val/topic_diversity", "val/nmi", "val/purity"}
    | {"train/wasserstein", "train/g_loss", "train/cycle", "lr/critic", "grad_norm/generator"},
    "FontGAN": {f"val/{name}{end}" for name in ("l1", "rmse", "ssim", "iou") for end in ("", "_identity", "_gain")}
    | {"val/dense_l1_gain", "val/grey", "val/p_real", "val/p_fake", "train/l1", "train/g_loss", "train/d_loss"},
}
CODES = {"step", "codes", "statistics", "top"}
# Kinds of files in samples/.
SAMPLES = {"JSA": CODES, "SGAN": {"step", "confusion"}, "FixMatch": {"confusion"}, "GANTopicModel": {"topics"}}


def options(system):
    return ["fit", *SYSTEMS[system], *TRAINER, *OFTEN, "--trainer.limit_val_batches=2", "--ema.decay=0.9"]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Return a function that trains a system once for 12 steps and returns its run folder."""

    @functools.cache
    def trained(system):
        folder = tmp_path_factory.mktemp(system)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            prepare(system)
            main([*options(system), "--name=whole", "--trainer.max_steps=12"])
        return folder / "runs" / system.lower() / "whole"

    return trained


@pytest.mark.parametrize("system", SYSTEMS)
def test_model_is_logged_evaluated_loaded_and_sampled(train, system, capsys, monkeypatch):
    run = train(system)
    monkeypatch.chdir(run.parents[2])
    rows = logged(run / "metrics.csv")
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert {row["step"] for row in rows if "val/loss" in row} == {4, 9, 11}  # each fifth step, and the last
    assert METRICS[system] <= set().union(*rows)
    assert SAMPLES.get(system, {"step"}) <= {path.name.partition("_")[0] for path in (run / "samples").iterdir()}
    last, best = (str(run / "checkpoints" / f"{which}.ckpt") for which in ("last", "best"))
    main(["validate", f"--ckpt_path={last}"])
    main(["test", f"--ckpt_path={best}"])
    assert math.isfinite(logged(run / "test.csv")[0]["test/loss"])
    main(["predict", f"--ckpt_path={best}", *(["--data.charset=U+2B00-2B7F"] if system == "FontGAN" else [])])
    with np.load(run / "codes.npz") as arrays:
        assert all(len(array) for array in arrays.values())
    if system in DRAWS:
        main(["sample", last, "--num", "4", "--out", "drawn.png"])
        assert Path("drawn.png").exists()
    else:
        assert "sample" in fails(capsys, ["sample", last])
    model = vqlab.load(last)
    assert type(model).__name__ == system
    assert not model.training


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("system", SYSTEMS)
def test_resume_after_a_signal_equals_a_whole_run(train, system, number, monkeypatch):
    whole = train(system)
    stopped = whole.with_name(number.name)
    monkeypatch.chdir(whole.parents[2])
    monkeypatch.setattr(Stop, "plan", ("on_before_optimizer_step", 7, number))
    call = [*options(system), "--trainer.max_steps=12", f"--name={number.name}", f"--trainer.callbacks+={STOPS}.Stop"]
    status, output = Forked(*call).end()
    assert status == (-number if number == signal.SIGKILL else 128 + number), output
    last = stopped / "checkpoints/last.ckpt"
    assert reached(last) == (5 if number == signal.SIGKILL else 8)
    main(["fit", f"--config={stopped}/config.yaml", f"--ckpt_path={last}", "--trainer.callbacks=null"])
    assert_same_runs(stopped, whole)


@pytest.mark.parametrize("system", SYSTEMS)
def test_healthy_training_reports_no_event(system):
    prepare(system)
    rate = ["--model.lr=0.003"] if system == "DiscreteVAE" else []
    steps = ["--trainer.max_steps=40", "--trainer.val_check_interval=20", "--trainer.check_val_every_n_epoch=null"]
    often = ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=2", "--health.grace_steps=30", "--name=it"]
    main(["fit", *SYSTEMS[system], *rate, *TRAINER, *steps, *often])
    folder = Path("runs") / system.lower() / "it"
    assert (folder / "finished.json").exists()
    assert not (folder / "health.jsonl").exists(), (folder / "health.jsonl").read_text()


def test_topic_files_hold_words_and_document_counts(train):
    run = train("GANTopicModel")
    with (run / "samples" / "topics_000010.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(row["words"].startswith("word") for row in rows)
    assert sum(int(row["documents"]) for row in rows) == 30
    assert rows[0]["words"].split()[0] in (run / "samples" / "map.html").read_text()
    model = vqlab.load(run / "checkpoints/best.ckpt")
    assert all(word.startswith("word") for topic in model.top_words(5) for word in topic)


def test_font_gan_writes_glyphs_sheets_and_fonts():
    styles = [f"--data.target=[{SERIF},{SERIF.replace('DejaVuSerif', 'DejaVuSansMono')}]", f"--data.source={SANS}"]
    adaptive = ["--checkpoint.monitor=val/l1_gain", "--checkpoint.mode=max", "--model.balance=adaptive"]
    main([*options("FontGAN"), *styles, *adaptive, "--name=it", "--trainer.max_steps=10"])
    run = Path("runs/fontgan/it")
    metrics = set().union(*logged(run / "metrics.csv"))
    assert {"val/diversity", "val/retrieval", "train/constancy", "train/category", "train/disc_weight"} <= metrics
    best = f"--ckpt_path={run}/checkpoints/best.ckpt"
    main(["predict", best, "--codes=glyphs.npz", "--data.charset=U+2B00-2B7F", "--font=new/it.ttf"])
    with np.load(run / "glyphs.npz") as arrays:
        assert arrays["glyph"].shape == (25, 32, 32)
        glyphs, characters, style = arrays["glyph"], arrays["char"], arrays["style"]
    for number, name in enumerate(["DejaVu-Serif", "DejaVu-Sans-Mono"]):
        assert (run / f"sheets/{name}_001.png").exists()
        drawn = render(f"new/it-{name}.ttf", characters[style == number].tolist(), 32, 0.75)
        for image, glyph in zip(drawn, glyphs[style == number], strict=True):
            assert np.abs(image / 255 - glyph / 255).mean() < 0.1


def test_jsa_with_a_discriminator_is_the_tokenizer_of_a_prior():
    critic = ["=PatchGAN", ".base_channels=8", ".num_layers=1"]
    critic = [f"--model.adversarial.discriminator{part}" for part in critic]
    start = ["--model.adversarial.disc_weight=0.5", "--model.adversarial.disc_start=5", "--model.prior=factorized"]
    main([*options("JSA"), "--name=it", "--trainer.max_steps=10", *critic, *start])
    assert {"train/d_acc", "train/g_loss"} <= set().union(*logged("runs/jsa/it/metrics.csv"))
    prior = [option.replace("tokenizer.ckpt", "runs/jsa/it/checkpoints/last.ckpt") for option in MODELS["CodePrior"]]
    main(["fit", *prior, *DATA, *TRAINER, "--name=prior", "--trainer.max_steps=3"])
    assert vqlab.load("runs/codeprior/prior/checkpoints/last.ckpt").sample(2).shape == (2, 1, 16, 16)


def test_jsa_with_informed_proposals_is_resumed_with_chains_and_step_size():
    """And with the replay buffer of its negative samples."""
    call = [
        "fit",
        *SYSTEMS["JSA"],
        *TRAINER,
        "--trainer.limit_val_batches=2",
        "--model.sampler.kernel=ncg",
        "--model.tied_logits=true",
    ]
    call += ["--model.sampler.cache_start_epoch=0", "--model.likelihood=Gaussian", "--model.likelihood.sigma=0.3"]
    call += ["--model.negatives.size=64", "--model.negatives.langevin_steps=2"]
    main([*call, "--name=whole", "--trainer.max_steps=44"])
    main([*call, "--name=halves", "--trainer.max_steps=40"])
    main([*call, "--trainer.max_steps=44", "--ckpt_path=runs/jsa/halves/checkpoints/last.ckpt"])
    assert_equal(weights("runs/jsa/halves"), weights("runs/jsa/whole"))
    assert weights("runs/jsa/halves")["latent.step_size"] != 1
    model = vqlab.load("runs/jsa/halves/checkpoints/last.ckpt")
    x = torch.rand(8, 1, 16, 16) * 2 - 1
    plain, drawn = (model.log_joint(x, model.encode(x, how)).mean() for how in ("argmax", "posterior"))
    assert drawn > plain


def test_chain_cache_keeps_its_chains_in_steps_without_it():
    """The cache starts with the second epoch of 8 steps; two later steps do not use it."""
    run, start = Path("runs/jsa/it"), "--model.sampler.cache_start_epoch=1"
    call = ["fit", *SYSTEMS["JSA"], *TRAINER, "--trainer.limit_val_batches=0", "--trainer.limit_train_batches=8"]
    main([*call, "--name=it", "--trainer.max_steps=8", start])
    assert (weights(run)["codes"] == -1).all()
    last = f"--ckpt_path={run}/checkpoints/last.ckpt"
    main([*call, last, "--trainer.max_steps=11", start])
    begun = weights(run)["codes"]
    assert (begun >= 0).all(1).sum() == 3 * 32
    main([*call, last, "--trainer.max_steps=13", "--model.sampler.cache=false"])
    assert torch.equal(weights(run)["codes"], begun)
