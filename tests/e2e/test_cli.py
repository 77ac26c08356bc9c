"""The command line: runs, evaluation, built-in configurations, and error messages of one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import vqlab
from tests.e2e.systems import MODELS, SOURCES, SYSTEMS, prepare
from tests.e2e.tiny import AUTOENCODER, DATA, FIT, NETS, ROOT, TRAINER, fails, fit, logged, reached
from vqlab.cli.main import main
from vqlab.cli.report import report
from vqlab.cli.sweep import sweep

QUICK = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]
CONFIGS = {path.name: path.read_text() for path in sorted((ROOT / "configs").glob("*.yaml"))}


def test_run_folder_holds_what_the_readme_describes(first):
    assert {p.name for p in (first / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    samples = {f"{kind}_{step:06d}.png" for kind in ("step", "codes") for step in (10, 20)}
    assert {p.name for p in (first / "samples").iterdir()} == {*samples, "steps.gif"}
    rows = logged(first / "metrics.csv")
    assert [row["step"] for row in rows] == [4, 9, 14, 19]
    assert rows[1].keys() >= {
        "train/loss", "train/rec_loss", "train/psnr", "train/perplexity", "train/codebook_usage", "lr/autoencoder",
        "grad_norm/encoder", "val/loss", "val/rec_loss", "val/psnr", "val/psnr_patch_mean", "val/ssim",
        "val/perplexity", "val/codebook_usage",
    }  # fmt: skip
    model = vqlab.load(first / "checkpoints" / "best.ckpt")
    assert isinstance(model, vqlab.VQVAE)
    assert model.images.channels == 1  # linked from the data


def test_saved_config_reproduces_the_run(first):
    main(["fit", f"--config={first}/config.yaml", "--name=second"])
    assert logged(first.with_name("second") / "metrics.csv") == logged(first / "metrics.csv")


def test_evaluation_needs_only_the_checkpoint(first):
    last = f"--ckpt_path={first}/checkpoints/last.ckpt"
    main(["validate", last])
    main(["test", last])
    trained, again = logged(first / "metrics.csv")[-1], logged(first / "validate.csv")[-1]
    for name in ("val/psnr", "val/perplexity"):
        assert again[name] == pytest.approx(trained[name], rel=1e-5)
    assert 0 < logged(first / "test.csv")[-1]["test/codebook_usage"] <= 1
    main(["predict", last])
    codes = np.load(first / "codes.npz")
    assert codes["index"].tolist() == list(range(180))
    data = vqlab.Digits(image_size=16, batch_size=180)
    data.setup("test")
    indices = vqlab.load(first / "checkpoints/last.ckpt").encode(next(iter(data.test_dataloader()))["image"])
    assert (indices.numpy() == codes["indices"]).mean() > 0.999


def test_options_select_the_parts_of_a_model():
    nets = [f"--model.{net}{part}" for net in ("encoder", "decoder") for part in (".base_channels=8", ".z_channels=8")]
    nets = ["--model=VQVAE", "--model.encoder=ConvEncoder", "--model.decoder=ConvDecoder", *nets]
    nets += ["--model.decoder.out_activation=tanh", "--model.quantizer=FSQ", "--model.quantizer.levels=[8,5,5]"]
    main(["fit", *nets, *DATA, *TRAINER, *QUICK, "--name=fsq", "--model.base_lr=1e-5", "--ema.decay=0.9"])
    model = vqlab.load("runs/vqvae/fsq/checkpoints/last.ckpt")
    assert (type(model.quantizer), type(model.encoder)) == (vqlab.FSQ, vqlab.ConvEncoder)
    assert model.encoder.in_channels == model.decoder.out_channels == 1  # linked from the data, into the parts
    config = yaml.safe_load(Path("runs/vqvae/fsq/config.yaml").read_text())
    assert config["model"]["init_args"]["quantizer"]["init_args"]["levels"] == [8, 5, 5]


def test_networks_get_the_image_size_from_the_data():
    nets = ["--model=VQVAE", "--model.encoder=MLPEncoder", "--model.encoder.out_channels=12"]
    nets += ["--model.decoder=MLPDecoder", "--model.decoder.in_channels=12", "--model.quantizer=VectorQuantizer"]
    nets += [f"--model.{net}.hidden_channels=[16]" for net in ("encoder", "decoder")]
    data = ["--data=Digits", "--data.image_size=8", "--data.batch_size=32"]
    main(["fit", *nets, *data, *TRAINER, *QUICK, "--name=mlp", "--model.quantizer.revive_after=null"])
    model = vqlab.load("runs/vqvae/mlp/checkpoints/last.ckpt")
    assert model.images.size == model.encoder.downsampling == model.decoder.upsampling == 8
    assert model.quantizer.revive_after is None
    main(["fit", "--config=runs/vqvae/mlp/config.yaml", "--data.image_size=9", "--name=again"])
    assert vqlab.load("runs/vqvae/again/checkpoints/last.ckpt").encoder.downsampling == 9


@pytest.mark.parametrize("name", ["unit", "signed", "standardized"])
def test_models_get_the_value_range_of_the_data(name):
    fit(*QUICK, f"--data.value_range={name}", "--name=ranged")
    model = vqlab.load("runs/vqvae/ranged/checkpoints/last.ckpt")
    assert model.value_range == vqlab.Digits(image_size=16, value_range=name).pixel_range


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_trains(name):
    """Two steps on embedded data, with smaller networks where the configured ones are large."""
    small, text = ["--data=Digits"], CONFIGS[name]
    if "S4DVQ" in text:
        small = ["--data=ECG", "--data.num_records=20", "--data.seconds=12"]
    if "GANTopicModel" in text:
        small = ["--data=Docstrings", "--data.packages=[skimage]"]
    if "FontGAN" in text:
        small = ["--data.source=null", "--data.target=null", "--data.charset=ascii", "--data.image_size=32"]
        small += ["--data.cache=null", "--model.generator.base_channels=8"]
    if "Prior" in text:
        scales = ["--model.quantizer=MultiScaleQuantizer"] if "NextScalePrior" in text else []
        fit(*QUICK, "--name=first", "--data.image_size=32", *scales)
        small += ["--model.tokenizer=runs/vqvae/first/checkpoints/last.ckpt", "--model.depth=1"]
    if "VQGAN" in text:  # LPIPS would be downloaded
        small += ["--model.perceptual_weight=0", "--model.adversarial.disc_start=1", "--data.image_size=32"]
        small += ["--model.adversarial.disc_warmup=0"]
    if ": ConvEncoder" in text:
        small += ["--model.encoder.base_channels=32", "--model.decoder.base_channels=32"]
    if "nll_samples" in text:
        small += ["--model.evaluation.nll_samples=2"]
    main(["fit", f"--config={ROOT}/configs/{name}", *small, "--data.batch_size=4", *TRAINER, *QUICK, "--name=short"])
    assert list(Path("runs").glob("*/short/checkpoints/last.ckpt"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([*FIT, "--model.qantizer=FSQ"], ["qantizer", "did you mean --model.quantizer?"]),
        (["fit", "--model=VQVEA", *DATA], ["VQVEA", "did you mean VQVAE?"]),
        ([*FIT, "--model.quantizer=FSQQ"], ["FSQQ", "--model.quantizer", "FSQ"]),
        ([*FIT, "--model.quantizer.num_embeddings=0"], ["num_embeddings", "at least 1"]),
        ([*FIT, "--model.base_lr=1e-5"], ["lr", "base_lr", "null"]),
        ([*FIT, "--data.image_size=30"], ["30", "downsampling 4", "--data.image_size=32"]),
        ([*FIT, "--ema.decay=2"], ["decay", "--ema.decay"]),
        ([*FIT, "--checkpoint.monitor=val/lose"], ["--checkpoint.monitor val/lose", "val/loss"]),
        ([*FIT, "--health.stop=[bad_luck]"], ["bad_luck", "loss_divergence"]),
        (["fit", "--model=VQVAE"], ["--data"]),
        (["fitt"], ["did you mean fit?"]),
        (["test", *NETS, *DATA], ["--ckpt_path"]),
        (["test", "--ckpt_path=nope.ckpt"], ["nope.ckpt", "does not exist"]),
        (["fit", *MODELS["VQVAE"], *SOURCES["S4DVQ"]], ["made for images, ECG has signals"]),
        *(
            (["fit", *SYSTEMS[system], *options.split()], [words])
            for system, options, words in [
                ("VQGAN", "--trainer.gradient_clip_val=1", "optimization.clip=1"),
                ("VQGAN", "--trainer.accumulate_grad_batches=2", "--model.accumulate=2"),
                ("VQGAN", "--model.adversarial.discriminator.num_layers=4", "too small"),
                ("VQGAN", "--model.perceptual_weight=1 --model.perceptual.backbone=no.pth", "no.pth"),
                ("JSA", "--data.augment=true", "augment must be false"),
                ("JSA", "--model.sampler.kernel=gibs", "isir"),
                ("SGAN", "--data.labels_per_class=1000", "--data.labels_per_class must be at most"),
                ("SGAN", "--trainer.accumulate_grad_batches=2", "raise batch_size"),
                ("GANTopicModel", "--data.text_column=body", "text, label"),
                ("GANTopicModel", "--data=Digits", "made for texts"),
                ("FontGAN", "--model.balance=both", "balance"),
                ("FontGAN", "--data.image_size=48", "--data.image_size"),
                ("S4DVQ", "--data=Digits", "made for signals, Digits has images"),
                ("S4DVQ", "--data.length=130", "130"),
            ]
        ),
    ],
)
def test_mistake_is_reported_in_one_line_and_nothing_is_written(capsys, args, words):
    prepare("GANTopicModel")
    error = fails(capsys, [*args, *(TRAINER if args[0] == "fit" else [])])
    assert [word for word in words if word not in error] == []
    assert [path.name for path in Path().iterdir()] == ["posts.jsonl"]


def test_checkpoints_that_do_not_fit(capsys):
    fit(*QUICK, "--name=first")
    last = Path("runs/vqvae/first/checkpoints/last.ckpt")
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    resume = ["fit", f"--ckpt_path={last}", "--trainer.max_steps=8"]
    assert "codebook" in fails(capsys, [*resume, "--model.quantizer.num_embeddings=64"])
    assert "raise --trainer.max_steps" in fails(capsys, ["fit", f"--ckpt_path={last}"])
    assert "choose another --name" in fails(capsys, [*FIT, *QUICK, "--name=first"])
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "vqlab.models.vq.vqgan.VQGAN"
    torch.save(checkpoint, "other.ckpt")
    assert "holds a VQGAN, not a VQVAE" in fails(capsys, [*FIT, *QUICK, "--ckpt_path=other.ckpt"])
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["optimizer_states"] = [{"state": 3}]  # found after the run has started to write
    torch.save(checkpoint, last)
    assert "cannot be resumed" in fails(capsys, resume)
    assert {**before, last: last.read_bytes()} == {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}


def test_health_event_stops_the_run_which_can_be_resumed(caplog):
    caplog.set_level("INFO")
    fit("--name=ill", "--trainer.max_steps=40", "--trainer.log_every_n_steps=1", "--model.lr=1", "--health.stop=true")
    last = Path("runs/vqvae/ill/checkpoints/last.ckpt")
    (line,) = Path("runs/vqvae/ill/health.jsonl").read_text().splitlines()
    assert json.loads(line).items() >= {"event": "learning_rate_too_high", "step": 5}.items()
    assert reached(last) == json.loads(Path("runs/vqvae/ill/finished.json").read_text())["step"] == 5
    assert f"resume with --ckpt_path {last}" in caplog.text
    main(["fit", f"--ckpt_path={last}", "--trainer.max_steps=10"])
    assert reached(last) == 10


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("VQLAB_DEBUG", "1")
    with pytest.raises(vqlab.UserError):
        main(["fitt"])


def test_row_of_a_sweep_is_a_run_in_the_report(capsys, monkeypatch):
    vector = {"class_path": "VectorQuantizer", "init_args": {"num_embeddings": 32, "embedding_dim": 8}}
    model = {"class_path": "VQVAE", "init_args": {"quantizer": vector, "lr": 0.002}}
    trainer = {"max_steps": 10, "val_check_interval": 5}
    common = dict(option.removeprefix("--").split("=") for option in [*AUTOENCODER, *DATA])
    rows = [{"name": "fsq", "model.quantizer": "FSQ", "model.quantizer.levels": [5, 5]}]
    Path("base.yaml").write_text(yaml.safe_dump({"model": model, "data": {"class_path": "Digits"}, "trainer": trainer}))
    Path("x.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "common": common, "rows": rows}))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sweep(["x.yaml", *TRAINER])
    sweep(["x.yaml", *TRAINER])
    assert "nothing to do: all 1 rows are finished" in capsys.readouterr().out
    report(["runs", "-o", "out"])
    page = Path("out/report.html").read_text()
    values = [row["val/loss"] for row in logged("runs/vqvae/fsq/metrics.csv") if "val/loss" in row]
    assert f'title="{min(values)!r}"' in page
    assert f'title="{values[-1]!r}"' in page
