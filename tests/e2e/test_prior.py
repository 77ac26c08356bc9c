"""Train a prior over the codes of a tokenizer, and sample from it."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import vqlab
from tests.e2e.tiny import DATA, ROOT, TRAINER, fails, logged
from vqlab.cli.main import main
from vqlab.metrics import GenerationMetrics

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


@pytest.fixture
def few_features(monkeypatch):
    """Replace the networks of the metrics by the mean of 48 pixels."""
    net = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(16))
    monkeypatch.setattr("vqlab.metrics.images.frechet.build_features", lambda *_: net)
    monkeypatch.setattr("vqlab.metrics.images.frechet.channels_of", lambda _: 16)


def test_sample_writes_metrics_beside_the_picture(trained, few_features, capsys):
    main(["sample", trained["labels"], "--num=70", "--label=all", "--reference=val", "--out=a.png"])
    printed, values = capsys.readouterr().out, json.loads(Path("a.json").read_text())
    assert "a.png: the first 64 of 70 samples of CodePrior" in printed
    assert "a.json: 70 samples beside 180 val images of Digits" in printed
    tile, gap = 96, 4
    assert Image.open("a.png").size == (8 * (tile + gap) + gap, 8 * (tile + 2 * gap) + 8 * gap)

    model, generator = vqlab.load(trained["labels"]), torch.Generator().manual_seed(0)
    drawn = [model.sample(n, (torch.arange(n) + first) % 10, generator=generator) for first, n in ((0, 64), (64, 6))]
    digits = vqlab.Digits(image_size=16).load_split("val").images
    metrics = GenerationMetrics()
    metrics.update(model.value_range.decode(torch.cat(drawn)), real=False)
    metrics.update(digits / 255, real=True)
    expected = {name: value.item() for name, value in metrics.compute().items()}
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    facts = {"num": 70, "seed": 0, "label": "all", "reference": "val images of Digits", "reference_images": 180}
    assert values == {"checkpoint": trained["labels"], **facts, **{name: values[name] for name in expected}}


def test_reference_may_be_a_file_or_a_folder(trained, few_features):
    digits = vqlab.Digits(image_size=16).load_split("test").images
    np.savez("digits.npz", x=digits[:, 0].numpy())
    Path("digits").mkdir()
    for number, digit in enumerate(digits[:, 0].numpy()):
        Image.fromarray(digit).save(f"digits/{number:03d}.png")
    found = []
    for number, options in enumerate((["--metrics"], ["--reference=digits.npz"], ["--reference=digits"])):
        main(["sample", trained["plain"], "--num=20", *options, f"--out={number}.png"])
        values = json.loads(Path(f"{number}.json").read_text())
        found.append({name: values[name] for name in values if name.endswith("efficientnet_lite0")})
        assert values["reference_images"] == 180
    assert len(found[0]) == 7
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] == pytest.approx(found[2], rel=1e-9)


def test_callback_logs_metrics_of_samples_in_test(trained, few_features, capsys):
    run = Path(trained["plain"]).parents[1]
    for _ in range(2):
        main(["test", f"--ckpt_path={trained['plain']}", "--trainer.callbacks+=SampleMetrics"])
    rows = [{name: row[name] for name in row if "efficientnet" in name} for row in logged(run / "test.csv")]
    assert len(rows[0]) == 7
    assert rows[0] == rows[-1]
    model, generator, metrics = vqlab.load(trained["plain"]), torch.Generator().manual_seed(0), GenerationMetrics()
    for part in vqlab.Digits(image_size=16).load_split("test").images.split(32):
        metrics.update(part / 255, real=True)
        metrics.update(model.value_range.decode(model.sample(len(part), generator=generator)), real=False)
    expected = {f"test/{name}": value.item() for name, value in metrics.compute().items()}
    assert rows[0] == pytest.approx(expected, rel=1e-4)
    first = trained["first"]
    assert "VQVAE does not draw images" in fails(
        capsys, ["test", f"--ckpt_path={first}", "--trainer.callbacks+=SampleMetrics"]
    )


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
        (["sample", "{plain}", "--label=three"], "--label must be a number or all, got 'three'"),
        (["sample", "{plain}", "--label=all"], "leave --label out"),
        (["sample", "{plain}", "--num=5", "--metrics"], "--num must be at least 6 with --metrics, got 5"),
        (["sample", "{plain}", "--metrics", "--net=resnet"], "net must be one of"),
        (
            ["sample", "{plain}", "--reference=nowhere"],
            "--reference must be test, val, train, a .npz or .npy file or a",
        ),
        (PRIOR, "tokenizer must be a trained model"),
        ([*PRIOR, "--model.tokenizer={first}", "--data.image_size=32"], "--data.image_size=16"),
        ([*PRIOR, "--model.tokenizer={first}", "--data.value_range=unit"], "--data.value_range=signed"),
    ],
)
def test_mistake_is_reported_in_one_line_and_nothing_is_written(trained, capsys, args, words):
    assert words in fails(capsys, [arg.format(**trained) for arg in args])
    assert not list(Path().iterdir()), "something was written"
