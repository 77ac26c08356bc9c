"""``vqlab rate-distortion``: distortion over bits of checkpoints, beside classical coders."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.cli.info import read_facts
from vqlab.errors import UserError
from vqlab.experiments.text import align, printable

NAME = "rate_distortion"
SIGNALS = ("S4DVQ",)
IMAGES = ("VQVAE", "VQGAN", "JSA", "DiscreteVAE", "CodePrior")
PAGE = """\
# Rate-distortion of {}

{}

![{} over {}]({})

{}

{}
"""


def rate_distortion(args: Sequence[str]) -> None:
    """Run ``vqlab rate-distortion`` with ``args``."""
    parser = Parser(
        prog="vqlab rate-distortion",
        description="Write distortion over bits, of checkpoints and of classical coders fitted to the training data of "
        "the checkpoint: SNR and PRD of an S4DVQ beside PCM, KLT and wavelets, PSNR and SSIM of a model of images "
        "beside PCA, JPEG and WebP. A CodePrior adds the bits of its codes; options of vqlab test, such as "
        "--data.path, apply.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="checkpoint",
        help=f"a .ckpt file of {', '.join(SIGNALS + IMAGES)}; several share one plot",
    )
    add("-o", "--output", type=Path, default=Path(NAME), help=f"folder to write (default {NAME})")
    add("--split", choices=("test", "val"), default="test", help="examples to code (default test)")
    options, extra = parser.parse_known_args(args)
    models = [read_facts(path)["model"] for path in options.checkpoints]
    for path, model in zip(options.checkpoints, models, strict=True):
        if model not in SIGNALS + IMAGES:
            raise UserError(f"{path} holds a {model}: give a checkpoint of {', '.join(SIGNALS)} or {', '.join(IMAGES)}")
        if (model in SIGNALS) != (models[0] in SIGNALS):
            raise UserError(f"{path} holds a {model}, {options.checkpoints[0]} a {models[0]}: give signals or images")

    # late, so that help and wrong options are answered quickly
    from vqlab.cli import rate_distortion_images, rate_distortion_signals
    from vqlab.cli.rate_distortion_curves import draw

    modality = rate_distortion_signals if models[0] in SIGNALS else rate_distortion_images
    points, about = modality.measure(options.checkpoints, options.split, extra)
    units = modality.UNITS
    rows = [
        ("coder", "kind", *(unit.title for unit in units)),
        *((p.coder, p.kind, *(f"{v:.{u.digits}f}" for v, u in zip(p.values, units, strict=True))) for p in points),
    ]
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("coder", "kind", *(unit.name for unit in units)))
    writer.writerows((p.coder, p.kind, *(f"{value:.6g}" for value in p.values)) for p in points)
    png = f"{NAME}.png"
    page = PAGE.format(modality.WHAT, about, units[1].title, units[0].title, png, table, modality.NOTES)
    for suffix, content in (
        ("csv", text.getvalue().encode()),
        ("png", draw(points, *units[:2])),
        ("md", page.encode()),
    ):
        with write_atomic(options.output / f"{NAME}.{suffix}", "-o") as file:
            file.write(content)
    print("\n".join(map(printable, align(rows))))
    print(f"{options.output / NAME}.md, .csv, .png: {about}")
