"""``vqlab rate-distortion`` of images: its points equal those of ``vqlab test``, and of the coders."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

import vqlab
from tests.e2e.tiny import AUTOENCODER, DATA, TRAINER, fails, logged
from vqlab import Digits
from vqlab.cli.main import main
from vqlab.metrics import JPEG, PCA, PCAEntropyCoded, PCALloydMax, psnr, ssim

NETS = ["--model=VQVAE", *AUTOENCODER, "--model.lr=0.002", "--model.quantizer=GaussianQuantizer"]
NETS += ["--model.quantizer.num_embeddings=32", "--model.quantizer.embedding_dim=5"]
QUICK = ["--trainer.max_steps=4", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]
PRIOR = ["--model=CodePrior", "--model.dim=16", "--model.depth=1", "--model.heads=2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the checkpoints of a tokenizer and of a prior of its codes."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.callbacks.sample_grid.drawn", lambda figure: torch.zeros(3, 8, 8))
        main(["fit", *NETS, *DATA, *TRAINER, *QUICK, f"--runs={runs}", "--name=first"])
        best = runs / "vqvae/first/checkpoints/best.ckpt"
        prior = [*PRIOR, f"--model.tokenizer={best}", "--trainer.max_steps=2"]
        main(["fit", *prior, *DATA, *TRAINER, *QUICK[1:], f"--runs={runs}", "--name=prior"])
    return best, runs / "codeprior/prior/checkpoints/best.ckpt"


def points_of(output):
    with open(output / "rate_distortion.csv") as file:
        return [{n: v if n in ("coder", "kind") else float(v) for n, v in row.items()} for row in csv.DictReader(file)]


def images_of(split, data):
    return data.collate()(split.__getitems__([*range(len(split))]))["image"]


def test_points_are_those_of_vqlab_test_of_the_codes_and_of_the_coders(checkpoints, capsys):
    best, prior = checkpoints
    main(["rate-distortion", str(best), str(prior), "-o", "curves"])
    assert "test images of Digits, 1 x 16 x 16" in capsys.readouterr().out
    points = points_of(Path("curves"))
    fixed, coded, by_prior = points[:3]
    assert [p["coder"] for p in points[:3]] == ["VQVAE first/best", "VQVAE first/best", "CodePrior prior/best"]
    assert [p["kind"] for p in points[:3]] == ["fixed rate", "entropy-coded", "entropy-coded"]
    for name in ("psnr", "ssim"):
        assert fixed[name] == coded[name] == by_prior[name]

    for path, point, of in ((best, fixed, ("psnr", "ssim", "bits_per_image")), (prior, by_prior, ("bits_per_image",))):
        main(["test", f"--ckpt_path={path}", *TRAINER])
        (tested,) = logged(path.parents[1] / "test.csv")
        tested.setdefault("test/bits_per_image", tested.get("test/bits_per_token", 0) * 16)
        for name in of:
            assert point[name] == pytest.approx(tested[f"test/{name}"], rel=1e-4)
    assert fixed["bits_per_image"] == 16 * 5

    data, model = Digits(image_size=16), vqlab.load(best)
    train, test = (images_of(split, data) for split in (data.load_train_val()[0], data.load_test()))
    counts, codes = (model.encode(x).flatten().tolist() for x in (train, test))
    counts = Counter(counts)
    bits = -sum(math.log2((counts[code] + 1) / (16 * len(train) + 32)) for code in codes)
    assert coded["bits_per_image"] == pytest.approx(bits / len(test), rel=1e-4)

    train, test = (model.value_range.decode(x) for x in (train, test))
    pca = PCA(train)
    for name, coded, kind in (
        ("PCA", PCALloydMax(pca).code(test, 80), "fixed rate"),
        ("PCA", PCAEntropyCoded(pca).code(test, 32), "entropy-coded"),
        ("JPEG", JPEG().code(test, 10), JPEG.kind),
    ):
        of_coder = [p for p in points if (p["coder"], p["kind"]) == (name, kind)]
        point = min(of_coder, key=lambda p: abs(p["bits_per_image"] - coded.bits_per_image))
        assert point["bits_per_image"] == pytest.approx(coded.bits_per_image, rel=1e-4)
        assert point["psnr"] == pytest.approx(psnr(coded.x_hat, test).item(), rel=1e-4)
        assert point["ssim"] == pytest.approx(ssim(coded.x_hat, test).mean().item(), rel=1e-4)
    assert {p["coder"] for p in points[3:]} == {"PCA", "JPEG", "WebP"}
    assert Path("curves/rate_distortion.png").read_bytes().startswith(b"\x89PNG")
    assert "| PCA | fixed rate | 80.0 |" in Path("curves/rate_distortion.md").read_text()


def test_number_of_codes_of_a_gaussian_quantizer_may_change(checkpoints):
    main(["rate-distortion", str(checkpoints[0]), "-o", "more", "--split=val", "--model.quantizer.num_embeddings=4096"])
    assert points_of(Path("more"))[0]["bits_per_image"] == 16 * 12


def test_mistakes_are_one_line(checkpoints, capsys):
    best, _ = checkpoints
    checkpoint = torch.load(best, weights_only=True)
    torch.save(checkpoint | {"config": checkpoint["config"].replace("seed: 0", "seed: 1")}, "other.ckpt")
    line = fails(capsys, ["rate-distortion", str(best), "other.ckpt"])
    assert f"other.ckpt has other images than {best}: give checkpoints of the same data and size" in line
    assert not Path("rate_distortion").exists()
