"""GANTopicModel as a user runs it, on texts of one's own."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Planted
from tiny import TRAINER, assert_ranks_hold_the_same, assert_same_runs, fails, fit_and_kill, logged

import vqlab
from vqlab.cli import main

MODEL = ["--model=GANTopicModel", "--model.num_topics=4", "--model.hidden_features=16", "--model.n_critic=2"]
DATA = ["--data=TextFile", "--data.path=posts.jsonl", "--data.batch_size=32", "--data.min_df=1"]
FIT = ["fit", *MODEL, *DATA, *TRAINER]
OFTEN = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=4"]
LAST = "checkpoints/last.ckpt"


def run(name):
    return Path("runs/gantopicmodel") / name


@pytest.fixture(autouse=True)
def posts():
    data = Planted(num_topics=4, vocab=100, num_documents=300, length=40)
    alphabet = "bcdfghklmn"
    words = [f"word{alphabet[v // 10]}{alphabet[v % 10]}" for v in range(100)]
    rng = np.random.default_rng(0)
    lines = []
    for counts, label in zip(data.bow, data.dominant, strict=True):
        text = " ".join(words[v] for v in rng.permutation(np.repeat(np.arange(100), counts)))
        lines.append(json.dumps({"text": text, "label": f"kind {label}"}) + "\n")
    Path("posts.jsonl").write_text("".join(lines))


def test_from_texts_to_topics(caplog):
    caplog.set_level("INFO")
    main([*FIT, *OFTEN, "--name=it", "--trainer.max_steps=20", "--checkpoint.monitor=val/npmi", "--ema.decay=0.9"])
    figures = set().union(*logged(run("it") / "metrics.csv"))
    assert {"val/npmi", "val/cv", "val/npmi_doc", "val/topic_diversity", "val/nmi", "val/purity"} <= figures
    assert {"train/wasserstein", "train/g_loss", "train/cycle", "lr/critic", "grad_norm/generator"} <= figures
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
    assert all(word.startswith("word") for topic in vqlab.load(best).top_words(5) for word in topic)
    main(["test", f"--ckpt_path={best}"])
    main(["predict", f"--ckpt_path={best}", "--codes=proportions.npz"])
    with np.load(run("it") / "proportions.npz") as arrays:
        assert arrays["proportions"].shape == (30, 4)
        np.testing.assert_allclose(arrays["proportions"].sum(1), 1, rtol=1e-5)


def test_a_killed_run_ends_where_an_uninterrupted_one_ends():
    end = fit_and_kill(run("killed") / LAST, 10, *FIT, *OFTEN, "--name=killed") + 12
    main([*FIT, *OFTEN, "--name=whole", f"--trainer.max_steps={end}"])
    main([*FIT, *OFTEN, f"--ckpt_path={run('killed') / LAST}", f"--trainer.max_steps={end}"])
    assert_same_runs(run("killed"), run("whole"))


def test_two_processes_hold_the_same_weights(tmp_path):
    options = [*OFTEN, "--trainer.max_steps=20", "--data.batch_size=16", "--name=two"]
    assert_ranks_hold_the_same(tmp_path, *FIT, *options)
    assert torch.load(run("two") / LAST, weights_only=True)["global_step"] == 20
    assert all("val/nmi" in row for row in logged(run("two") / "metrics.csv") if "val/npmi" in row)


def test_half_precision_and_the_published_model():
    published = ["--model.generator=mlp", "--model.init=random", "--model.cycle_weight=0"]
    main([*FIT, *published, "--name=half", "--trainer.max_steps=6", "--trainer.precision=bf16-mixed"])
    assert logged(run("half") / "metrics.csv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.num_topics=5000"], "lower --model.num_topics"),
        (["--data.min_df=500"], "min_df"),
        (["--data.batch_size=4000"], "--data.batch_size="),
        (["--data.text_column=body"], "text, label"),
        (["--trainer.gradient_clip_val=1"], "--model.clip_g=1"),
        (["--model.regularizer=none"], "regularizer"),
        (["--data=Digits"], "made for texts"),
    ],
)
def test_mistakes(capsys, options, words):
    assert words in fails(capsys, [*FIT, *options, "--trainer.max_steps=2"])
    assert not Path("runs").exists()


def test_topics_are_no_pictures(capsys):
    main([*FIT, "--name=it", "--trainer.max_steps=2"])
    assert "top_words" in fails(capsys, ["sample", str(run("it") / LAST)])
    assert not Path("samples.png").exists()
