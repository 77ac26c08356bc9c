"""Error messages of the quantizers."""

import math

import pytest
import torch

from tests.helpers.family import COMPOSITE, FAMILY, example, trained
from tests.helpers.refusal import refused
from vqlab import (
    FSQ,
    IBQ,
    BinarySpherical,
    GaussianQuantizer,
    GumbelQuantizer,
    IdentityQuantizer,
    LookupFree,
    SimVQ,
    VectorQuantizer,
)
from vqlab.nn import Anneal
from vqlab.quantizers import MultiScaleQuantizer, ProductQuantizer, ResidualQuantizer

COSINE, PYRAMID = VectorQuantizer(8, 3, distance="cosine"), MultiScaleQuantizer(VectorQuantizer(8, 3), [1, 2])


@pytest.mark.parametrize(
    ("cls", "arguments", "line"),
    [
        (VectorQuantizer, {"num_embeddings": 0}, "num_embeddings must be at least 1, got 0"),
        (SimVQ, {"embedding_dim": -2}, "embedding_dim must be at least 1, got -2"),
        (VectorQuantizer, {"commitment_weight": math.nan}, "commitment_weight must be at least 0, got nan"),
        (VectorQuantizer, {"ema_decay": 1.0}, "ema_decay must be in [0, 1), got 1.0"),
        (VectorQuantizer, {"revive_after": 0}, "revive_after must be above 0 or None, got 0"),
        (VectorQuantizer, {"codebook_update": "sgd"}, "codebook_update must be one of ema, loss, got 'sgd'"),
        (GumbelQuantizer, {"temperature": math.inf}, "temperature must be an Anneal or above 0, got inf"),
        (GumbelQuantizer, {"temperature": Anneal(1.0, 0.0, 9)}, "temperature must stay above 0, got Anneal("),
        (GaussianQuantizer, {"kl_weight": 0.0}, "kl_weight must be above 0, got 0.0"),
        (ResidualQuantizer, {"quantizer": GaussianQuantizer(8, 3)}, "which GaussianQuantizer does not"),
        (IBQ, {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        (LookupFree, {"embedding_dim": 63}, "embedding_dim must be in [1, 62], got 63"),
        (BinarySpherical, {"group_size": 17}, "group_size must be in [1, 16], got 17"),
        (FSQ, {"levels": [8, 1]}, "levels must be a list of integers at least 2, got [8, 1]"),
        (FSQ, {"levels": []}, "levels must be 1 or more numbers with a product of at most 2^62, got []"),
        (FSQ, {"levels": [2**31, 2**31, 4]}, "a product of at most 2^62, got [2147483648, 2147483648, 4]"),
        (ProductQuantizer, {"quantizer": PYRAMID}, "quantizer must quantize single vectors, which MultiScaleQuantizer"),
        (ResidualQuantizer, {"dropout": 1.1}, "dropout must be in [0, 1], got 1.1"),
        (ResidualQuantizer, {"quantizer": ProductQuantizer(COSINE, 2)}, "which ProductQuantizer does not"),
        (MultiScaleQuantizer, {"quantizer": COSINE}, "set distance=euclidean, or choose another quantizer"),
        (MultiScaleQuantizer, {"scales": [2, 2]}, "scales must ascend, got [2, 2]"),
        (MultiScaleQuantizer, {"spatial_dims": 4}, "spatial_dims must be one of 1, 2, 3, got 4"),
    ],
)
def test_messages_of_arguments(cls, arguments, line):
    with refused(line):
        cls(**arguments)


@pytest.mark.parametrize("name", FAMILY)
def test_messages_of_inputs_and_codes(name):
    quantizer = trained(name).eval()
    z = example(quantizer, 1)
    codes, highest = quantizer.encode(z), quantizer.num_embeddings
    is_pyramid = isinstance(quantizer, MultiScaleQuantizer)
    with refused("scales must end with the edge of the map" if is_pyramid else "must not be empty, got (0, "):
        quantizer(z[..., :-1] if is_pyramid else z[:0])
    with refused(f"embedding_dim must be dimension 1 of the input, got {quantizer.embedding_dim} and an input"):
        quantizer(z.repeat_interleave(2, dim=1))
    for wrong in (highest, 10**9, -2, -1):
        if wrong == -1 and "residual" in name:
            continue  # a depth without a code
        spoilt = codes.clone()
        spoilt.view(-1)[-1] = wrong
        with refused(f"code {wrong} ", f"0 .. {highest - 1}"):
            quantizer.decode(spoilt)
    for wrong in (codes.float(), codes > 0, "codes", None):
        with refused("codes must be"):
            quantizer.decode(wrong)
    if name in COMPOSITE:
        with refused("codes must"):
            quantizer.decode(codes.repeat_interleave(2, -quantizer.index_dims))


def test_other_messages():
    with refused("num_embeddings must be at least 1, got 0"):
        GaussianQuantizer(8, 3).num_embeddings = 0
    with refused("codes are too many", "quantizer.decode"):
        LookupFree(23).codebooks()
    with refused("an IdentityQuantizer has no codes"):
        IdentityQuantizer(4).decode(torch.zeros(1, 2).long())
    for num in (0, 2, 6):
        with refused(f"indices must fill the scales [1, 2], 5 in all, got {num}"):
            PYRAMID.decode(torch.zeros(2, num, dtype=torch.int64))
    quantizer = GumbelQuantizer(7, 3)
    quantizer.sample_index = torch.arange(4)
    with refused("sample_index must divide the vectors, got 4 samples and 5 vectors"):
        quantizer(torch.randn(5, 3))
    residual = ResidualQuantizer(ProductQuantizer(VectorQuantizer(16, 4), 2), 2).eval()
    codes = torch.zeros(1, 3, 2, 2, dtype=torch.int64)  # (B, L, Q, G)
    codes[:, :, 1] = -1  # the second depth has no code
    assert torch.equal(residual.decode(codes), residual.decode(codes[:, :, :1]))
    codes[:, :, 1, 0] = 3  # but one of its groups has
    with refused("code -1 "):
        residual.decode(codes)
