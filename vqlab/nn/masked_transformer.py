"""A bidirectional transformer that predicts the masked codes of an image from the others."""

import torch
from torch import Tensor, nn

from vqlab.nn.transformer import Blocks, init_weights, logits_by_codebook
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, NonNegativeInt, Positive, Probability


class MaskedTransformer(ConfigMixin, nn.Module):
    """p(token_i | label, all tokens that are not masked), for each masked i (MaskGIT, Chang et al. 2022).

    The blocks and positions are those of :class:`Transformer`, without its causal mask; the label is one more token.

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
        tokens (B, L) int64 in [0, K); masked (B, L) bool, True where the token is hidden from the network; condition
        (B,) int64, a label or, without label, ``num_classes``; logits (B, L, K), of which those at masked positions are
        predictions.

    Example:
        >>> net = MaskedTransformer(num_tokens=8, length=4, dim=16, depth=1, heads=2)
        >>> tokens, masked = torch.tensor([[3, 1, 7, 0]]), torch.tensor([[False, True, False, True]])
        >>> tuple(net(tokens, masked, torch.tensor([0])).shape)
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
        self.num_tokens, self.num_codebooks = num_tokens, num_codebooks
        self.label = nn.Embedding(num_classes + 1, dim)
        self.token = nn.Embedding(num_codebooks * num_tokens, dim)
        self.mask = nn.Embedding(1, dim)
        self.position = nn.Embedding(1 + length, dim)  # of the label, and of each token
        self.dropout = nn.Dropout(dropout)
        self.blocks = Blocks(dim, depth, heads, mlp_ratio, dropout, causal=False)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, num_codebooks * num_tokens, bias=False)
        init_weights(self, depth)

    def forward(self, tokens: Tensor, masked: Tensor, condition: Tensor) -> Tensor:
        """Return the logits of all positions, see Shape."""
        positions = torch.arange(1 + tokens.shape[1], device=tokens.device)
        books = positions[:-1] % self.num_codebooks
        x = torch.where(masked[..., None], self.mask.weight, self.token(tokens + books * self.num_tokens))
        x = torch.cat([self.label(condition)[:, None], x], 1)
        x = self.blocks(self.dropout(x + self.position(positions)))
        return logits_by_codebook(self.norm(x[:, 1:]), self.head.weight, self.num_codebooks)
