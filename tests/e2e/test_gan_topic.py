"""GANTopicModel as a user runs it, on texts of one's own."""

import csv
from pathlib import Path

import numpy as np
import pytest

import vqlab
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import TRAINER, fails, logged
from vqlab.cli.main import main

FIT = ["fit", *SYSTEMS["GANTopicModel"], *TRAINER]


def run(name):
    return Path("runs/gantopicmodel") / name


@pytest.fixture(autouse=True)
def posts():
    prepare("GANTopicModel")


def test_from_texts_to_topics(caplog, capsys):
    caplog.set_level("INFO")
    main([*FIT, *OFTEN, "--name=it", "--trainer.max_steps=20", "--checkpoint.monitor=val/npmi", "--ema.decay=0.9"])
    samples = run("it") / "samples"
    with (samples / "topics_000020.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(row["words"].startswith("word") for row in rows)
    assert sum(int(row["documents"]) for row in rows) == 30
    assert (samples / "topics_000020.png").exists()
    assert rows[0]["words"].split()[0] in (samples / "map.html").read_text()
    assert rows[0]["words"] in caplog.text  # printed in the end
    best = str(run("it") / "checkpoints" / "best.ckpt")
    assert "top_words" in fails(capsys, ["sample", best])
    assert all(word.startswith("word") for topic in vqlab.load(best).top_words(5) for word in topic)
    main(["test", f"--ckpt_path={best}"])
    main(["predict", f"--ckpt_path={best}", "--codes=proportions.npz"])
    with np.load(run("it") / "proportions.npz") as arrays:
        assert arrays["proportions"].shape == (30, 4)
        np.testing.assert_allclose(arrays["proportions"].sum(1), 1, rtol=1e-5)


def test_half_precision_and_the_published_model(monkeypatch):
    monkeypatch.setattr("vqlab.cli.devices.has_bf16_instructions", lambda: True)  # in bf16 even where it is slow
    published = ["--model.generator=mlp", "--model.init=random", "--model.cycle_weight=0"]
    main([*FIT, *published, "--name=half", "--trainer.max_steps=6", "--trainer.precision=bf16-mixed"])
    assert logged(run("half") / "metrics.csv")
