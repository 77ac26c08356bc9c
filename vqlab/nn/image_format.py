"""The format of images: channels, size, and range of the pixel values."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.base import wrong_channels
from vqlab.validation import Count, NonNegativeInt, check_fields


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


@dataclass(frozen=True)
class ImageFormat:
    """Shape, value range and number of classes of images; the command line takes it from the data.

    Args:
        channels: Channels, C.
        size: Height and width.
        value_range: Range of the pixel values; ``unit`` and ``signed`` may be strings.
        num_classes: Number of classes; None or 0 without labels.

    Example:
        >>> ImageFormat(channels=1, size=28, value_range="unit").shape
        (1, 28, 28)
    """

    channels: Count = 3
    size: Count = 32
    value_range: ValueRange = ValueRange("signed")
    num_classes: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value_range, str):
            object.__setattr__(self, "value_range", ValueRange(self.value_range))
        check_fields(self)

    def check(self, x: Tensor) -> None:
        """Raise UserError unless ``x`` is (B, C, H, W) with this number of channels."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise UserError(wrong_channels("images", f"(B, {self.channels}, H, W)", x, self.channels))

    def require_classes(self) -> int:
        """Return ``num_classes``, or raise UserError if there are fewer than two."""
        count = self.num_classes or 0
        if count < 2:
            raise UserError(f"num_classes must be at least 2, got {count}: choose data with classes")
        return count

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.size, self.size
