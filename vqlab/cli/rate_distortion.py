"""``vqlab rate-distortion``: SNR over bits per sample of S4DVQ checkpoints, beside classical coders."""

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
HEADER = ("coder", "kind", "bits per sample", "SNR, dB", "PRD, %")
PAGE = """\
# Rate-distortion of signals

{}

![SNR over bits per sample]({})

{}

SNR and PRD are means over the windows. An entropy-coded rate is the cross-entropy of the symbols under their
frequencies in the training windows.
"""


def rate_distortion(args: Sequence[str]) -> None:
    """Run ``vqlab rate-distortion`` with ``args``."""
    parser = Parser(
        prog="vqlab rate-distortion",
        description="Write SNR and PRD over bits per sample, of S4DVQ checkpoints and of PCM, KLT and wavelet coders, "
        "all fitted to the training windows of the checkpoint; options of vqlab test, such as --data.path, apply.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="checkpoint",
        help="a .ckpt file of an S4DVQ; several share one plot",
    )
    add("-o", "--output", type=Path, default=Path(NAME), help=f"folder to write (default {NAME})")
    add("--split", choices=("test", "val"), default="test", help="windows to code (default test)")
    options, extra = parser.parse_known_args(args)
    for path in options.checkpoints:
        if (model := read_facts(path)["model"]) != "S4DVQ":
            raise UserError(f"{path} holds a {model}: give a checkpoint of an S4DVQ")

    # late, so that help and wrong options are answered quickly
    from vqlab.cli.rate_distortion_curves import draw, measure

    points, about = measure(options.checkpoints, options.split, extra)
    figures = [(f"{p.bits_per_sample:.3f}", f"{p.snr:.2f}", f"{p.prd:.1f}") for p in points]
    rows = [HEADER, *((p.coder, p.kind, *figure) for p, figure in zip(points, figures, strict=True))]
    lines = [rows[0], ("---",) * len(HEADER), *rows[1:]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("coder", "kind", "bits_per_sample", "snr", "prd"))
    writer.writerows((p.coder, p.kind, f"{p.bits_per_sample:.6g}", f"{p.snr:.6g}", f"{p.prd:.6g}") for p in points)
    page = PAGE.format(about, f"{NAME}.png", table)
    for suffix, content in (("csv", text.getvalue().encode()), ("png", draw(points)), ("md", page.encode())):
        with write_atomic(options.output / f"{NAME}.{suffix}", "-o") as file:
            file.write(content)
    print("\n".join(map(printable, align(rows))))
    print(f"{options.output / NAME}.md, .csv, .png: {about}")
