"""A decoder-only transformer over the codes of an image or signal, with rotary positions and a key-value cache.

Shapes: B batch, L tokens per sample, n tokens given, K codes, D = dim, H heads, E = D / H.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.precision import upcast
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, NonNegativeInt, Positive, Probability

INIT_STD = 0.02  # GPT-2


class KVCache:
    """Keys and values of the first ``length`` positions of a :class:`Transformer`, allocated once."""

    def __init__(self, depth: int, like: Tensor) -> None:
        self.keys, self.values = (like.new_empty(depth, *like.shape) for _ in range(2))  # (depth, B, H, L, E)
        self.length = 0

    def extend(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, H, n, E) of new positions to ``block``; return those of all positions so far."""
        end = self.length + k.shape[2]
        self.keys[block, :, :, self.length : end] = k
        self.values[block, :, :, self.length : end] = v
        return self.keys[block, :, :, :end], self.values[block, :, :, :end]


class Transformer(ConfigMixin, nn.Module):
    """p(tokens | label) = prod_i p(token_i | label, tokens < i): pre-norm blocks, initialised as GPT-2.

    With rotary (RoFormer, arXiv:2104.09864, equation 16) and learned positions; the first one holds the label.

    Args:
        num_tokens: Codes of a codebook, K.
        length: Tokens of a sample, L.
        num_classes: Labels; 0 for a model without labels.
        num_codebooks: Number of codebooks; token i belongs to codebook i mod ``num_codebooks``.
        dim: Width, D.
        depth: Blocks.
        heads: Attention heads, H; D / H must be even.
        mlp_ratio: Hidden width of the MLPs, in units of D.
        dropout: Probability of dropping an embedding or an output of a block.

    Shape:
        tokens (B, n) int64 in [0, K), n < L; condition (B,) int64, a label or, without label, ``num_classes``;
        logits (B, n + 1, K), where [:, i] predicts token i from the label and the tokens before it. With a cache,
        only new tokens are passed, and the logits are those of their positions.

    Example:
        >>> net = Transformer(num_tokens=8, length=4, dim=16, depth=1, heads=2)
        >>> tuple(net(torch.tensor([[3, 1, 7]])).shape)
        (1, 4, 8)
    """

    def __init__(
        self,
        num_tokens: Count,
        length: Count,
        num_classes: NonNegativeInt = 0,
        num_codebooks: Count = 1,
        dim: Count = 512,
        depth: Count = 12,
        heads: Count = 8,
        mlp_ratio: Positive = 4.0,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.num_tokens, self.length, self.num_codebooks = num_tokens, length, num_codebooks
        self.no_label = num_classes
        self.label = nn.Embedding(num_classes + 1, dim)
        self.token = nn.Embedding(num_codebooks * num_tokens, dim)
        self.position = nn.Embedding(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = Blocks(dim, depth, heads, mlp_ratio, dropout)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, num_codebooks * num_tokens, bias=False)
        init_weights(self, depth)

    def forward(self, tokens: Tensor, condition: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return the logits of ``tokens`` and of the next token, see Shape."""
        seen, given = cache.length if cache else 0, tokens.shape[1]
        count = given + (seen == 0)  # the label precedes the first token
        if seen + count > self.length:
            raise UserError(f"{given} tokens after {seen} positions: nothing to predict, for length={self.length}")
        positions = torch.arange(seen, seen + count, device=tokens.device)
        x = self.token(tokens + (positions[count - given :] - 1) % self.num_codebooks * self.num_tokens)
        if seen == 0:
            condition = tokens.new_full((len(tokens),), self.no_label) if condition is None else condition
            x = torch.cat([self.label(condition)[:, None], x], 1)
        x = self.blocks(self.dropout(x + self.position(positions)), cache)
        return logits_by_codebook(self.norm(x), self.head.weight, self.num_codebooks, seen)

    def new_cache(self, batch: int) -> KVCache:
        """Return an empty cache for ``batch`` sequences, with the device and dtype of the weights."""
        return self.blocks.new_cache(batch, self.length)


class Blocks(nn.ModuleList):
    """``depth`` blocks, one after the other: causal or not, with rotary positions or without."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        causal: bool = True,
        rotary: bool = True,
    ) -> None:
        if dim % (2 * heads):
            raise UserError(f"dim must be an even multiple of heads {heads}, got {dim}: set dim={64 * heads}")
        super().__init__([Block(dim, heads, round(mlp_ratio * dim), dropout, causal) for _ in range(depth)])
        self.heads, self.head_dim, self.rotary = heads, dim // heads, rotary

    def forward(self, x: Tensor, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Return (B, n, D) for ``x`` (B, n, D) at the first n positions, or at those after the ones in ``cache``.

        Without ``causal``, ``mask`` (n, keys) is True where a position attends to another; None allows all.
        """
        seen, angles = cache.length if cache else 0, None
        if self.rotary:
            angles = rotation(torch.arange(seen, seen + x.shape[1], device=x.device), self.head_dim, upcast(x).dtype)
        for number, block in enumerate(self):
            x = block(x, angles, cache, number, mask)
        if cache:
            cache.length += x.shape[1]
        return x

    def new_cache(self, batch: int, length: int) -> KVCache:
        """Return an empty cache for ``batch`` sequences of ``length``, with the device and dtype of the weights."""
        like = next(self.parameters())
        return KVCache(len(self), like.new_empty(batch, self.heads, length, self.head_dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attention_out = nn.Linear(dim, dim, bias=False)
        self.mlp_in = nn.Linear(dim, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, cache: KVCache | None, number: int, mask: Tensor | None
    ) -> Tensor:
        """Transform x (B, n, D), as block ``number``."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if angles is not None:
            q, k = rotate(q, angles).to(v.dtype), rotate(k, angles).to(v.dtype)
        if cache:
            k, v = cache.extend(number, k, v)
        queries, keys = q.shape[2], k.shape[2]
        if self.causal and queries not in (1, keys):  # the last ``queries`` of ``keys`` positions
            mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        h = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal and queries == keys)
        x = x + self.dropout(self.attention_out(h.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)))))


def init_weights(net: nn.Module, depth: int) -> None:
    """Initialise the matrices of a network of ``depth`` blocks as GPT-2: its residual stream sums 2 depth outputs."""
    for name, weight in net.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=INIT_STD / (math.sqrt(2 * depth) if name.endswith("out.weight") else 1))


def logits_by_codebook(x: Tensor, weight: Tensor, num_codebooks: int, first: int = 0) -> Tensor:
    """(B, n, D) to (B, n, K), with the rows of ``weight`` (num_codebooks * K, D) of the codebook of each position.

    ``first`` is the position of x[:, 0].
    """
    if num_codebooks == 1:
        return F.linear(x, weight)
    book = torch.arange(first, first + x.shape[1]) % num_codebooks
    parts = weight.unflatten(0, (num_codebooks, -1))
    sorted_by_book = torch.cat([F.linear(x[:, book == q], part) for q, part in enumerate(parts)], 1)
    return sorted_by_book[:, book.argsort(stable=True).argsort()]


def rotation(positions: Tensor, head_dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (n, E / 2) of m theta_j, theta_j = 10000^(-2j / E), at ``positions`` m (n,)."""
    pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=dtype)
    angle = positions[:, None] * 10_000.0 ** (-pairs / head_dim)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x_j, x_{j + E/2}) of ``x`` (B, H, n, E) by its angle; the paper pairs neighbours."""
    (cos, sin), (a, b) = angles, x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
