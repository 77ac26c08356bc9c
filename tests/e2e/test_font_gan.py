"""FontGAN as a user runs it, with the letters that DejaVu Sans and Serif share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from tests.e2e.systems import OFTEN, SYSTEMS
from tests.e2e.tiny import TRAINER, logged
from tests.helpers.toy_fonts import SANS, SERIF
from vqlab.cli.main import main
from vqlab.fonts.draw import render
from vqlab.fonts.font import Font

FIT = ["fit", *SYSTEMS["FontGAN"], *TRAINER]
BEST = ["--checkpoint.monitor=val/l1_gain", "--checkpoint.mode=max"]
STYLES = ["DejaVu-Serif", "DejaVu-Sans-Mono"]


def run(name):
    return Path("runs/fontgan") / name


def test_from_two_fonts_to_glyphs():
    styles = [f"--data.target=[{SERIF},{SERIF.replace('DejaVuSerif', 'DejaVuSansMono')}]", f"--data.source={SANS}"]
    options = [*OFTEN, *BEST, "--trainer.max_steps=20", "--ema.decay=0.9", "--model.balance=adaptive"]
    main([*FIT, *styles, *options, "--plateau.patience=1", "--name=it"])
    figures = set().union(*logged(run("it") / "metrics.csv"))
    assert {"val/diversity", "val/retrieval", "train/constancy", "train/category", "train/disc_weight"} <= figures
    assert list((run("it") / "samples").glob("step_*.png"))
    best = str(run("it") / "checkpoints/best.ckpt")
    main(["test", f"--ckpt_path={best}"])
    main(["predict", f"--ckpt_path={best}", "--codes=glyphs.npz", "--data.charset=U+2B00-2B7F", "--font=new/it.ttf"])
    with np.load(run("it") / "glyphs.npz") as arrays:
        assert set(arrays) == {"source", "glyph", "char", "style"}
        assert arrays["glyph"].shape == (25, 32, 32)
        characters = {name: set(arrays["char"][arrays["style"] == i]) for i, name in enumerate(STYLES)}
        drawn = dict(zip(arrays["char"], arrays["glyph"], strict=True))
    for name, codes in characters.items():
        assert Image.open(run("it") / f"sheets/{name}_001.png").size[0] > 64
        file = f"new/it-{name}.ttf"
        new = Font(file)
        assert codes <= new.characters.keys()
        back = render(file, sorted(codes), 32, 0.75)
        for image, code in zip(back, sorted(codes), strict=True):
            assert np.abs(image / 255 - drawn[code] / 255).mean() < 0.1
        assert ImageFont.truetype(file, 32).getlength(chr(min(codes))) > 0
    with pytest.raises(SystemExit):
        main(["predict", f"--ckpt_path={best}", "--font=new/it.otf"])
