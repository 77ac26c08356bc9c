"""Generators, feature networks and the discriminators of SGAN and FontGAN."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.nn import ConvFeatures, ConvGenerator, MLPFeatures, MLPGenerator
from vqlab.nn.gan.discriminators import GlyphDiscriminator, SGANDiscriminator, real_logit


@pytest.mark.parametrize("size", [8, 28, 30, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("generator", "features"), [(ConvGenerator, ConvFeatures), (MLPGenerator, MLPFeatures)])
def test_generators_and_feature_nets_take_any_size(generator, features, size, channels):
    images = generator(20, channels, size)(torch.randn(4, 20))
    assert images.shape == (4, channels, size, size)
    assert images.abs().max() <= 1
    net = features(channels, size)
    assert net(images).shape == (4, net.out_features)


def test_glyph_discriminator_takes_all_sizes_and_depends_on_the_order_of_the_pair():
    discriminator = GlyphDiscriminator(3, base_channels=8)
    for size in (32, 64, 128):
        a, b = torch.randn(2, 2, 1, size, size)
        output = discriminator(a, b)
        assert output.real_logits.shape == (2, 1, size // 8 - 2, size // 8 - 2)
        assert output.styles.shape == (2, 3)
        for other in ((b, a), (a, a), (b, b)):
            for found, others in zip(output, discriminator(*other), strict=True):
                assert not torch.allclose(found, others)


def test_logsumexp_head_appends_logit_0_for_generated_images():
    output = SGANDiscriminator(ConvFeatures(), 10, head="logsumexp").eval()(torch.randn(3, 1, 32, 32))
    assert torch.equal(output.logits[:, -1], torch.zeros(3))
    torch.testing.assert_close(output.real_logits, output.logits[:, :-1].exp().sum(1).log())


def test_real_logit_is_the_log_odds_of_the_softmax():
    logits = torch.randn(50, 8, dtype=torch.float64) * 5
    p_fake = logits.softmax(1)[:, -1]
    torch.testing.assert_close(real_logit(logits), ((1 - p_fake) / p_fake).log())
    assert real_logit(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("head", ["kplus1", "logsumexp"])
def test_spectral_norm_bounds_all_layers_except_the_class_head(head):
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


@pytest.mark.parametrize("features", [ConvFeatures, MLPFeatures])
def test_untrained_features_differ_between_images(features):
    """The spread is 0.0003 if the eps of batch norm is 0.8, as in a popular implementation."""
    assert features(1, 32)(torch.rand(64, 1, 32, 32) * 2 - 1).std(0).mean() > 0.1
