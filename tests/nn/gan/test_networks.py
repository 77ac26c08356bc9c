"""Generators, feature networks and the discriminators of SGAN and FontGAN."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.nn.gan.discriminators import GlyphDiscriminator, SGANDiscriminator, real_logit
from vqlab.nn.gan.networks import ConvFeatures, ConvGenerator, MLPFeatures, MLPGenerator


@pytest.mark.parametrize("size", [8, 28, 30, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("make", "describe"), [(ConvGenerator, ConvFeatures), (MLPGenerator, MLPFeatures)])
def test_any_size_and_channels(make, describe, size, channels):
    images = make(20, channels, size)(torch.randn(4, 20))
    assert images.shape == (4, channels, size, size)
    assert images.abs().max() <= 1
    net = describe(channels, size)
    assert net(images).shape == (4, net.out_features)


def test_the_glyph_discriminator_takes_all_sizes_and_depends_on_the_order_of_the_pair():
    discriminator = GlyphDiscriminator(3, base_channels=8)
    for size in (32, 64, 128):
        a, b = torch.randn(2, 2, 1, size, size)
        output = discriminator(a, b)
        assert output.real_logits.shape == (2, 1, size // 8 - 2, size // 8 - 2)
        assert output.styles.shape == (2, 3)
        for other in ((b, a), (a, a), (b, b)):
            for found, others in zip(output, discriminator(*other), strict=True):
                assert not torch.allclose(found, others)


def test_with_k_logits_the_last_is_0_and_the_real_logit_their_log_sum_exp():
    output = SGANDiscriminator(ConvFeatures(), 10, head="logsumexp").eval()(torch.randn(3, 1, 32, 32))
    assert torch.equal(output.logits[:, -1], torch.zeros(3))
    torch.testing.assert_close(output.real_logits, output.logits[:, :-1].exp().sum(1).log())


def test_the_real_logit_is_the_log_odds_of_the_softmax():
    logits = torch.randn(50, 8, dtype=torch.float64) * 5
    p_fake = logits.softmax(1)[:, -1]
    torch.testing.assert_close(real_logit(logits), ((1 - p_fake) / p_fake).log())
    assert real_logit(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("head", ["kplus1", "logsumexp"])
def test_spectral_norm_bounds_all_but_the_class_head(head):
    torch.manual_seed(0)
    discriminator = SGANDiscriminator(ConvFeatures(norm="none"), 10, head, spectral_norm=True)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    for _ in range(60):  # two forwards per step, as in training
        a, b = discriminator(torch.randn(8, 1, 32, 32)), discriminator(torch.randn(8, 1, 32, 32) + 1)
        optimizer.zero_grad()
        loss = torch.relu(1 - a.real_logits).mean() + torch.relu(1 + b.real_logits).mean()
        (loss + F.cross_entropy(a.logits, torch.arange(8))).backward()
        optimizer.step()
    bounded = [part for part in discriminator.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    bounded.remove(discriminator.class_head)
    assert len(bounded) == 4 + (head == "kplus1")
    for part in bounded:
        assert torch.linalg.svdvals(part.weight.detach().flatten(1))[0] == pytest.approx(1, abs=0.02)
    assert not hasattr(discriminator.class_head, "parametrizations")
