"""Named arrays in one file, for numpy or safetensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.training.checkpoint_io import write_atomic

SUFFIXES = (".npz", ".safetensors")


def save_arrays(path: str | Path, arrays: Mapping[str, Tensor]) -> None:
    """Write ``arrays`` to ``path``, as numpy's ``.npz`` (compressed) or as ``.safetensors``, whole or not at all.

    Raises:
        UserError: If ``path`` ends otherwise, the disk is full, or the folder cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import load_file
        >>> from vqlab.quantizers.vector import VectorQuantizer
        >>> path = Path(tempfile.mkdtemp()) / "codebook.safetensors"
        >>> save_arrays(path, VectorQuantizer(16, 4).codebooks())
        >>> {name: tuple(codes.shape) for name, codes in load_file(path).items()}
        {'codebook': (16, 4)}
    """
    check_suffix(path)
    plain = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
    plain = {name: array.float() if array.dtype == torch.bfloat16 else array for name, array in plain.items()}
    with write_atomic(path) as file:
        if str(path).endswith(".npz"):
            import numpy as np

            named = {name: array.numpy() for name, array in plain.items()}
            np.savez_compressed(file, **named)  # type: ignore[arg-type]  # its allow_pickle confuses mypy
        else:
            from safetensors.torch import save

            file.write(save(plain))


def check_suffix(path: str | Path) -> None:
    """Raise UserError if ``path`` ends neither in ``.npz`` nor in ``.safetensors``."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{path} must end in {' or '.join(SUFFIXES)}: the ending chooses the format")
