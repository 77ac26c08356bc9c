"""A transformer over a pyramid of maps of codes that predicts all codes of a scale at once, with a key-value cache."""

from itertools import accumulate

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.transformer import Blocks, KVCache, init_weights
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, NonNegativeInt, Positive, Probability


class ScaleTransformer(ConfigMixin, nn.Module):
    """p(codes | label) = prod_k prod_i p(code_{k,i} | label, scales < k) (VAR, Tian et al. 2024, equation 4).

    The input at each position of scale k > 1 is a feature of the scales before it, and at those of the first scale the
    label. Attention is block-causal: a position attends to all positions of its scale and of the scales before it. With
    learned embeddings of positions and scales, and without VAR's adaptive layer norm.

    Args:
        num_tokens: Codes of a codebook, K.
        lengths: Positions of each scale, coarse to fine; their sum is L.
        in_features: Channels of the input features, C.
        num_classes: Labels; 0 for a model without labels.
        num_codebooks: Codes of a position, Q, which are predicted at once.
        dim: Width, D.
        depth: Blocks.
        heads: Attention heads, H; D / H must be even.
        mlp_ratio: Hidden width of the MLPs, in units of D.
        dropout: Probability of dropping an embedding or an output of a block.

    Shape:
        features (B, n, C) of the positions of the scales after the first; condition (B,) int64, a label or, without
        label, ``num_classes``; logits (B, lengths[0] + n, Q, K). With a cache, the first call gets no features, each
        other call those of the next scales only, and the logits are those of the new positions.

    Example:
        >>> net = ScaleTransformer(num_tokens=8, lengths=[1, 4], in_features=3, dim=16, depth=1, heads=2)
        >>> tuple(net(torch.randn(2, 4, 3), torch.tensor([0, 0])).shape)
        (2, 5, 1, 8)
    """

    def __init__(
        self,
        num_tokens: Count,
        lengths: list[Count] | tuple[Count, ...],
        in_features: Count,
        num_classes: NonNegativeInt = 0,
        num_codebooks: Count = 1,
        dim: Count = 512,
        depth: Count = 12,
        heads: Count = 8,
        mlp_ratio: Positive = 4.0,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.lengths, self.bounds, self.num_codebooks = list(lengths), [0, *accumulate(lengths)], num_codebooks
        self.scale_of_position: Tensor
        scales = torch.arange(len(lengths)).repeat_interleave(torch.tensor(self.lengths))
        self.register_buffer("scale_of_position", scales, persistent=False)
        self.label = nn.Embedding(num_classes + 1, dim)
        self.feature = nn.Linear(in_features, dim)
        self.position = nn.Embedding(self.bounds[-1], dim)
        self.scale = nn.Embedding(len(self.lengths), dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = Blocks(dim, depth, heads, mlp_ratio, dropout, causal=False, rotary=False)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, num_codebooks * num_tokens, bias=False)
        init_weights(self, depth)

    def forward(self, features: Tensor, condition: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits of the next scales, see Shape."""
        first = cache.length if cache else 0
        x = self.feature(features)
        if first == 0:
            x = torch.cat([self.label(condition)[:, None].expand(-1, self.lengths[0], -1), x], 1)
        end = first + x.shape[1]
        if end not in self.bounds or end == first:
            raise UserError(f"features must fill the scales of {self.lengths} positions, got {first} to {end}")
        scale, mask = self.scale_of_position[:end], None
        x = self.dropout(x + self.position.weight[first:end] + self.scale(scale[first:]))
        if self.bounds.index(end) > 1 + self.bounds.index(first):  # several scales
            mask = scale[first:, None] >= scale
        return self.head(self.norm(self.blocks(x, cache, mask))).unflatten(-1, (self.num_codebooks, -1))

    def new_cache(self, batch: int) -> KVCache:
        """Return an empty cache for ``batch`` samples, with the device and dtype of the weights."""
        return self.blocks.new_cache(batch, self.bounds[-1])
