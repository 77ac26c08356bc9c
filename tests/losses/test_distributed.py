"""Two processes with half a batch each against one with the whole: LeCam's averages and the adaptive weight."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.two_ranks import on_two_ranks
from vqlab.losses.adaptive_weight import adaptive_weight
from vqlab.losses.adversarial import LeCam

WORLD, STEPS, BATCH = 2, 3, 8


def train(lecam, rank=0, world=1):
    """Adaptive weights, regularisers and moving averages of three batches."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 3, 3, padding=1)
    result = {"weights": [], "regularisers": []}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        z, x = torch.randn(BATCH, 4, 6, 6, generator=generator), torch.randn(BATCH, 3, 6, 6, generator=generator)
        x[0] *= 20  # the ranks' own gradients are far apart
        z, x = z.chunk(world)[rank], x.chunk(world)[rank]
        x_hat = conv(z).tanh()
        losses = F.mse_loss(x_hat, x), (x_hat * x).mean(1).square().mean()
        result["weights"].append(adaptive_weight(*losses, conv.weight))
        real, fake = x.mean((2, 3)), z.mean((2, 3))
        result["regularisers"].append(lecam(real, fake))
        lecam.update(real, fake)
    result = {name: torch.stack(values) for name, values in result.items()}
    return {**result, "averages": torch.stack([lecam.real_mean, lecam.fake_mean])}


def test_two_ranks_are_equal_to_the_last_bit_and_as_one_process(tmp_path):
    lecam = LeCam(0.5)  # before the process group exists, as Lightning does
    ranks, alone = on_two_ranks(lambda rank: train(lecam, rank, WORLD), tmp_path), train(LeCam(0.5))
    for name in ("weights", "averages"):
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], alone[name], rtol=1e-5, atol=1e-6)
    own = torch.stack([rank["regularisers"] for rank in ranks])
    assert not torch.allclose(own[0], own[1])
    torch.testing.assert_close(own.mean(0), alone["regularisers"])
