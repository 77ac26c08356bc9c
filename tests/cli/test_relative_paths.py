"""Paths of a checkpoint's own configuration are found wherever the checkpoint is used."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.tiny import NETS, TRAINER, fails
from vqlab.cli.main import main
from vqlab.cli.run_folder import from_start

LAST = "work/runs/vqvae/r/checkpoints/last.ckpt"


def test_a_run_is_evaluated_and_resumed_from_another_folder(monkeypatch, capsys):
    Path("work/data").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 255, (48, 16, 16), np.uint8)
    np.savez("work/data/s.npz", x=images)
    data = ["--data=ImageArrays", "--data.path=data/s.npz", "--data.test_path=data/s.npz", "--data.batch_size=8"]
    root = Path.cwd()
    monkeypatch.chdir("work")
    main(["fit", *NETS, *data, *TRAINER, "--name=r", "--trainer.max_steps=2"])
    monkeypatch.chdir(root)
    main(["test", f"--ckpt_path={LAST}"])
    main(["fit", f"--ckpt_path={LAST}", "--trainer.max_steps=3"])
    assert not torch.load(LAST, weights_only=True)["started_in"].startswith("/"), "names no home"
    monkeypatch.chdir("work/runs")  # the resumed run was started elsewhere than the first
    main(["test", "--ckpt_path=vqvae/r/checkpoints/last.ckpt"])
    monkeypatch.chdir(root)
    Path("work/data/s.npz").rename("work/data/t.npz")
    complaint = fails(capsys, ["test", f"--ckpt_path={LAST}"])
    assert "data/s.npz" in complaint
    main(["test", f"--ckpt_path={LAST}", "--data.path=work/data/t.npz", "--data.test_path=work/data/t.npz"])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("path", "a", "started/a"),
        ("test_path", "a", "started/a"),
        ("charset", ["a", "ascii"], ["started/a", "ascii"]),
        ("tokenizer", "a", "started/a"),
        ("path", "https://a/b", "https://a/b"),
        ("path", None, None),
        ("text_column", "a", "a"),
    ],
)
def test_what_is_a_path_is_found_from_the_start(name, value, expected):
    Path("started").mkdir()
    Path("started/a").touch()
    Path("a").touch()  # another file of that name is not taken for it
    config = {"class_path": "a", "init_args": {name: value, "part": {"class_path": "a", "init_args": {name: value}}}}
    found = from_start(config, Path("started"))
    inner = {"class_path": "a", "init_args": {name: expected}}
    assert found == {"class_path": "a", "init_args": {name: expected, "part": inner}}
