"""Train a prior over the codes of a tokenizer, and sample from it."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vqlab
from tests.e2e.tiny import DATA, ROOT, TRAINER, fails, logged
from vqlab.cli.main import main

SIZES = ["--model.dim=32", "--model.depth=1", "--model.heads=2"]
PRIOR = ["fit", "--model=CodePrior", *SIZES, "--model.lr=0.003", *DATA, *TRAINER]
STEPS = ["--trainer.max_steps=20", "--trainer.val_check_interval=10", "--trainer.check_val_every_n_epoch=null"]
QUICK = ["--trainer.max_steps=4", "--trainer.limit_val_batches=1"]


@pytest.fixture(scope="module")
def trained(first, tmp_path_factory):
    """Return the best checkpoints of a tokenizer and of two priors over it, with labels and without, by name."""
    folder = tmp_path_factory.mktemp("trained")
    found = {"first": f"{first}/checkpoints/best.ckpt"}
    for name, conditional in (("plain", "false"), ("labels", "true")):
        options = [f"--model.tokenizer={found['first']}", f"--model.conditional={conditional}", "--ema.decay=0.9"]
        main([*PRIOR, *options, *STEPS, f"--runs={folder}", f"--name={name}"])
        found[name] = f"{folder}/codeprior/{name}/checkpoints/best.ckpt"
    return found


def test_prior_trains_and_its_tokenizer_is_frozen(trained):
    run = Path(trained["labels"]).parents[1]
    before, after = [row["val/loss"] for row in logged(run / "metrics.csv") if "val/loss" in row]
    assert after < before
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["tokenizer"] == trained["first"]
    model, tokenizer = vqlab.load(trained["labels"]), vqlab.load(trained["first"])
    assert model.num_classes == 10  # linked from the data
    frozen = model.tokenizer.net.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in tokenizer.state_dict().items())


def test_sample_writes_an_image_grid_and_needs_only_the_checkpoint(trained, capsys):
    shutil.copy(trained["labels"], "alone.ckpt")
    options = ["--num=70", "--label=3", "--top-k=20", "--top-p=0.95", "--guidance=1.5", "--temperature=0.9"]
    main(["sample", "alone.ckpt", *options, "--columns=10", "--out=pictures/threes.png"])
    assert "pictures/threes.png: 70 samples of CodePrior, 16 x 16" in capsys.readouterr().out
    tile, gap = 96, 4
    assert Image.open("pictures/threes.png").size == (10 * (tile + gap) + gap, 7 * (tile + 2 * gap) + 7 * gap)
    assert sorted(p.name for p in Path().rglob("*") if p.is_file()) == ["alone.ckpt", "threes.png"]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main(["sample", "alone.ckpt", "--num=5", f"--out={name}.png", f"--seed={seed}"])
    a, b, c = (np.asarray(Image.open(f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    model = vqlab.load("alone.ckpt")
    images = model.value_range.decode(model.sample(5, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(a[gap : gap + tile : 6, gap : gap + tile : 6, 0] / 255, images[0, 0], atol=1 / 255)


def test_command_recommended_by_sample_works(trained, capsys):
    recommended = fails(capsys, ["sample", trained["first"]]).partition("vqlab fit ")[2]
    assert recommended.endswith("--data=Digits --data.image_size=16 --data.batch_size=32")
    args = shlex.split(recommended.replace("configs/", f"{ROOT}/configs/"))
    main(["fit", *args, *SIZES, *TRAINER, *QUICK, "--name=recommended"])
    assert Path("runs/codeprior/recommended/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["sample"], "checkpoint"),
        (["sample", "nope.ckpt"], "does not exist"),
        (["sample", "{labels}", "--label=10"], "0 .. 9"),
        (["sample", "{plain}", "--label=1"], "leave --label out"),
        (["sample", "{plain}", "--topk=2"], "vqlab sample --help"),
        (["sample", "{plain}", "--steps=4"], "CodePrior has no option steps: leave out --steps"),
        (
            ["fit", "--model=NextScalePrior", "--model.tokenizer={first}", *DATA, *TRAINER],
            "must have a MultiScaleQuantizer",
        ),
        (["sample", "{plain}", "--out=samples.gif"], "--out"),
        (PRIOR, "tokenizer must be a trained model"),
        ([*PRIOR, "--model.tokenizer={first}", "--data.image_size=32"], "--data.image_size=16"),
        ([*PRIOR, "--model.tokenizer={first}", "--data.value_range=unit"], "--data.value_range=signed"),
    ],
)
def test_mistake_is_reported_in_one_line_and_nothing_is_written(trained, capsys, args, words):
    assert words in fails(capsys, [arg.format(**trained) for arg in args])
    assert not list(Path().iterdir()), "something was written"
