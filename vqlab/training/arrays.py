"""Named arrays in one file, in the format of NumPy or safetensors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError


def save_arrays(path: str | Path, arrays: Mapping[str, Tensor]) -> None:
    """Write ``arrays`` to ``path``, as ``.npz`` (compressed) or ``.safetensors``, atomically.

    Raises:
        UserError: If ``path`` has another suffix, the disk is full, or the folder cannot be written.

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
    plain = {
        name: (array.float() if array.dtype == torch.bfloat16 else array).detach().cpu().contiguous()
        for name, array in arrays.items()
    }
    with write_atomic(path) as file:
        if str(path).endswith(".npz"):
            np.savez_compressed(file, **{name: array.numpy() for name, array in plain.items()})  # type: ignore[arg-type]
        else:
            file.write(save(plain))


def check_suffix(path: str | Path) -> None:
    """Raise UserError if ``path`` ends neither in ``.npz`` nor in ``.safetensors``."""
    if Path(path).suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path} must end in .npz or .safetensors: the suffix chooses the format")
