"""``vqlab decode``: files of codes back to records of signals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.cli.encode import describe_size, load_codec, name_outputs
from vqlab.errors import UserError


def decode(args: Sequence[str]) -> None:
    """Run ``vqlab decode`` with ``args``."""
    parser = Parser(prog="vqlab decode", description="Decode .vqs files to .npz files with signal, fs and channels.")
    parser.add_argument("checkpoint", type=Path, help="the .ckpt file that encoded them")
    parser.add_argument("files", type=Path, nargs="+", help=".vqs files")
    parser.add_argument("-o", "--out", type=Path, default=Path("decoded"), help="folder to write to (default decoded)")
    options = parser.parse_args(args)
    outputs = name_outputs(options.files, options.out, ".npz")
    if taken := next((path for path in outputs if path.exists()), None):  # it may be the original
        raise UserError(f"{taken} exists and is not overwritten: set -o to another folder")

    from vqlab.data.files import reading  # late, so that help and wrong options are answered quickly
    from vqlab.interop.code_file import unpack_record

    codec, _ = load_codec(options.checkpoint)
    for source, path in zip(options.files, outputs, strict=True):
        with reading(source, "cannot be read ({reason}): give .vqs files"):
            data = source.read_bytes()
        record = unpack_record(data, codec, str(source))
        arrays = {"signal": codec.decode(record.coded), "channels": np.array(record.channels)}
        if record.sample_rate:
            arrays["fs"] = np.array(record.sample_rate)
        with write_atomic(path, "-o") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        print(f"{path}: {describe_size(record.coded.num_samples, record.sample_rate, len(data))}")
