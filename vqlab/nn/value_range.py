"""The range of pixel values."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.validation import check_fields


@dataclass(frozen=True)
class ValueRange:
    """An affine map from images in [0, 1] to the pixel values that a model gets.

    Args:
        kind: ``unit`` is [0, 1], ``signed`` is [-1, 1], ``standardized`` is (x - mean) / std per channel.
        mean: Mean of each channel in [0, 1]; for ``standardized``.
        std: Standard deviation of each channel in [0, 1]; for ``standardized``.

    Example:
        >>> ValueRange("signed").decode(torch.tensor([-1.0, 0.0, 3.0])).tolist()
        [0.0, 0.5, 1.0]
    """

    kind: Literal["unit", "signed", "standardized"] = "signed"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "mean", tuple(self.mean))  # checkpoints contain lists, which have no hash
        object.__setattr__(self, "std", tuple(self.std))
        if self.kind == "standardized" and (not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0):
            raise UserError("value_range=standardized needs one mean and one positive std per channel")

    def encode(self, image: Tensor) -> Tensor:
        """Map float images (..., C, H, W) from [0, 1] into this range."""
        shift, scale = self._affine(image)
        return (image - shift) / scale

    def signed(self, x: Tensor) -> Tensor:
        """Map images (..., C, H, W) from this range to [-1, 1], without clamping."""
        shift, scale = self._affine(x)
        return (x * scale + shift) * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        """Map images (..., C, H, W) from this range to [0, 1], clamped."""
        shift, scale = self._affine(x)
        return (x * scale + shift).clamp(0, 1)

    def to_uint8(self, x: Tensor) -> Tensor:
        """Map images (..., C, H, W) from this range to integers from 0 to 255."""
        return self.decode(x).mul(255).round().to(torch.uint8)

    def _affine(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if self.kind == "unit":
            return 0.0, 1.0
        if self.kind == "signed":
            return 0.5, 0.5
        return like.new_tensor(self.mean)[:, None, None], like.new_tensor(self.std)[:, None, None]
