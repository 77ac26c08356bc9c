"""An encoder and a decoder for signals (B, C, L) that begin as the identity: patches, and a branch of zeros."""

from einops import rearrange
from torch import Tensor, nn

from vqlab.nn.autoencoders.s4d import Mixer, stage
from vqlab.nn.base import Decoder, Encoder, check_divisible
from vqlab.validation import Count, Probability


class Residual(nn.Module):
    """x + W f(x) of signals (B, C, L), with blocks f at a ``fold``-th of the rate, and W zero at the beginning."""

    def __init__(
        self, channels: int, fold: int, d_model: int, num_blocks: int, mixer: Mixer, d_state: int, dropout: float
    ) -> None:
        super().__init__()
        self.fold = fold
        self.first = nn.Conv1d(channels * fold, d_model, 1)
        self.blocks = nn.Sequential(*stage(num_blocks, d_model, d_state, "lin", True, mixer, dropout))
        self.last = nn.Conv1d(d_model, channels * fold, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        folded = rearrange(x, "b c (l f) -> b (c f) l", f=self.fold)
        return x + rearrange(self.last(self.blocks(self.first(folded))), "b (c f) l -> b c (l f)", f=self.fold)


class PatchEncoder(Encoder):
    """Signals to patches of ``patch_size`` samples, after a residual branch of S4D blocks or convolutions.

    The branch begins with zero, so the features of a new encoder are the samples themselves, (C P) per patch.

    Args:
        in_channels: Channels of the signals, C; the command line links it to the data.
        patch_size: Samples of a patch, P; L must be divisible by it.
        fold: Samples of a position in the branch; divides ``patch_size``.
        d_model: Channels of the blocks.
        num_blocks: Blocks of the branch.
        mixer: ``s4d``, or ``conv``, a convolution of 7 positions.
        d_state: Modes of each channel of S4D, including their conjugates.
        dropout: Probability of dropping a channel, in the blocks.

    Shape:
        (B, C, L) to (B, C P, L / P).

    Example:
        >>> import torch
        >>> x = torch.randn(2, 1, 512)
        >>> z = PatchEncoder()(x)
        >>> tuple(z.shape), torch.equal(PatchDecoder()(z), x)
        ((2, 64, 8), True)
    """

    modality = "signal"

    def __init__(
        self,
        in_channels: Count = 1,
        patch_size: Count = 64,
        fold: Count = 8,
        d_model: Count = 96,
        num_blocks: Count = 4,
        mixer: Mixer = "s4d",
        d_state: Count = 32,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        check_divisible(f"patch_size {patch_size} is", (patch_size,), fold, "patch_size")
        self.in_channels, self.out_channels, self.downsampling = in_channels, in_channels * patch_size, patch_size
        self.residual = Residual(in_channels, fold, d_model, num_blocks, mixer, d_state, dropout)

    def forward(self, x: Tensor) -> Tensor:
        check_divisible(f"signals of {x.shape[-1]} samples are", x.shape[-1:], self.downsampling, "length")
        return rearrange(self.residual(x), "b c (l p) -> b (c p) l", p=self.downsampling)


class PatchDecoder(Decoder):
    """The mirror of :class:`PatchEncoder`: patches to signals, then a residual branch that begins with zero.

    Args:
        out_channels: Channels of the signals, C; the command line links it to the data.
        patch_size: Samples of a patch, P.
        fold: Samples of a position in the branch; divides ``patch_size``.
        d_model: Channels of the blocks.
        num_blocks: Blocks of the branch.
        mixer: ``s4d``, or ``conv``, a convolution of 7 positions.
        d_state: Modes of each channel of S4D, including their conjugates.
        dropout: Probability of dropping a channel, in the blocks.

    Shape:
        (B, C P, l) to (B, C, l P).
    """

    modality = "signal"

    def __init__(
        self,
        out_channels: Count = 1,
        patch_size: Count = 64,
        fold: Count = 8,
        d_model: Count = 96,
        num_blocks: Count = 4,
        mixer: Mixer = "s4d",
        d_state: Count = 32,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        check_divisible(f"patch_size {patch_size} is", (patch_size,), fold, "patch_size")
        self.in_channels, self.out_channels, self.upsampling = out_channels * patch_size, out_channels, patch_size
        self.residual = Residual(out_channels, fold, d_model, num_blocks, mixer, d_state, dropout)

    def forward(self, z: Tensor) -> Tensor:
        return self.residual(rearrange(z, "b (c p) l -> b c (l p)", p=self.upsampling))
