"""Relative paths in the configuration of a checkpoint are relative to the folder where the run was started."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.tiny import NETS, TRAINER, fails
from vqlab.cli.main import main
from vqlab.cli.run_folder import from_start

LAST = "work/runs/vqvae/r/checkpoints/last.ckpt"


def test_evaluate_and_resume_from_another_folder(monkeypatch, capsys):
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
    assert not torch.load(LAST, weights_only=True)["started_in"].startswith("/"), "an absolute path would name the user"
    monkeypatch.chdir("work/runs")  # the resumed run was started elsewhere than the first
    main(["test", "--ckpt_path=vqvae/r/checkpoints/last.ckpt"])
    monkeypatch.chdir(root)
    Path("work/data/s.npz").rename("work/data/t.npz")
    assert "data/s.npz" in fails(capsys, ["test", f"--ckpt_path={LAST}"])
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
def test_which_settings_are_paths(name, value, expected):
    Path("started").mkdir()
    Path("started/a").touch()
    Path("a").touch()  # a file of the same name in the current folder is not used
    given, found = ({"class_path": "a", "init_args": {name: v}} for v in (value, expected))
    assert from_start({**given, "part": given}, Path("started")) == {**found, "part": found}
