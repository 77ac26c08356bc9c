"""``vqlab decode``: files of codes back to signals or images."""

from collections.abc import Sequence
from pathlib import Path

from vqlab.cli.arguments import Parser
from vqlab.cli.encode import check_stems, find_kind
from vqlab.errors import UserError


def decode(args: Sequence[str]) -> None:
    """Run ``vqlab decode`` with ``args``."""
    description = "Decode .vqs files to .npz files of signals, and .vqi files to .png (one image) or .npz files."
    parser = Parser(prog="vqlab decode", description=description)
    parser.add_argument("checkpoint", type=Path, help="the .ckpt file that encoded them")
    parser.add_argument("files", type=Path, nargs="+", help=".vqs or .vqi files")
    parser.add_argument("-o", "--out", type=Path, default=Path("decoded"), help="folder to write to (default decoded)")
    options = parser.parse_args(args)
    check_stems(options.files)
    outputs = [options.out / file.stem for file in options.files]
    candidates = (path.with_name(path.name + suffix) for path in outputs for suffix in (".npz", ".png"))
    if taken := next((path for path in candidates if path.exists()), None):  # it may be the original
        raise UserError(f"{taken} exists and is not overwritten: set -o to another folder")

    from vqlab.data.files import reading  # late, so that help and wrong options are answered quickly

    kind = find_kind(options.checkpoint)
    for source, output in zip(options.files, outputs, strict=True):
        with reading(source, f"cannot be read ({{reason}}): give {kind.suffix} files"):
            data = source.read_bytes()
        kind.decode(data, str(source), output).write()
