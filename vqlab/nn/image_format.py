"""The format of images."""

from dataclasses import dataclass

from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.base import wrong_channels
from vqlab.nn.value_range import ValueRange
from vqlab.validation import Count, NonNegativeInt, check_fields


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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.size, self.size
