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
from vqlab.nn.precision import upcast, without_autocast
from vqlab.nn.transformer import Transformer
from vqlab.serialization import ConfigMixin
from vqlab.validation import Count, Range


class CategoricalCode(ConfigMixin, nn.Module):
    """V = ``num_codebooks`` categorical variables of K = ``num_embeddings`` categories at each place of a map.

    The logits are linear in the features, or ``tied`` to the embeddings, see :class:`TiedLogits`.
    """

    logits: "nn.Conv2d | TiedLogits"

    def __init__(
        self,
        in_channels: Count,
        num_embeddings: Annotated[int, Range(2)],
        embedding_dim: Count,
        num_codebooks: Count = 1,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.num_codebooks, self.embedding_dim = num_embeddings, num_codebooks, embedding_dim
        if tied:
            self.logits = TiedLogits(in_channels, num_codebooks, num_embeddings, embedding_dim)
        else:
            self.logits = nn.Conv2d(in_channels, num_codebooks * num_embeddings, 1)
        self.codebook = nn.Parameter(torch.randn(num_codebooks, num_embeddings, embedding_dim) / num_codebooks**0.5)

    def log_probs(self, features: Tensor) -> Tensor:
        """Features (N, in_channels, h, w) to ln q (N, P, K) float32."""
        if isinstance(self.logits, TiedLogits):
            return self.logits(features, self.codebook.detach()).float().log_softmax(-1)
        logits = rearrange(self.logits(features), "n (v k) h w -> n (h w v) k", v=self.num_codebooks)
        return logits.float().log_softmax(-1)

    def rows(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each code: embeddings (V, K, D), then those of the logits, bias last."""
        weight = [] if isinstance(self.logits, TiedLogits) else [self.logits.weight]
        return [self.codebook, *weight, self.logits.bias]  # type: ignore[list-item]

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


class TiedLogits(nn.Module):
    """Logits of each code by the distance of features f to its embedding e_k, which is held constant.

    a (f . e_k - |e_k|^2 / 2) + b_k = -a |f - e_k|^2 / 2 + b_k, up to a constant: codes with equal embeddings are
    equally probable, and when their embeddings separate, q follows without further training. The scale a and the bias b
    are learned.
    """

    def __init__(self, in_channels: int, num_codebooks: int, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_codebooks = num_codebooks
        self.features = nn.Conv2d(in_channels, num_codebooks * embedding_dim, 1)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(embedding_dim) / 2))
        self.bias = nn.Parameter(torch.zeros(num_codebooks * num_embeddings))

    def forward(self, features: Tensor, codebook: Tensor) -> Tensor:
        """Return logits (N, P, K) of features (N, in_channels, h, w) for a ``codebook`` (V, K, D)."""
        places = rearrange(self.features(features), "n (v d) h w -> v (n h w) d", v=self.num_codebooks)
        with without_autocast(places.device):  # scores are differences of large numbers
            places, codebook = upcast(places), upcast(codebook)
            scores = places @ codebook.mT - codebook.square().sum(-1)[:, None] / 2
            logits = self.log_scale.exp() * scores + self.bias.view(self.num_codebooks, 1, -1)
        return rearrange(logits, "v (n p) k -> n (p v) k", n=len(features))


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
