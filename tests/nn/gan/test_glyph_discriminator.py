"""The discriminator of pairs of glyphs: any size, the order of the pair, and spectral norm."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from vqlab.nn.gan.glyph_discriminator import GlyphDiscriminator


def test_one_network_takes_all_sizes():
    discriminator = GlyphDiscriminator(3, base_channels=8)
    for size in (32, 64, 128):
        output = discriminator(*torch.randn(2, 2, 1, size, size))
        assert output.real_logits.shape == (2, 1, size // 8 - 2, size // 8 - 2)
        assert output.styles.shape == (2, 3)


def test_it_depends_on_both_glyphs_and_their_order():
    discriminator, (a, b) = GlyphDiscriminator(2, base_channels=8), torch.randn(2, 1, 1, 32, 32)
    for one, other in (((a, b), (b, a)), ((a, b), (a, a)), ((a, b), (b, b))):
        for found, others in zip(discriminator(*one), discriminator(*other), strict=True):
            assert not torch.allclose(found, others)


def test_spectral_norm_bounds_all_but_the_style_head():
    discriminator = GlyphDiscriminator(2, base_channels=8, norm="spectral").train()
    with torch.no_grad():
        for _ in range(50):
            discriminator(*torch.randn(2, 1, 1, 32, 32))
    for part in discriminator.modules():
        if isinstance(part, nn.Conv2d):
            assert torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)
    assert not is_parametrized(discriminator.style_head)
