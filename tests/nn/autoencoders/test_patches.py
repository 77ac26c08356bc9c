"""PatchEncoder and PatchDecoder begin as the identity, and learn from there."""

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.nn import S4D, PatchDecoder, PatchEncoder

SMALL = {"patch_size": 16, "fold": 4, "d_model": 12, "num_blocks": 2, "d_state": 8}


@pytest.mark.parametrize("mixer", ["s4d", "conv"])
@pytest.mark.parametrize("channels", [1, 3])
def test_new_networks_are_the_identity(channels, mixer):
    encoder, decoder = PatchEncoder(channels, mixer=mixer, **SMALL), PatchDecoder(channels, mixer=mixer, **SMALL)
    x = torch.randn(2, channels, 96)
    z = encoder(x)
    assert z.shape == (2, 16 * channels, 6) == (2, encoder.out_channels, 96 // encoder.downsampling)
    assert torch.equal(decoder(z), x)
    assert torch.equal(z[:, :16, 2], x[:, 0, 32:48]), "a feature vector holds the samples of a patch"


def test_blocks_of_s4d_are_trained():
    encoder = PatchEncoder(**SMALL)
    assert sum(isinstance(part, S4D) for part in encoder.modules()) == 2
    optimizer = torch.optim.Adam(encoder.parameters(), 0.01)
    x, target = torch.randn(4, 1, 64), torch.randn(4, 16, 4)
    losses = []
    for _ in range(30):
        loss = (encoder(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in encoder.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_patches_are_whole_positions_of_the_branch():
    with refused("patch_size 10 is not divisible"):
        PatchEncoder(patch_size=10, fold=4)
    with refused("signals of 100 samples are not divisible"):
        PatchEncoder(**SMALL)(torch.randn(1, 1, 100))
