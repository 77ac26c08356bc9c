"""Named arrays in one NumPy or safetensors file."""

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

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "codes.npz"
        >>> save_arrays(path, {"codes": torch.arange(3)})
        >>> np.load(path)["codes"].tolist()
        [0, 1, 2]
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
