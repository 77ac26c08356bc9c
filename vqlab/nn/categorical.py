"""Categorical codes: logits from features, embeddings for a decoder, and priors.

Shapes: N samples, h x w places with V codes each, P = h * w * V positions, row by row; K categories, D dimensions.
"""

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.transformer import Transformer
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, Range


class CategoricalCode(ConfigMixin, nn.Module):
    """V = ``num_codebooks`` categorical variables of K = ``num_embeddings`` categories at each place of a map."""

    def __init__(
        self,
        in_channels: Count,
        num_embeddings: Annotated[int, Range(2)],
        embedding_dim: Count,
        num_codebooks: Count = 1,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.num_codebooks, self.embedding_dim = num_embeddings, num_codebooks, embedding_dim
        self.logits = nn.Conv2d(in_channels, num_codebooks * num_embeddings, 1)
        self.codebook = nn.Parameter(torch.randn(num_codebooks, num_embeddings, embedding_dim) / num_codebooks**0.5)

    def log_probs(self, features: Tensor) -> Tensor:
        """Features (N, in_channels, h, w) to ln q (N, P, K) float32."""
        logits = rearrange(self.logits(features), "n (v k) h w -> n (h w v) k", v=self.num_codebooks)
        return logits.float().log_softmax(-1)

    def embed(self, codes: Tensor, width: int) -> Tensor:
        """Codes (N, P) of a map of ``width`` w to embeddings (N, D, h, w): sums of one vector per variable."""
        places = rearrange(codes, "n (hw v) -> n hw v", v=self.num_codebooks)
        offset = torch.arange(self.num_codebooks, device=codes.device) * self.num_embeddings
        vectors = F.embedding(places + offset, self.codebook.flatten(0, 1)).sum(2)
        return rearrange(vectors, "n (h w) d -> n d h w", w=width)

    def embed_soft(self, probs: Tensor, width: int) -> Tensor:
        """Probabilities (N, P, K) of codes to expected embeddings (N, D, h, w)."""
        places = rearrange(probs, "n (h w v) k -> n h w (v k)", v=self.num_codebooks, w=width)
        return rearrange(places.to(self.codebook.dtype) @ self.codebook.flatten(0, 1), "n h w d -> n d h w")

    def codebooks(self) -> dict[str, Tensor]:
        """Return the embeddings (V, K, D) by name, for export."""
        return {"codebook": self.codebook.detach()}


class FactorizedPrior(nn.Module):
    """p(h), a product of one categorical per position; uniform, K^-P, unless ``learned``."""

    def __init__(self, positions: int, num_embeddings: int, learned: bool) -> None:
        super().__init__()
        self.positions, self.num_embeddings = positions, num_embeddings
        self.logits = nn.Parameter(torch.zeros(positions, num_embeddings)) if learned else None

    def log_probs(self, device: torch.device) -> Tensor:
        """Return ln p (P, K) of each position."""
        logits = torch.zeros(self.positions, self.num_embeddings, device=device) if self.logits is None else self.logits
        return logits.float().log_softmax(-1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Return ln p (N,) of codes (N, P)."""
        if self.logits is None:  # no table (P, K)
            log_p = -self.positions * math.log(self.num_embeddings)
            return torch.full((len(codes),), log_p, dtype=torch.float32, device=codes.device)
        return self.log_probs(codes.device).gather(1, codes.T).sum(0)


def build_prior(prior: Any, positions: int, num_embeddings: int, num_codebooks: int) -> Transformer | FactorizedPrior:
    """Return p(h) over codes (N, P): ``prior`` itself, or the one with the name ``uniform`` or ``factorized``."""
    if isinstance(prior, Transformer):
        sizes = {"length": positions, "num_tokens": num_embeddings, "num_codebooks": num_codebooks}
        for name, size in sizes.items():
            if (found := getattr(prior, name)) != size:
                raise UserError(f"the prior has {name} {found}, the codes {size}: set {name}={size}")
        return prior
    if prior not in ("uniform", "factorized"):
        raise UserError(f"prior must be uniform, factorized or a Transformer, got {prior!r}")
    return FactorizedPrior(positions, num_embeddings, learned=prior == "factorized")
