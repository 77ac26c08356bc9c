"""The command line as a user types it: good commands, and mistakes that get one line and leave nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vqlab
from tests.e2e.tiny import DATA, FIT, NETS, TRAINER, command, fails, fit, logged
from vqlab.cli.main import main

QUICK = ["--trainer.max_steps=4", "--trainer.limit_val_batches=1"]
CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_run_leaves_what_the_design_promises():
    fit("--name=first", "--trainer.max_steps=20", "--trainer.val_check_interval=10")
    run = Path("runs/vqvae/first")
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert {p.name for p in (run / "samples").iterdir()} == {
        f"{kind}_{step:06d}.png" for kind in ("step", "codes") for step in (10, 20)
    }
    rows = logged(run / "metrics.csv")
    assert [row["step"] for row in rows] == [4, 9, 14, 19]
    assert rows[1].keys() >= {
        "train/loss", "train/rec_loss", "train/psnr", "train/perplexity", "train/codebook_usage", "lr/autoencoder",
        "grad_norm/encoder", "val/loss", "val/rec_loss", "val/psnr", "val/psnr_patch_mean", "val/ssim",
        "val/perplexity", "val/codebook_usage",
    }  # fmt: skip
    model = vqlab.load(run / "checkpoints" / "best.ckpt")
    assert isinstance(model, vqlab.VQVAE)
    assert not model.training
    assert model.images.channels == 1  # linked from the data
    assert model.quantizer.num_embeddings == 32


def test_the_saved_config_runs_again_and_gives_the_same():
    fit("--name=first", "--trainer.max_steps=10")
    main(["fit", "--config=runs/vqvae/first/config.yaml", "--name=second"])
    assert logged("runs/vqvae/second/metrics.csv") == logged("runs/vqvae/first/metrics.csv")


def test_evaluation_needs_the_checkpoint_alone(capsys):
    fit("--name=first", "--trainer.max_steps=20", "--trainer.val_check_interval=20")
    last = "--ckpt_path=runs/vqvae/first/checkpoints/last.ckpt"
    main(["validate", last])
    main(["test", last])
    trained = logged("runs/vqvae/first/metrics.csv")[-1]
    again = logged("runs/vqvae/first/validate.csv")[-1]
    assert again["val/psnr"] == pytest.approx(trained["val/psnr"], rel=1e-5)
    assert again["val/perplexity"] == pytest.approx(trained["val/perplexity"], rel=1e-5)
    assert 0 < logged("runs/vqvae/first/test.csv")[-1]["test/codebook_usage"] <= 1
    main(["predict", last])
    codes = np.load("runs/vqvae/first/codes.npz")
    assert codes["indices"].shape == (180, 4, 4)
    assert codes["index"].tolist() == list(range(180))
    model = vqlab.load("runs/vqvae/first/checkpoints/last.ckpt")
    data = vqlab.Digits(image_size=16, batch_size=180)
    data.setup("test")
    x = next(iter(data.test_dataloader()))["image"]
    assert (model.encode(x).numpy() == codes["indices"]).mean() > 0.999


def test_parts_are_swapped_by_flags():
    nets = [
        "--model=VQVAE",
        "--model.encoder=ConvEncoder",
        "--model.encoder.base_channels=8",
        "--model.encoder.z_channels=8",
    ]
    nets += ["--model.decoder=ConvDecoder", "--model.decoder.base_channels=8", "--model.decoder.z_channels=8"]
    nets += ["--model.decoder.out_activation=tanh", "--model.quantizer=FSQ", "--model.quantizer.levels=[8,5,5]"]
    main(["fit", *nets, *DATA, *TRAINER, *QUICK, "--name=fsq", "--model.base_lr=1e-5", "--ema.decay=0.9"])
    model = vqlab.load("runs/vqvae/fsq/checkpoints/last.ckpt")
    assert isinstance(model.quantizer, vqlab.FSQ)
    assert isinstance(model.encoder, vqlab.ConvEncoder)
    assert model.encoder.in_channels == model.decoder.out_channels == 1  # linked from the data, into the parts
    assert model.quantizer.num_embeddings == 200
    config = yaml.safe_load(Path("runs/vqvae/fsq/config.yaml").read_text())
    assert config["model"]["init_args"]["quantizer"]["init_args"]["levels"] == [8, 5, 5]


def test_networks_that_need_the_image_size_get_it_from_the_data():
    nets = ["--model=VQVAE", "--model.encoder=MLPEncoder", "--model.encoder.out_channels=12"]
    nets += ["--model.decoder=MLPDecoder", "--model.decoder.in_channels=12", "--model.quantizer=VectorQuantizer"]
    nets += [f"--model.{net}.hidden_channels=[16]" for net in ("encoder", "decoder")]
    data = ["--data=Digits", "--data.image_size=8", "--data.batch_size=32"]
    main(["fit", *nets, *data, *TRAINER, "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--name=mlp"])
    model = vqlab.load("runs/vqvae/mlp/checkpoints/last.ckpt")
    assert model.images.size == model.encoder.downsampling == model.decoder.upsampling == 8
    codes = model.encode(torch.zeros(2, 1, 8, 8))
    assert codes.shape == (2, 1, 1)
    assert model.decode(codes).shape == (2, 1, 8, 8)
    again = ["fit", "--config=runs/vqvae/mlp/config.yaml", "--data.image_size=9", "--name=again"]
    main(again)  # what is linked is not frozen in the saved configuration
    assert vqlab.load("runs/vqvae/again/checkpoints/last.ckpt").encoder.downsampling == 9


def test_null_reaches_a_nested_option():
    fit(*QUICK, "--name=never", "--model.quantizer.revive_after=null")
    assert vqlab.load("runs/vqvae/never/checkpoints/last.ckpt").quantizer.revive_after is None


def test_a_run_without_a_log():
    fit("--name=quiet", "--trainer.max_steps=3", "--trainer.log_every_n_steps=0", "--trainer.limit_val_batches=0")
    assert Path("runs/vqvae/quiet/checkpoints/last.ckpt").exists()
    assert not Path("runs/vqvae/quiet/metrics.csv").exists()


def test_wandb_goes_offline_without_a_key_and_asks_nothing(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    args = [sys.executable, "-m", "vqlab", *FIT, *QUICK, "--name=offline"]
    done = subprocess.run(args, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(Path("runs/vqvae/offline/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_config_trains(name):
    """The configuration as shipped, on embedded data, for a few steps."""
    data = ["--data=Digits"]
    if "S4DVQ" in (CONFIGS / name).read_text():
        data = ["--data=ECG", "--data.num_records=20", "--data.seconds=12"]
    if "GANTopicModel" in (CONFIGS / name).read_text():
        data = ["--data=Docstrings", "--data.packages=[skimage]"]
    if "FontGAN" in (CONFIGS / name).read_text():
        data = ["--data.source=null", "--data.target=null", "--data.charset=ascii", "--data.image_size=32"]
        data += ["--data.cache=null", "--model.generator.base_channels=8"]
    small = [*data, "--data.batch_size=8", *TRAINER, *QUICK, "--name=short"]
    if "CodePrior" in (CONFIGS / name).read_text():
        fit(*QUICK, "--name=first", "--data.image_size=32")
        small += ["--model.tokenizer=runs/vqvae/first/checkpoints/last.ckpt", "--model.depth=1"]
    if "VQGAN" in (CONFIGS / name).read_text():  # LPIPS would be downloaded
        small += [
            "--model.perceptual_weight=0",
            "--model.adversarial.disc_start=1",
            "--model.adversarial.disc_warmup=0",
            "--data.image_size=32",
        ]
    if name in ("jsa.yaml", "vqgan_imagenet.yaml"):
        small += ["--model.encoder.base_channels=32", "--model.decoder.base_channels=32"]
    main(["fit", f"--config={CONFIGS / name}", *small])
    assert list(Path("runs").glob("*/short/checkpoints/last.ckpt"))


def test_print_config_is_complete(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*FIT, "--print_config"])
    assert stopped.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["quantizer"]["init_args"]["ema_decay"] == 0.99
    assert config["data"]["init_args"]["batch_size"] == 32
    assert config["checkpoint"]["every_n_steps"] == 500


def write_png(path: Path, whole: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    if not whole:
        path.write_bytes(path.read_bytes()[:200])


def arrays(**kwargs: np.ndarray) -> list[str]:
    np.savez("images.npz", **kwargs)
    return ["fit", *NETS, "--data=ImageArrays", "--data.path=images.npz", *TRAINER, *QUICK]


IMAGES = np.zeros((64, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fit", "--config=nope.yaml"], ["--config", "nope.yaml"]),
        ([*FIT, *QUICK, "--model.qantizer=FSQ"], ["qantizer", "did you mean --model.quantizer?"]),
        ([*FIT, *QUICK, "--model.quantizer.num_embedings=3"], ["did you mean --model.quantizer.num_embeddings?"]),
        (["fit", "--model=VQVEA", *DATA], ["VQVEA", "did you mean VQVAE?"]),
        (["fit", *NETS, "--data.batch_size=8", *DATA], ["--data.batch_size", "put --data CLASS in front of it"]),
        ([*FIT, *QUICK, "--model.frechet=7"], ["--model.frechet", "FrechetDistance"]),
        (["fit", "--model=VQGAN", "--model.perceptual=7", *DATA], ["choose from Perceptual"]),
        (["fit", "--model=VQVAE", "--data=Digitz"], ["Digitz", "did you mean Digits?"]),
        ([*FIT, *QUICK, "--model.quantizer=FSQQ"], ["FSQQ", "--model.quantizer", "FSQ"]),
        ([*FIT, *QUICK, "--model.reconstruction=l3"], ["--model.reconstruction", "'l2'"]),
        ([*FIT, *QUICK, "--model.lr=fast"], ["--model.lr", "null, got fast"]),
        ([*FIT, *QUICK, "--model.quantizer.num_embeddings=0"], ["num_embeddings", "at least 1"]),
        ([*FIT, *QUICK, "--model.base_lr=1e-5"], ["lr", "base_lr", "null"]),
        ([*FIT, *QUICK, "--data.image_size=30"], ["30", "downsampling 4", "--data.image_size=32"]),
        ([*FIT, *QUICK, "--data.batch_size=0"], ["--data.batch_size"]),
        ([*FIT, *QUICK, "--data.batch_size=100000"], ["--data.batch_size="]),
        ([*FIT, *QUICK, "--trainer.precision=12"], ["precision"]),
        ([*FIT, *QUICK, "--ema.decay=2"], ["decay", "--ema.decay"]),
        ([*FIT, *QUICK, "--model.optimization.betas=[1,2]"], ["--model.optimization.betas"]),
        ([*FIT, *QUICK, "--model.optimization.betas=null"], ["--model.optimization.betas must be"]),
        (
            [*FIT, *QUICK, "--model.quantizer.num_embeddings=null"],
            ["--model.quantizer.num_embeddings must be"],
        ),
        ([*FIT, *QUICK, "--data.batch_size=null"], ["--data.batch_size must be"]),
        ([*FIT, *QUICK, "--trainer.limit_val_batches=1e-300"], ["limit_val_batches"]),
        ([*FIT, *QUICK, "--wandb.mode=on"], ["--wandb.mode"]),
        ([*FIT, *QUICK, "--wandb.mode=on", "--tensorboard=true"], ["--wandb.mode"]),
        ([*FIT, *QUICK, "--data.num_workers=1000000"], ["--data.num_workers"]),
        ([*FIT, *QUICK, "--trainer.devices=-inf"], ["devices", "--trainer"]),
        ([*FIT, *QUICK, "--seed_everything=1000000000000"], ["--seed_everything=0"]),
        ([*FIT, *QUICK, "--model.encoder.hidden_channels=10000000000"], ["memory"]),
        (["fit", "--model=VQVAE"], ["--data"]),
        (["fitt"], ["did you mean fit?"]),
        (["test", *NETS, *DATA], ["--ckpt_path"]),
        (["test", "--ckpt_path=nope.ckpt"], ["nope.ckpt", "does not exist"]),
    ],
)
def test_a_mistake_gets_one_line(capsys, args, words):
    complaint = fails(capsys, args)
    for word in words:
        assert word in complaint
    assert not list(Path().iterdir()), "something was written"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": IMAGES.astype(np.float32)}, ["float32", "uint8"]),
        ({"x": np.full(IMAGES.shape, np.nan)}, ["float64", "uint8"]),
        ({"x": IMAGES[0, 0, 0]}, ["images.npz"]),
        ({"x": IMAGES[:0]}, ["has shape (0, "]),
        ({"x": IMAGES, "y": np.zeros(3, np.int64)}, ["y", "64"]),
        ({"x": np.zeros((64, 30, 30), np.uint8)}, ["30", "--data.image_size=32"]),
        ({"x": np.array([object()] * 3, dtype=object).reshape(3, 1, 1)}, ["is object, not uint8"]),
    ],
)
def test_arrays_that_are_no_images(capsys, content, words):
    complaint = fails(capsys, arrays(**content))
    for word in words:
        assert word in complaint
    assert not Path("runs").exists()


def test_folders_that_hold_no_images(capsys):
    args = ["fit", *NETS, "--data=ImageFolder", "--data.image_size=16", *TRAINER, *QUICK]
    assert "pictures" in fails(capsys, [*args, "--data.path=pictures"])
    Path("pictures").mkdir()
    assert "pictures" in fails(capsys, [*args, "--data.path=pictures"])
    for number in range(40):
        write_png(Path(f"pictures/{number}.png"))
    write_png(Path("pictures/broken.png"), whole=False)
    complaint = fails(capsys, [*args, "--data.path=pictures", "--data.batch_size=8"])
    assert "broken.png" in complaint
    assert "skip_corrupt" in complaint
    assert not Path("runs").exists()
    main([*args, "--data.path=pictures", "--data.batch_size=8", "--data.skip_corrupt=true", "--name=skips"])
    assert Path("runs/vqvae/skips/checkpoints/last.ckpt").exists()


def test_a_failed_download_says_how_to_go_on(capsys, monkeypatch):
    import urllib.error
    import urllib.request

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    complaint = fails(capsys, ["fit", *NETS, "--data=CIFAR10", *TRAINER, *QUICK])
    assert "without a network use" in complaint
    assert [p for p in Path().rglob("*") if p.is_file()] == []


def test_an_image_that_is_found_damaged_only_when_it_is_needed(capsys):
    for number in range(40):
        write_png(Path(f"pictures/{number}.png"), whole=number != 7)
    args = ["fit", *NETS, "--data=ImageFolder", "--data.image_size=16", "--data.path=pictures", "--data.verify=false"]
    for workers in (0, 1):
        options = ["--data.batch_size=38", f"--data.num_workers={workers}"]
        complaint = fails(capsys, [*args, *options, *TRAINER, *QUICK])
        assert complaint.startswith("vqlab: error: pictures/7.png cannot be decoded")
        assert not list(Path("runs").rglob("*.yaml"))


def test_checkpoints_that_do_not_fit(capsys):
    fit(*QUICK, "--name=first")
    last = Path("runs/vqvae/first/checkpoints/last.ckpt")
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    resume = [f"--ckpt_path={last}", "--trainer.max_steps=8"]
    assert "codebook" in fails(capsys, ["fit", *resume, "--model.quantizer.num_embeddings=64"])
    assert "raise --trainer.max_steps" in fails(capsys, ["fit", f"--ckpt_path={last}"])
    assert "choose another --name" in fails(capsys, [*FIT, *QUICK, "--name=first"])
    Path("torn.ckpt").write_bytes(last.read_bytes()[:1000])
    assert "torn.ckpt" in fails(capsys, [*FIT, *QUICK, "--ckpt_path=torn.ckpt"])
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "vqlab.models.vq.vqgan.VQGAN"
    torch.save(checkpoint, "other.ckpt")
    assert "holds a VQGAN, not a VQVAE" in fails(capsys, [*FIT, *QUICK, "--ckpt_path=other.ckpt"])
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["optimizer_states"] = [{"state": 3}]  # which is found when the run has begun to write
    torch.save(checkpoint, "spoilt.ckpt")
    last.write_bytes(Path("spoilt.ckpt").read_bytes())
    assert "cannot be resumed" in fails(capsys, ["fit", *resume])
    assert {**before, last: last.read_bytes()} == {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}


def test_a_run_shorter_than_the_validation_interval_is_validated_at_its_end(caplog):
    caplog.set_level("INFO")
    options = ["--trainer.val_check_interval=100", "--trainer.check_val_every_n_epoch=null", "--trainer.max_steps=3"]
    fit("--name=short", *options)
    run = Path("runs/vqvae/short")
    assert {path.name for path in (run / "samples").iterdir()} == {"step_000003.png", "codes_000003.png"}
    assert [row["step"] for row in logged(run / "metrics.csv") if "val/loss" in row] == [2]
    assert f"run folder: {run} (samples/*.png, metrics.csv, checkpoints/best.ckpt)" in caplog.messages
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["callbacks"]["LastAndBest"]["best_step"] == best["global_step"] == 3


def test_a_run_that_is_not_validated_promises_nothing_else(caplog):
    caplog.set_level("INFO")
    fit("--name=blind", "--trainer.max_steps=3", "--trainer.limit_val_batches=0")
    assert "finished at step 3: nothing was validated" in caplog.messages
    assert "run folder: runs/vqvae/blind (checkpoints/last.ckpt)" in caplog.messages


@pytest.mark.parametrize("options", [[], ["--trainer.num_sanity_val_steps=0", "--trainer.val_check_interval=2"]])
def test_a_monitor_that_is_not_logged(capsys, options):
    complaint = fails(capsys, [*FIT, "--name=run", "--checkpoint.monitor=val/lose", "--trainer.max_steps=4", *options])
    assert "--checkpoint.monitor val/lose is not logged: choose from val/loss" in complaint
    assert Path("runs").exists() == bool(options), "the sanity check shows it before the first step"


def test_a_full_disk_leaves_the_last_checkpoint_whole(capsys, monkeypatch):
    import errno

    from vqlab import atomic_io as whole_files

    real, written = os.fsync, []

    def fsync(descriptor):
        written.append(descriptor)
        if Path("runs/vqvae/full/checkpoints/last.ckpt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(whole_files.os, "fsync", fsync)
    complaint = fails(capsys, [*FIT, "--name=full", "--trainer.max_steps=40", "--checkpoint.every_n_steps=10"])
    assert "no space left" in complaint
    assert "--runs" in complaint
    assert torch.load("runs/vqvae/full/checkpoints/last.ckpt", weights_only=True)["global_step"] == 10
    assert [p.name for p in Path("runs/vqvae/full/checkpoints").iterdir()] == ["last.ckpt"]


def test_a_loss_that_is_not_finite_stops_the_run(capsys):
    fit("--name=nan", "--trainer.max_steps=10", "--checkpoint.every_n_steps=5")
    last = "runs/vqvae/nan/checkpoints/last.ckpt"
    # A rate like this makes the weights, and one step later the loss, overflow.
    complaint = fails(capsys, ["fit", f"--ckpt_path={last}", "--trainer.max_steps=40", "--model.lr=1e30"])
    assert "rec_loss" in complaint
    assert "batch" in complaint
    (line,) = Path("runs/vqvae/nan/health.jsonl").read_text().splitlines()
    verdict = json.loads(line)
    assert verdict["event"] == "non_finite"
    assert "last.ckpt" in verdict["mend"]


def test_a_verdict_ends_the_run_which_can_go_on(capsys, caplog):
    caplog.set_level("INFO")
    fit("--name=ill", "--trainer.max_steps=40", "--trainer.log_every_n_steps=1", "--model.lr=1", "--health.stop=true")
    (line,) = Path("runs/vqvae/ill/health.jsonl").read_text().splitlines()
    verdict, last = json.loads(line), "runs/vqvae/ill/checkpoints/last.ckpt"
    assert (verdict["event"], verdict["step"]) == ("learning_rate_too_high", 5)
    assert torch.load(last, weights_only=True)["global_step"] == 5
    assert json.loads(Path("runs/vqvae/ill/finished.json").read_text())["step"] == 5
    assert "health: stopped at step 5 because of learning rate too high" in caplog.text
    assert f"resume with --ckpt_path {last}" in caplog.text
    main(["fit", f"--ckpt_path={last}", "--trainer.max_steps=10"])
    assert torch.load(last, weights_only=True)["global_step"] == 10
    complaint = fails(capsys, [*FIT, "--name=odd", "--health.stop=[bad_luck]"])
    assert "bad_luck" in complaint
    assert "loss_divergence" in complaint


def test_debug_shows_the_traceback():
    process = command("fitt", VQLAB_DEBUG="1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in output
