"""S4D-VQ as a user runs it."""

from pathlib import Path

import numpy as np
from tiny import TRAINER, fails, logged

from vqlab.cli import main

MODEL = ["--model=S4DVQ"]
for part in ("encoder", "decoder"):
    MODEL += [f"--model.{part}=S4D{part.capitalize()}", f"--model.{part}.d_model=8", f"--model.{part}.d_state=8"]
MODEL += ["--model.decoder.in_channels=8", "--model.quantizer=VectorQuantizer", "--model.quantizer.num_embeddings=16"]
DATA = ["--data=ECG", "--data.num_records=20", "--data.seconds=10", "--data.length=128", "--data.batch_size=16"]


def test_from_signals_to_codes():
    main(["fit", *MODEL, *DATA, *TRAINER, "--name=it", "--trainer.max_steps=20"])
    run = Path("runs/s4dvq/it")
    figures = set().union(*logged(run / "metrics.csv"))
    assert {"val/snr", "val/correlation", "val/perplexity", "train/rec_loss", "lr/ssm"} <= figures
    assert list((run / "samples").glob("step_*.png"))
    last = str(run / "checkpoints" / "last.ckpt")
    main(["test", f"--ckpt_path={last}"])
    main(["predict", f"--ckpt_path={last}"])
    with np.load(run / "codes.npz") as codes:
        assert codes["indices"].shape[1] == 128 // 16


def test_a_model_of_images_refuses_signals(capsys):
    assert "made for images, ECG has signals" in fails(capsys, ["fit", "--model=VQVAE", *DATA, *TRAINER])
    assert "made for signals, Digits has images" in fails(capsys, ["fit", *MODEL, "--data=Digits", *TRAINER])
    assert not Path("runs").exists()
