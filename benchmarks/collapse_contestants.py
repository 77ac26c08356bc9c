"""The quantizers that the collapse suite compares, each built by a function of (K, D, seed)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vqlab.nn.anneal import Anneal
from vqlab.quantizers.base import QuantizerOutput
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gaussian import GaussianQuantizer
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.quantizers.sim_vq import SimVQ
from vqlab.quantizers.vector import VectorQuantizer

Build = Callable[[int, int, int], nn.Module]

FSQ_LEVELS = {512: [8, 8, 8], 8192: [8, 8, 8, 4, 4]}  # exactly K codes
STEPS = 600
ANNEAL = Anneal(1.0, 1 / 16, total_steps=STEPS)  # DALL-E's temperatures within a run


class Lucidrains(nn.Module):
    """vector-quantize-pytorch's VectorQuantize behind vqlab's interface; it updates its own codebook in forward."""

    def __init__(self, num_embeddings: int, embedding_dim: int, **settings: Any) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.quantizer = VectorQuantize(
            dim=embedding_dim, codebook_size=num_embeddings, accept_image_fmap=True, **settings
        )

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize ``z`` (B, D, h, w)."""
        quantized, indices, loss = self.quantizer(z)
        return QuantizerOutput(quantized, indices, loss.sum())


def vector(**settings: Any) -> Build:
    """VectorQuantizer with its defaults but for ``settings``."""
    return lambda k, d, seed: VectorQuantizer(k, d, seed=seed, **settings)


def lucidrains(**settings: Any) -> Build:
    """VectorQuantize with its defaults but for ``settings``; it draws from torch's global generator."""
    return lambda k, d, seed: Lucidrains(k, d, **settings)


def fsq(num_embeddings: int, embedding_dim: int, seed: int) -> nn.Module:
    """FSQ with the levels that make exactly K codes; D follows from them."""
    return FSQ(FSQ_LEVELS[num_embeddings])


def bits(num_embeddings: int) -> int:
    """log2 K: a code of one bit per channel."""
    return int(math.log2(num_embeddings))


def root(num_embeddings: int, parts: int) -> int:
    """How many codes each of ``parts`` codebooks has so that there are about K combinations."""
    return round(num_embeddings ** (1 / parts))


SCALES = [1, 2, 4, 8]  # 85 codes in place of 64
TUNED = {"kmeans_init": True, "threshold_ema_dead_code": 2}

CONTESTANTS: dict[str, Build] = {
    "default": vector(),
    # One setting changed at a time
    "gradient codebook": vector(codebook_update="loss"),
    "rotation": vector(estimator="rotation"),
    "cosine": vector(distance="cosine"),
    "init from data": vector(init="data"),
    "uniform init": vector(init="uniform"),
    "no revival": vector(revive_after=None),
    # What published code does
    "plain gradient": vector(codebook_update="loss", init="uniform", revive_after=None),
    "plain EMA": vector(init="uniform", revive_after=None),
    "lucidrains default": lucidrains(),
    "lucidrains k-means + expiry": lucidrains(**TUNED),
    "lucidrains tuned, rotation": lucidrains(**TUNED, decay=0.99, commitment_weight=0.25),
    "lucidrains tuned": lucidrains(**TUNED, decay=0.99, commitment_weight=0.25, rotation_trick=False),
    # Other quantizers
    "FSQ": fsq,
    "LFQ": lambda k, d, seed: LookupFree(bits(k)),
    "BSQ": lambda k, d, seed: BinarySpherical(bits(k)),
    "Gumbel": lambda k, d, seed: GumbelQuantizer(k, d, temperature=ANNEAL, seed=seed),
    "SimVQ": lambda k, d, seed: SimVQ(k, d, seed=seed),
    "IBQ": lambda k, d, seed: IBQ(k, d, seed=seed),
    "GQ": lambda k, d, seed: GaussianQuantizer(k, bits(k), seed=seed),  # one bit per channel, as in the paper
    # Several codes per position, together about log2 K bits
    "residual, equal bits": lambda k, d, seed: ResidualQuantizer(VectorQuantizer(root(k, 3), d, seed=seed), 3),
    "product, equal bits": lambda k, d, seed: ProductQuantizer(VectorQuantizer(root(k, 2), d // 2, seed=seed), 2),
    "multi-scale, equal bits": lambda k, d, seed: MultiScaleQuantizer(
        VectorQuantizer(round(k ** (64 / 85)), d, seed=seed), SCALES
    ),
    # Several codes of K each per position, so more bits than the others
    "residual, 4 deep": lambda k, d, seed: ResidualQuantizer(VectorQuantizer(k, d, seed=seed), 4, seed=seed),
    "product, 2 groups": lambda k, d, seed: ProductQuantizer(VectorQuantizer(k, d // 2, seed=seed), 2),
    "multi-scale": lambda k, d, seed: MultiScaleQuantizer(VectorQuantizer(k, d, seed=seed)),
}


def build(name: str, num_embeddings: int, embedding_dim: int, seed: int) -> nn.Module:
    """Build contestant ``name``; the same seed gives the same quantizer."""
    torch.manual_seed(seed)
    return CONTESTANTS[name](num_embeddings, embedding_dim, seed)
