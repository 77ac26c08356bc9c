"""``vqlab rate-distortion``: its points equal those of ``vqlab test``, of a count of the codes, and of the coders."""

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import vqlab
from tests.e2e.tiny import ROOT, TRAINER, fails, logged
from tests.helpers.refusal import refused
from vqlab import S4DVQ, Signals
from vqlab.cli import rate_distortion_signals
from vqlab.cli.main import main
from vqlab.metrics import KLTLloydMax
from vqlab.metrics.signal import prd, snr

NETS = ["--model=S4DVQ", "--model.klt=true", "--model.lr=1e-5"]
for net in ("Encoder", "Decoder"):
    sizes = ("patch_size=16", "fold=4", "d_model=8", "num_blocks=1")
    NETS += [f"--model.{net.lower()}=Patch{net}", *(f"--model.{net.lower()}.{size}" for size in sizes)]
NETS += ["--model.quantizer=ResidualQuantizer", "--model.quantizer.num_quantizers=3"]
NETS += ["--model.quantizer.quantizer=VectorQuantizer", "--model.quantizer.quantizer.num_embeddings=16"]
NETS += ["--model.quantizer.quantizer.embedding_dim=16"]
QUICK = [*TRAINER, "--trainer.max_steps=4", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]
DATA = {"length": 128, "batch_size": 8, "val_fraction": 0.2, "test_fraction": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    for number in range(10):
        np.save(folder / f"{number}.npy", rng.standard_normal((2, 1500)).cumsum(1))
    data = ["--data=Signals", f"--data.path={folder}", *(f"--data.{name}={value}" for name, value in DATA.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.callbacks.sample_grid.drawn", lambda figure: torch.zeros(3, 8, 8))
        main(["fit", *NETS, *data, *QUICK, f"--runs={folder.parent}/runs", "--name=first"])
    return folder


@pytest.fixture(scope="module")
def best(folder):
    return folder.parent / "runs/s4dvq/first/checkpoints/best.ckpt"


def points_of(output):
    with open(output / "rate_distortion.csv") as file:
        return [{n: v if n in ("coder", "kind") else float(v) for n, v in row.items()} for row in csv.DictReader(file)]


def test_points_of_the_model_are_those_of_vqlab_test_and_of_its_codes(folder, best, capsys):
    main(["rate-distortion", str(best), "-o", "curves"])
    printed = capsys.readouterr().out
    points = points_of(Path("curves"))
    of_model = [point for point in points if point["coder"] == "S4DVQ first/best"]
    fixed, coded = of_model[:3], of_model[3:]
    assert [point["kind"] for point in of_model] == ["fixed rate"] * 3 + ["entropy-coded"] * 3
    assert [point["bits_per_sample"] for point in fixed] == [
        0.125,
        0.25,
        0.375,
    ]  # 4 bits for 2 x 16 samples
    assert [point["snr"] for point in fixed] == sorted(point["snr"] for point in fixed)
    assert [(a["snr"], a["prd"]) for a in fixed] == [(b["snr"], b["prd"]) for b in coded]

    main(["test", f"--ckpt_path={best}", *TRAINER])
    (tested,) = logged(best.parents[1] / "test.csv")
    for name in ("snr", "prd", "bits_per_sample"):
        assert fixed[-1][name] == pytest.approx(tested[f"test/{name}"], rel=1e-4)

    data, model = Signals(str(folder), **DATA), vqlab.load(best)
    train, test = (all_windows(split, data) for split in (data.load_split("train"), data.load_test()))
    codes = [model.encode(x).reshape(-1, 3) for x in (train, test)]
    for depths, point in zip((1, 2, 3), coded, strict=True):
        bits = 0.0
        for of_train, of_test in zip(codes[0].T[:depths].tolist(), codes[1].T[:depths].tolist(), strict=True):
            counts = Counter(of_train)
            bits -= sum(math.log2((counts[code] + 1) / (len(of_train) + 16)) for code in of_test)
        assert point["bits_per_sample"] == pytest.approx(bits / test.numel(), rel=1e-4)

    x_hat = KLTLloydMax(64).fit(train).code(test, 2).x_hat
    (found,) = [p for p in points if (p["coder"], p["kind"], p["bits_per_sample"]) == ("KLT-64", "fixed rate", 2)]
    assert found["snr"] == pytest.approx(snr(x_hat, test).mean().item(), rel=1e-4)
    assert found["prd"] == pytest.approx(prd(x_hat, test).mean().item(), rel=1e-4)

    page = Path("curves/rate_distortion.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    for row, point in zip(rows, points, strict=True):
        assert row[:2] == [point["coder"], point["kind"]]
        for cell, name, digits in zip(row[2:], ("bits_per_sample", "snr", "prd"), (3, 2, 1), strict=True):
            assert float(cell) == pytest.approx(point[name], abs=0.51 * 10**-digits)
        assert " ".join(row) in " ".join(printed.split())
    assert Path("curves/rate_distortion.png").read_bytes().startswith(b"\x89PNG")


def all_windows(split, data):
    return data.collate()(split.__getitems__([*range(len(split))]))["signal"]


def test_several_checkpoints_and_other_data(best):
    last = best.with_name("last.ckpt")
    main(["rate-distortion", str(best), str(last), "-o", "two", "--split=val", "--data.length=64"])
    points = points_of(Path("two"))
    assert [*dict.fromkeys(p["coder"] for p in points)] == [
        "S4DVQ first/best", "S4DVQ first/last", "PCM", "KLT-64", "wavelet 9/7"
    ]  # fmt: skip
    assert "val windows of Signals, 2 x 64 samples each" in Path("two/rate_distortion.md").read_text()


def test_mistakes_are_one_line(best, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.cli.rate_distortion.read_facts", lambda path: {"model": "SGAN"})
        rule = "a.ckpt holds a SGAN: give a checkpoint of S4DVQ or VQVAE, VQGAN, JSA, DiscreteVAE, CodePrior"
        assert rule in fails(capsys, ["rate-distortion", "a.ckpt"])
    other = ROOT / "tests/helpers/runs_of_0_1/vqgan/old/checkpoints/last.ckpt"
    rule = f"{other} holds a VQGAN, {best} a S4DVQ: give signals or images"
    assert rule in fails(capsys, ["rate-distortion", str(best), str(other)])
    assert "none.ckpt" in fails(capsys, ["rate-distortion", "none.ckpt"])
    no_test = fails(capsys, ["rate-distortion", str(best), "--data.test_fraction=0"])
    assert "Signals has no test windows: set --split val" in no_test
    assert "there is no option --nonsense" in fails(capsys, ["rate-distortion", str(best), "--nonsense=1"])
    assert "choose from" in fails(capsys, ["rate-distortion", str(best), "--split=train"])
    checkpoint = torch.load(best, weights_only=True)
    torch.save(checkpoint | {"config": checkpoint["config"].replace("seed: 0", "seed: 1")}, "other.ckpt")
    windows = fails(capsys, ["rate-distortion", str(best), "other.ckpt"])
    assert f"other.ckpt has other windows than {best}: give checkpoints of the same data and length" in windows
    assert not Path("rate_distortion").exists()


def test_model_without_codes_is_refused(monkeypatch):
    monkeypatch.setattr(rate_distortion_signals, "trained", lambda *_: (S4DVQ(quantizer=None), None))
    with refused("a.ckpt has no codes (quantizer=null)"):
        rate_distortion_signals.measure([Path("a.ckpt")], "test", [])
