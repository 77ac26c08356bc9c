"""The second stage as a user types it: fit a tokenizer, fit a prior over its codes, sample."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vqlab
from tests.e2e.tiny import DATA, TRAINER, assert_same_runs, fails, fit, logged
from vqlab.cli.main import main

SIZES = ["--model.dim=32", "--model.depth=1", "--model.heads=2"]
PRIOR = ["fit", "--model=CodePrior", *SIZES, "--model.lr=0.003", *DATA, *TRAINER]
STEPS = ["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=10"]
QUICK = ["--trainer.max_steps=4", "--trainer.limit_val_batches=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with a tokenizer and two priors over it, with labels and without."""
    folder = tmp_path_factory.mktemp("trained")
    fit(f"--runs={folder}", "--name=first", "--trainer.max_steps=30", *STEPS)
    tokenizer = f"--model.tokenizer={folder}/vqvae/first/checkpoints/best.ckpt"
    for name, options in (("plain", []), ("labels", ["--model.conditional=true"])):
        main([*PRIOR, tokenizer, *options, *STEPS, f"--runs={folder}", f"--name={name}", "--trainer.max_steps=30"])
    return folder


def checkpoint(trained, name):
    return str(trained / ("vqvae" if name == "first" else "codeprior") / name / "checkpoints" / "best.ckpt")


def png(path):
    return np.asarray(Image.open(path))


def test_a_run_of_the_second_stage(trained):
    run = trained / "codeprior" / "labels"
    rows = logged(run / "metrics.csv")
    row = next(row for row in rows if row["step"] == 14)
    assert row.keys() >= {
        "train/loss", "lr/prior", "grad_norm/network", "val/loss", "val/nll", "val/bits_per_token", "val/bits_per_dim",
        "val/unigram_bits",
    }  # fmt: skip
    assert rows[-1]["val/loss"] < row["val/loss"]
    assert {p.name for p in (run / "samples").iterdir()} == {"step_000015.png", "step_000030.png"}
    assert not (run / "health.jsonl").exists()
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert config["tokenizer"] == checkpoint(trained, "first")
    model = vqlab.load(checkpoint(trained, "labels"))
    assert model.num_classes == 10  # linked from the data
    assert vqlab.load(checkpoint(trained, "plain")).num_classes == 0


def test_sample_draws_a_picture_and_needs_the_checkpoint_alone(trained, capsys):
    shutil.copy(checkpoint(trained, "labels"), "alone.ckpt")
    options = ["--num=70", "--label=3", "--top-k=20", "--top-p=0.95", "--guidance=1.5", "--temperature=0.9"]
    main(["sample", "alone.ckpt", *options, "--columns=10", "--out=pictures/threes.png"])
    assert "pictures/threes.png: 70 samples of CodePrior, 16 x 16" in capsys.readouterr().out
    tile, gap = 96, 4
    assert png("pictures/threes.png").shape == (7 * (tile + 2 * gap) + 7 * gap, 10 * (tile + gap) + gap, 3)
    assert sorted(p.name for p in Path().rglob("*") if p.is_file()) == ["alone.ckpt", "threes.png"]
    main(["sample", "alone.ckpt", "--num=5", "--out=a.png"])
    main(["sample", "alone.ckpt", "--num=5", "--out=b.png"])
    main(["sample", "alone.ckpt", "--num=5", "--out=c.png", "--seed=1"])
    assert np.array_equal(png("a.png"), png("b.png"))
    assert not np.array_equal(png("a.png"), png("c.png"))
    # What is in the file is what the model draws.
    model = vqlab.load("alone.ckpt")
    images = model.value_range.decode(model.sample(5, generator=torch.Generator().manual_seed(0)))
    first = png("a.png")[gap : gap + tile : 6, gap : gap + tile : 6, 0] / 255
    np.testing.assert_allclose(first, images[0, 0].numpy(), atol=1 / 255)


def test_the_command_that_sample_recommends_works(trained, capsys):
    recommended = fails(capsys, ["sample", checkpoint(trained, "first")]).partition("vqlab fit ")[2]
    assert recommended.endswith("--data=Digits --data.image_size=16 --data.batch_size=32")
    configs = Path(__file__).parents[2] / "configs"
    args = shlex.split(recommended.replace("configs/", f"{configs}/"))
    main(["fit", *args, *SIZES, *TRAINER, *QUICK, "--name=recommended"])
    assert Path("runs/codeprior/recommended/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("first", [], ["VQVAE cannot sample", "configs/prior.yaml", "--model.tokenizer=", "vqvae/first"]),
        ("labels", ["--label=10"], ["0 .. 9", "--label"]),
        ("plain", ["--label=1"], ["without labels", "leave --label out"]),
        ("plain", ["--guidance=2"], ["guidance", "--label"]),
        ("plain", ["--num=0"], ["num", "at least 1"]),
        ("plain", ["--num=1000000000"], ["num", "at most 100000"]),
        ("plain", ["--seed=-1"], ["seed", "at least 0"]),
        ("plain", ["--columns=0"], ["columns", "at least 1"]),
        ("plain", ["--temperature=0"], ["temperature", "above 0"]),
        ("plain", ["--temperature=warm"], ["--temperature", "warm"]),
        ("plain", ["--top-p=2"], ["top_p", "(0, 1]"]),
        ("plain", ["--topk=2"], ["--topk", "vqlab sample --help"]),
        ("plain", ["--out=samples.gif"], [".png", "--out"]),
        ("plain", ["--out=file/samples.png"], ["file/samples.png", "cannot be written", "--out"]),
        ("plain", ["--out=."], ["--out"]),
    ],
)
def test_a_mistake_in_sampling_gets_one_line(trained, capsys, name, options, words):
    Path("file").touch()
    complaint = fails(capsys, ["sample", checkpoint(trained, name), *options])
    for word in words:
        assert word in complaint
    assert [p.name for p in Path().iterdir()] == ["file"], "something was written"


def test_checkpoints_that_cannot_be_sampled(trained, capsys):
    assert "checkpoint" in fails(capsys, ["sample"])
    assert "does not exist" in fails(capsys, ["sample", "nope.ckpt"])
    Path("torn.ckpt").write_bytes(Path(checkpoint(trained, "plain")).read_bytes()[:5000])
    assert "torn.ckpt" in fails(capsys, ["sample", "torn.ckpt"])


def test_a_full_disk_leaves_no_half_picture(trained, capsys, monkeypatch):
    import errno

    from vqlab import atomic_io as whole_files

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", fsync)
    complaint = fails(capsys, ["sample", checkpoint(trained, "plain"), "--num=1"])
    assert "no space left" in complaint
    assert "--out" in complaint
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["tokenizer must be a trained model", "None"]),
        (["--model.tokenizer=nope.ckpt"], ["nope.ckpt", "does not exist"]),
        (["--model.tokenizer={first}", "--data.image_size=32"], ["image_size is 32", "--data.image_size=16"]),
        (["--model.tokenizer={first}", "--data.value_range=unit"], ["unit", "--data.value_range=signed"]),
        (["--model.tokenizer={first}", "--data=Photos"], ["3 channel", "the data that it was trained on"]),
        (["--model.tokenizer={first}", "--model.dim=30"], ["--model.dim must be", "got 30"]),
        (["--model.tokenizer={first}", "--model.tokeniser=x"], ["did you mean --model.tokenizer?"]),
    ],
)
def test_a_mistake_in_fitting_gets_one_line(trained, capsys, options, words):
    options = [option.format(first=checkpoint(trained, "first")) for option in options]
    complaint = fails(capsys, [*PRIOR, *QUICK, *options])
    for word in words:
        assert word in complaint
    assert not list(Path().iterdir()), "something was written"


def test_two_halves_equal_one_whole(trained):
    options = [*STEPS, f"--model.tokenizer={checkpoint(trained, 'first')}", "--model.conditional=true"]
    main([*PRIOR, *options, "--name=whole", "--trainer.max_steps=54"])
    main([*PRIOR, *options, "--name=halves", "--trainer.max_steps=27"])
    last = "runs/codeprior/halves/checkpoints/last.ckpt"
    main([*PRIOR, *options, "--name=halves", "--trainer.max_steps=54", f"--ckpt_path={last}"])
    assert_same_runs("runs/codeprior/halves", "runs/codeprior/whole")


def test_with_averaged_weights_on_augmented_images(trained):
    options = [f"--model.tokenizer={checkpoint(trained, 'first')}", "--ema.decay=0.9", "--data.augment=true"]
    main([*PRIOR, *options, "--name=ema", "--trainer.max_steps=10", "--trainer.val_check_interval=10"])
    model, first = (
        vqlab.load(path) for path in ("runs/codeprior/ema/checkpoints/best.ckpt", checkpoint(trained, "first"))
    )
    frozen = model.tokenizer.net.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in first.state_dict().items())


def test_evaluation_needs_no_first_stage(trained):
    """A prior's own checkpoint serves as its tokenizer, where the first stage's file has gone."""
    shutil.copy(checkpoint(trained, "labels"), "prior.ckpt")
    mine = ["--model=CodePrior", *SIZES, *DATA, *TRAINER, "--model.conditional=true", "--model.tokenizer=prior.ckpt"]
    main(["validate", *mine, "--ckpt_path=prior.ckpt", "--name=again"])
    again = logged("runs/codeprior/again/validate.csv")[-1]
    best = min(row["val/nll"] for row in logged(trained / "codeprior/labels/metrics.csv") if "val/nll" in row)
    assert again["val/nll"] == pytest.approx(best, rel=1e-5)
