"""The judge of pairs: any size, what its norms do, and players that do not fit each other."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tests.helpers.refusal import refused
from vqlab.nn.gan.glyph_discriminator import GlyphDiscriminator, check_fit
from vqlab.nn.unet import UNet


def test_one_judge_takes_all_sizes():
    judge = GlyphDiscriminator(3, base_channels=8)
    for size in (32, 64, 128):
        judged = judge(*torch.randn(2, 2, 1, size, size))
        assert judged.real_logits.shape == (2, 1, size // 8 - 2, size // 8 - 2)
        assert judged.styles.shape == (2, 3)


def test_it_looks_at_both_glyphs_and_in_their_order():
    judge, (a, b) = GlyphDiscriminator(2, base_channels=8), torch.randn(2, 1, 1, 32, 32)
    for one, other in (((a, b), (b, a)), ((a, b), (a, a)), ((a, b), (b, b))):
        for said, heard in zip(judge(*one), judge(*other), strict=True):
            assert not torch.allclose(said, heard)


def test_spectral_norm_leaves_the_style_free():
    judge = GlyphDiscriminator(2, base_channels=8, norm="spectral").train()
    with torch.no_grad():
        for _ in range(50):
            judge(*torch.randn(2, 1, 1, 32, 32))
    for part in judge.modules():
        if isinstance(part, nn.Conv2d):
            assert torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)
    assert not is_parametrized(judge.style_head)


def test_players_that_do_not_fit_are_refused():
    with refused("size 64, the generator 32", "--model.generator.image_size=64"):
        check_fit(UNet(32), None, 1, 64)
    with refused("2 styles", "the generator is made for 1", "--model.generator.num_styles=2"):
        check_fit(UNet(32), GlyphDiscriminator(2), 2, 32)
    with refused("the discriminator is made for 3", "--model.discriminator.num_styles=2"):
        check_fit(UNet(32, 2), GlyphDiscriminator(3), 2, 32)
    with refused("16x16", "num_layers"):
        check_fit(UNet(16), GlyphDiscriminator(), 1, 16)
    with refused("num_styles must be at least 1"):
        GlyphDiscriminator(0)
    with refused("norm must be one of"):
        GlyphDiscriminator(norm="instance")
