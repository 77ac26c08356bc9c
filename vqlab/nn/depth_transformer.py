"""RQ-Transformer: one transformer over positions, and a small one over the codes of each position.

Shapes: B batch, T positions, Q codes of a position, L = T Q tokens, n tokens given, K codes of a codebook, D = dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.transformer import Blocks, KVCache, init_weights
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, NonNegativeInt, Positive, Probability


@dataclass
class DepthCache:
    """What a :class:`DepthTransformer` keeps of the tokens before."""

    spatial: KVCache  # of the positions so far
    depth: KVCache  # of the codes of this position
    total: Tensor  # (B, D), sum of the embeddings of the codes of this position
    length: int = 0  # tokens predicted so far


class DepthTransformer(ConfigMixin, nn.Module):
    """p(tokens | label) = prod_t prod_q p(c_tq | label, c_1, ..., c_{t-1}, c_t1, ..., c_t,q-1) with Q codes c_tq.

    RQ-Transformer (Lee et al. 2022, arXiv:2203.01941, section 3.2): the spatial transformer gets for each position the
    sum of the embeddings of the codes of the position before (equation 10) and gives h_t; the depth transformer gets
    h_t, and then for each code the sum of the embeddings of those before it (equation 12). With L = T Q tokens the
    ``depth`` blocks see T positions instead of L. It takes and returns what a :class:`~vqlab.Transformer` does.

    Args:
        num_tokens: Codes of a codebook, K.
        length: Tokens of a sample, L; the Q codes of a position follow each other.
        num_classes: Labels; 0 for a model without labels.
        num_codebooks: Codes of a position, Q.
        dim: Width, D.
        depth: Blocks of the spatial transformer.
        heads: Attention heads; D / heads must be even.
        mlp_ratio: Hidden width of the MLPs, in units of D.
        dropout: Probability of dropping an embedding or an output of a block.
        depth_blocks: Blocks of the depth transformer.

    Shape:
        tokens (B, n) int64 in [0, K), n < L; condition (B,) int64, a label or, without label, ``num_classes``;
        logits (B, n + 1, K), where [:, i] predicts token i. With a cache, no token in the first call and one in each
        other call, and the logits (B, 1, K) of the next token.

    Example:
        >>> net = DepthTransformer(num_tokens=8, length=6, num_codebooks=3, dim=16, depth=2, heads=2, depth_blocks=1)
        >>> tuple(net(torch.tensor([[3, 1, 7]])).shape)
        (1, 4, 8)
    """

    def __init__(
        self,
        num_tokens: Count,
        length: Count,
        num_classes: NonNegativeInt = 0,
        num_codebooks: Count = 4,
        dim: Count = 512,
        depth: Count = 12,
        heads: Count = 8,
        mlp_ratio: Positive = 4.0,
        dropout: Probability = 0.0,
        depth_blocks: Count = 4,
    ) -> None:
        super().__init__()
        if length % num_codebooks:
            raise UserError(f"length must be a multiple of num_codebooks={num_codebooks}, got {length}")
        self.num_tokens, self.length, self.num_codebooks = num_tokens, length, num_codebooks
        self.no_label = num_classes
        self.label = nn.Embedding(num_classes + 1, dim)
        self.token = nn.Embedding(num_codebooks * num_tokens, dim)
        self.position = nn.Embedding(length // num_codebooks, dim)
        self.codebook = nn.Embedding(num_codebooks, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = Blocks(dim, depth, heads, mlp_ratio, dropout)
        self.depth_blocks = Blocks(dim, depth_blocks, heads, mlp_ratio, dropout)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, num_codebooks * num_tokens, bias=False)
        init_weights(self, depth + depth_blocks)

    def forward(self, tokens: Tensor, condition: Tensor | None = None, cache: DepthCache | None = None) -> Tensor:
        """Return the logits of ``tokens`` and of the next token, see Shape."""
        seen, given = cache.length if cache else 0, tokens.shape[1]
        if seen + given + (seen == 0) > self.length:
            raise UserError(f"{given} tokens after {seen}: nothing to predict, for length={self.length}")
        if condition is None:
            condition = tokens.new_full((len(tokens),), self.no_label)
        if cache:
            return self._next(tokens, condition, cache)
        books, positions = self.num_codebooks, 1 + given // self.num_codebooks
        filled = torch.cat([tokens, tokens.new_zeros(len(tokens), positions * books - given)], 1)
        book = torch.arange(books, device=tokens.device)
        embedded = self.token(filled.unflatten(1, (positions, books)) + book * self.num_tokens)  # (B, T, Q, D)
        before = torch.cat([self.label(condition)[:, None], embedded[:, :-1].sum(2)], 1)  # (B, T, D)
        h = self.blocks(self.dropout(before + self.position.weight[:positions]))
        x = torch.cat([h[:, :, None], embedded[:, :, :-1].cumsum(2)], 2) + self.codebook.weight
        x = self.norm(self.depth_blocks(self.dropout(x).flatten(0, 1))).unflatten(0, (-1, positions))
        logits = torch.einsum("btqd,qkd->btqk", x, self._heads())
        return logits.flatten(1, 2)[:, : given + 1]

    def new_cache(self, batch: int) -> DepthCache:
        """Return an empty cache for ``batch`` sequences, with the device and dtype of the weights."""
        spatial = self.blocks.new_cache(batch, self.length // self.num_codebooks)
        depth = self.depth_blocks.new_cache(batch, self.num_codebooks)
        return DepthCache(spatial, depth, self.head.weight.new_zeros(batch, self.head.in_features))

    def _next(self, tokens: Tensor, condition: Tensor, cache: DepthCache) -> Tensor:
        """Return the logits (B, 1, K) of the token after the last one, ``tokens`` (B, 1), and those in ``cache``."""
        position, book = divmod(cache.length, self.num_codebooks)
        if cache.length:
            cache.total = cache.total + self.token(tokens[:, 0] + (book - 1) % self.num_codebooks * self.num_tokens)
        x = cache.total
        if book == 0:
            before = self.label(condition) if position == 0 else cache.total
            x = self.blocks(self.dropout(before + self.position.weight[position])[:, None], cache.spatial)[:, 0]
            cache.total, cache.depth.length = torch.zeros_like(cache.total), 0
        x = self.depth_blocks(self.dropout(x + self.codebook.weight[book])[:, None], cache.depth)
        cache.length += 1
        return self.norm(x) @ self._heads()[book].T

    def _heads(self) -> Tensor:
        """(Q, K, D), the output weights of each codebook."""
        return self.head.weight.unflatten(0, (self.num_codebooks, -1))
