"""The search of codes through the decoder."""

import pytest
import torch
from torch import nn

from tests.helpers.models import build
from tests.helpers.small_models import parts, vqvae
from vqlab.errors import UserError
from vqlab.models import VQVAE
from vqlab.models.vq.code_search import search_codes
from vqlab.nn.base import Decoder
from vqlab.quantizers import FSQ, VectorQuantizer

IMAGES = torch.rand(5, 1, 16, 16) * 2 - 1


class OwnPixels(Decoder):
    """Decoder in which a code draws the pixels of its own position only."""

    def __init__(self):
        super().__init__()
        self.in_channels, self.out_channels, self.upsampling = 8, 1, 4
        self.layers = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Tanh(), nn.PixelShuffle(4))

    def forward(self, x):
        return self.layers(x)


def squared_errors(model, codes):
    with torch.no_grad():
        return (model.decode(codes).clamp(-1, 1) - IMAGES).square().flatten(1).sum(1)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_all_candidates_give_the_best_code_of_each_position(distance):
    networks = parts() | {"decoder": OwnPixels()}
    model = build(VQVAE, **networks, quantizer=VectorQuantizer(11, 8, distance=distance)).eval()
    found = search_codes(model, IMAGES, candidates=11, passes=1)
    with torch.no_grad():  # each code at all positions
        drawn = torch.cat([model.decode(torch.full((1, 4, 4), code)) for code in range(11)])
    errors = (drawn[:, None] - IMAGES).square()[:, :, 0].unflatten(3, (4, 4)).unflatten(2, (4, 4)).sum((3, 5))
    assert torch.equal(found, errors.argmin(0))


def test_no_image_becomes_worse():
    torch.manual_seed(0)
    model = vqvae().eval()
    model.quantizer.codebook.normal_()
    errors = [squared_errors(model, model.encode(IMAGES))]
    for candidates, passes in ((4, 1), (4, 3), (16, 3)):
        errors.append(squared_errors(model, search_codes(model, IMAGES, candidates, passes)))
    assert all((error <= errors[0]).all() for error in errors)
    assert (errors[2] <= errors[1]).all()
    assert errors[2].sum() < 0.99 * errors[0].sum()


def test_one_candidate_is_the_nearest_code():
    model = vqvae().eval()
    assert torch.equal(search_codes(model, IMAGES, candidates=1), model.encode(IMAGES))


def test_mistakes():
    model = vqvae().eval()
    number = model.quantizer.num_embeddings
    for candidates in (0, number + 1):
        with pytest.raises(UserError, match=f"candidates must be from 1 to the {number} codes, got {candidates}"):
            search_codes(model, IMAGES, candidates)
    with pytest.raises(UserError, match="needs a VectorQuantizer, got a FSQ: use encode"):
        search_codes(vqvae(FSQ([5, 5])).eval(), IMAGES)
