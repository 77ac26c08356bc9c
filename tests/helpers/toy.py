"""A generative model small enough to sum over all of its codes: 3 variables of 4 values, binary images of 4 x 4."""

import itertools
from typing import Any

import torch
from torch import Tensor

from tests.helpers.models import build
from vqlab.models import JSA
from vqlab.nn import Bernoulli, MLPDecoder, MLPEncoder

VARIABLES, VALUES, SIZE = 3, 4, 4
CODES = torch.tensor(list(itertools.product(range(VALUES), repeat=VARIABLES))).view(-1, 1, 1, VARIABLES)  # (64, ...)
NUMBER = torch.tensor([VALUES**2, VALUES, 1])  # the scalar product with a code is its index in CODES


def parts(**options: Any) -> dict[str, Any]:
    """Return the arguments of a model with layers 16-32-[12] and [12]-16-16."""
    return {
        "encoder": MLPEncoder(1, SIZE, (32,), 12),
        "decoder": MLPDecoder(1, SIZE, (16,), 12),
        "num_embeddings": VALUES,
        "num_latents": VARIABLES,
        "likelihood": Bernoulli(),
        "prior": "factorized",
        "channels": 1,
        "image_size": SIZE,
        "value_range": "unit",
        **options,
    }


def sharpened(seed: int, gain: float) -> JSA:
    """Return a model whose weights are so large that images determine much of their codes."""
    torch.manual_seed(seed)
    model = build(JSA, **parts())
    with torch.no_grad():
        model.quantizer.codebook.mul_(gain)
        for weight in model.latent.decoder.parameters():
            weight.mul_(gain)
        assert model.latent.prior.logits is not None
        model.latent.prior.logits.normal_()
    return model.eval()


def images(model: JSA, num: int, seed: int) -> Tensor:
    """Draw binary images (num, 1, 4, 4) from a model."""
    torch.manual_seed(seed)
    return torch.bernoulli(model.sample(num))


def all_joints(model: JSA, x: Tensor) -> Tensor:
    """Return ln p(x, h) of each image and each of the 64 codes, (B, 64), with gradients."""
    return model.latent.log_joint(x.repeat_interleave(len(CODES), 0), CODES.repeat(len(x), 1, 1, 1)).view(len(x), -1)


def all_proposals(model: JSA, x: Tensor) -> Tensor:
    """Return ln q(h | x) of each image and each of the 64 codes, (B, 64), with gradients."""
    return model.latent.log_proposal(x.repeat_interleave(len(CODES), 0), CODES.repeat(len(x), 1, 1, 1)).view(len(x), -1)
