"""An encoder and a decoder for signals, of S4D blocks or of convolutions, pooled as in SaShiMi.

Shapes: B signals of C channels and L samples; H = d_model channels inside.
"""

import math
from typing import Literal

import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vqlab.nn.base import Decoder, Encoder, check_divisible
from vqlab.nn.ssm.s4d import S4D, Init
from vqlab.validation import Count, Probability

KERNEL_SIZE = 7  # of the convolution that stands in for S4D
Mixer = Literal["s4d", "conv"]
Norm = Literal["none", "batch", "layer"]
MLP = Literal["relu", "linear"]


class S4DEncoder(Encoder):
    """Signals to features: a 1x1 convolution, stages of blocks with folding in between, norm and MLP.

    Folding takes ``pool`` samples into the channels and a 1x1 convolution takes these back to ``d_model`` (Goel et al.
    2022, arXiv:2202.09729, section 3.2). Before, between and after the foldings stand ``num_blocks`` blocks each.

    Args:
        in_channels: Channels of the signals; the command line links it to the data.
        d_model: Channels inside and of the features, H.
        num_blocks: Blocks of each stage; one stage more than ``pool`` has entries.
        pool: Factors by which the length shrinks, in order; L must be divisible by their product.
        d_state: Modes of each channel, with their conjugates.
        init: Of the modes, see :class:`~vqlab.nn.ssm.s4d.S4D`.
        bidirectional: Whether a sample sees what comes after it.
        mixer: ``s4d``, or ``conv``, a convolution of 7 samples in its place.
        norm: Before the MLP: ``none``, ``batch`` or ``layer``.
        mlp: ``relu``, two linear layers with a ReLU between; ``linear``, one layer.
        dropout: Of whole channels, in the blocks.

    Example:
        >>> import torch
        >>> tuple(S4DEncoder(pool=(4, 4))(torch.randn(2, 1, 512)).shape)
        (2, 128, 32)
    """

    modality = "signal"

    def __init__(
        self,
        in_channels: Count = 1,
        d_model: Count = 128,
        num_blocks: Count = 1,
        pool: tuple[Count, ...] = (4, 4),
        d_state: Count = 64,
        init: Init = "lin",
        bidirectional: bool = True,
        mixer: Mixer = "s4d",
        norm: Norm = "batch",
        mlp: MLP = "relu",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.downsampling = in_channels, d_model, math.prod(pool)
        stage = (num_blocks, d_model, d_state, init, bidirectional, mixer, dropout)
        layers = [nn.Conv1d(in_channels, d_model, 1), *build_stage(*stage)]
        for factor in pool:  # neighbours in time become channels
            fold = Rearrange("b h (l f) -> b (h f) l", f=factor)
            layers += [fold, nn.Conv1d(factor * d_model, d_model, 1), *build_stage(*stage)]
        self.layers = nn.Sequential(*layers, build_norm(norm, d_model), build_mlp(mlp, d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        check_length(x.shape[-1], self.downsampling)
        return self.layers(x)


class S4DDecoder(Decoder):
    """The mirror of :class:`S4DEncoder`, whose arguments it takes: an MLP, stages with unfolding between, norm and MLP.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the signals; the command line links it to the data.
        pool: Factors by which the length grows, from the last to the first: the same as the encoder's.
    """

    modality = "signal"

    def __init__(
        self,
        in_channels: Count = 128,
        out_channels: Count = 1,
        d_model: Count = 128,
        num_blocks: Count = 1,
        pool: tuple[Count, ...] = (4, 4),
        d_state: Count = 64,
        init: Init = "lin",
        bidirectional: bool = True,
        mixer: Mixer = "s4d",
        norm: Norm = "batch",
        mlp: MLP = "relu",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.upsampling = in_channels, out_channels, math.prod(pool)
        stage = (num_blocks, d_model, d_state, init, bidirectional, mixer, dropout)
        layers = [build_mlp(mlp, in_channels, d_model), *build_stage(*stage)]
        for factor in reversed(pool):
            unfold = Rearrange("b (h f) l -> b h (l f)", f=factor)
            layers += [nn.Conv1d(d_model, factor * d_model, 1), unfold, *build_stage(*stage)]
        self.layers = nn.Sequential(*layers, build_norm(norm, d_model), build_mlp(mlp, d_model, out_channels))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Block(nn.Module):
    """x + dropout(GLU(W GELU(mixer(norm(x))))), with layer norm over the channels; (B, H, L) to (B, H, L).

    The mixer is S4D or a convolution, which is centred if ``bidirectional`` and causal if not.
    """

    def __init__(
        self, d_model: int, d_state: int, init: Init, bidirectional: bool, mixer: Mixer, dropout: float
    ) -> None:
        super().__init__()
        self.norm = ChannelNorm(d_model)
        self.mixer: nn.Module = (
            S4D(d_model, d_state, init, bidirectional=bidirectional)
            if mixer == "s4d"
            else Convolution(d_model, bidirectional)
        )
        self.gate = nn.Conv1d(d_model, 2 * d_model, 1)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.mixer(self.norm(x))).to(x.dtype)
        return x + self.dropout(F.glu(self.gate(y), 1))


class Convolution(nn.Conv1d):
    """A convolution of 7 samples that keeps the length, centred or causal."""

    def __init__(self, d_model: int, centred: bool) -> None:
        super().__init__(d_model, d_model, KERNEL_SIZE)
        self.left = (KERNEL_SIZE - 1) // (2 if centred else 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left, KERNEL_SIZE - 1 - self.left)))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, H, L), each sample by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def build_stage(num_blocks: int, *arguments: object) -> list[nn.Module]:
    """Return blocks of the same ``arguments``."""
    return [Block(*arguments) for _ in range(num_blocks)]  # type: ignore[arg-type]


def build_norm(name: Norm, channels: int) -> nn.Module:
    """Return the norm of that name for (B, channels, L)."""
    return {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": ChannelNorm}[name](channels)


def build_mlp(name: MLP, in_channels: int, out_channels: int) -> nn.Module:
    """Return one linear layer for each sample, or two with a ReLU between."""
    if name == "linear":
        return nn.Conv1d(in_channels, out_channels, 1)
    hidden = max(in_channels, out_channels)
    return nn.Sequential(nn.Conv1d(in_channels, hidden, 1), nn.ReLU(), nn.Conv1d(hidden, out_channels, 1))


def check_length(length: int, downsampling: int) -> None:
    """Raise UserError if signals of ``length`` samples cannot be folded."""
    check_divisible(f"signals of {length} samples are", (length,), downsampling, "length")
