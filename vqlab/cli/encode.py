"""``vqlab encode``: signals or images to files of codes, by a trained model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqlab.cli.arguments import Parser
from vqlab.errors import UserError

if TYPE_CHECKING:
    from vqlab.cli.image_files import ImageFiles
    from vqlab.cli.signal_files import SignalFiles

SIGNALS = "a record of signals (npy, npz, csv, wav, WFDB .hea)"
IMAGES = "an image, an npz or npy file of images, or a folder of images"


def encode(args: Sequence[str]) -> None:
    """Run ``vqlab encode`` with ``args``."""
    description = "Encode signals with an S4DVQ (.vqs), or images with a CodePrior or a tokenizer (.vqi)."
    parser = Parser(prog="vqlab encode", description=description)
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of a model with codes")
    parser.add_argument("files", type=Path, nargs="+", help=f"each {SIGNALS}; or each {IMAGES}")
    parser.add_argument("-o", "--out", type=Path, default=Path("encoded"), help="folder to write to (default encoded)")
    parser.add_argument("--array", help="name of the array in npz files with more than one")
    parser.add_argument("--axes", help="axes of arrays of signals: n records, c channels, t samples, such as 'n t'")
    parser.add_argument(
        "--candidates",
        type=int,
        default=1,
        help="codes of each position that are tried in the decoder, of images and a VectorQuantizer (default 1: the "
        "nearest); 4 gives about half a dB more and takes about 70 times as long",
    )
    options = parser.parse_args(args)
    check_stems(options.files)

    kind = find_kind(
        options.checkpoint, options.candidates
    )  # late, so that help and wrong options are answered quickly
    for source in options.files:
        for file in kind.encode(source, options.out / f"{source.stem}{kind.suffix}", options.array, options.axes):
            file.write()


def find_kind(checkpoint: Path, candidates: int = 1) -> "SignalFiles | ImageFiles":
    """Return what encodes and decodes the files of a checkpoint; UserError if it is not of a model with codes."""
    from vqlab.cli.image_files import ImageFiles
    from vqlab.cli.signal_files import SignalFiles
    from vqlab.models.prior.tokenizer import TOKENIZER
    from vqlab.models.vq.s4dvq import S4DVQ
    from vqlab.training.checkpoint import load

    model = load(checkpoint)
    if isinstance(model, S4DVQ):
        if candidates != 1:
            raise UserError(f"candidates is for images, got {candidates}: leave --candidates out")
        return SignalFiles(model)
    if hasattr(model, "tokenizer") or all(hasattr(model, name) for name in TOKENIZER):
        return ImageFiles(model, candidates)
    needed = "encode and decode need an S4DVQ, a CodePrior or a tokenizer of images"
    raise UserError(f"{checkpoint} is a {type(model).__name__}: {needed}")


def check_stems(files: Sequence[Path]) -> None:
    """Raise UserError if two of ``files`` have the same name without the suffix."""
    stems: dict[str, Path] = {}
    for file in files:
        if (other := stems.setdefault(file.stem, file)) is not file:
            raise UserError(f"{other} and {file} would both become {file.stem}: run one command for each, with -o")
