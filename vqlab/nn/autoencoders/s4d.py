"""An encoder and a decoder for signals (B, C, L), of S4D blocks or convolutions, with pooling as in SaShiMi."""

import math
from typing import Any, Literal

import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vqlab.nn.base import Decoder, Encoder, check_divisible
from vqlab.nn.ssm.s4d import S4D, Init
from vqlab.validation import Count, Probability

KERNEL_SIZE = 7  # of the convolution that replaces S4D
Mixer = Literal["s4d", "conv"]
Norm = Literal["none", "batch", "layer"]
MLP = Literal["relu", "linear"]


class S4DEncoder(Encoder):
    """Signals to features: a 1x1 convolution, stages of blocks with folding between them, norm and MLP.

    Folding moves ``pool`` samples into channels, and a 1x1 convolution restores ``d_model`` (arXiv:2202.09729).

    Args:
        in_channels: Channels of the signals; the command line links it to the data.
        d_model: Channels inside and of the features, H.
        num_blocks: Blocks per stage; there are len(pool) + 1 stages.
        pool: Downsampling factors, in order; L must be divisible by their product.
        d_state: Modes of each channel, including their conjugates.
        init: Initial modes, see :class:`~vqlab.nn.ssm.s4d.S4D`.
        bidirectional: Whether an output depends on later samples, too.
        mixer: ``s4d``, or ``conv``, a convolution of 7 samples.
        norm: Norm before the MLP: ``none``, ``batch`` or ``layer``.
        mlp: ``relu``, two linear layers with a ReLU between them; ``linear``, one layer.
        dropout: Probability of dropping a channel, in the blocks.

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
        block = (d_model, d_state, init, bidirectional, mixer, dropout)
        layers = [nn.Conv1d(in_channels, d_model, 1), *stage(num_blocks, *block)]
        for factor in pool:
            fold = Rearrange("b h (l f) -> b (h f) l", f=factor)
            layers += [fold, nn.Conv1d(factor * d_model, d_model, 1), *stage(num_blocks, *block)]
        self.layers = nn.Sequential(*layers, NORMS[norm](d_model), build_mlp(mlp, d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        check_divisible(f"signals of {x.shape[-1]} samples are", x.shape[-1:], self.downsampling, "length")
        return self.layers(x)


class S4DDecoder(Decoder):
    """The mirror of :class:`S4DEncoder`: an MLP, stages of blocks with unfolding between them, norm and MLP.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the signals; the command line links it to the data.
        d_model: Channels of the blocks, H.
        num_blocks: Blocks per stage; there are len(pool) + 1 stages.
        pool: Factors of the encoder; here the last is applied first.
        d_state: Modes of each channel, including their conjugates.
        init: Initial modes, see :class:`~vqlab.nn.ssm.s4d.S4D`.
        bidirectional: Whether an output depends on later samples, too.
        mixer: ``s4d``, or ``conv``, a convolution of 7 samples.
        norm: Norm before the last MLP: ``none``, ``batch`` or ``layer``.
        mlp: ``relu``, two linear layers with a ReLU between them; ``linear``, one layer.
        dropout: Probability of dropping a channel, in the blocks.
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
        block = (d_model, d_state, init, bidirectional, mixer, dropout)
        layers = [build_mlp(mlp, in_channels, d_model), *stage(num_blocks, *block)]
        for factor in reversed(pool):
            unfold = Rearrange("b (h f) l -> b h (l f)", f=factor)
            layers += [nn.Conv1d(d_model, factor * d_model, 1), unfold, *stage(num_blocks, *block)]
        self.layers = nn.Sequential(*layers, NORMS[norm](d_model), build_mlp(mlp, d_model, out_channels))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Block(nn.Module):
    """x + dropout(GLU(W GELU(mixer(norm(x))))) of (B, H, L), with layer norm over the channels."""

    def __init__(
        self, d_model: int, d_state: int, init: Init, bidirectional: bool, mixer: Mixer, dropout: float
    ) -> None:
        super().__init__()
        self.norm = ChannelNorm(d_model)
        s4d = mixer == "s4d"
        self.mixer = S4D(d_model, d_state, init, "zoh", bidirectional) if s4d else Convolution(d_model, bidirectional)
        self.gate = nn.Conv1d(d_model, 2 * d_model, 1)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.mixer(self.norm(x))).to(x.dtype)
        return x + self.dropout(F.glu(self.gate(y), 1))


class Convolution(nn.Conv1d):
    """A centred or causal convolution that keeps the length."""

    def __init__(self, d_model: int, centred: bool) -> None:
        super().__init__(d_model, d_model, KERNEL_SIZE)
        self.left = (KERNEL_SIZE - 1) // (2 if centred else 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left, KERNEL_SIZE - 1 - self.left)))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, H, L), separately for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def stage(num_blocks: int, *arguments: Any) -> list[nn.Module]:
    """Return the blocks of a stage."""
    return [Block(*arguments) for _ in range(num_blocks)]


NORMS: dict[Norm, type[nn.Module]] = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": ChannelNorm}


def build_mlp(name: MLP, in_channels: int, out_channels: int) -> nn.Module:
    """Return one linear layer for each sample, or two with a ReLU between them."""
    if name == "linear":
        return nn.Conv1d(in_channels, out_channels, 1)
    hidden = max(in_channels, out_channels)
    return nn.Sequential(nn.Conv1d(in_channels, hidden, 1), nn.ReLU(), nn.Conv1d(hidden, out_channels, 1))
