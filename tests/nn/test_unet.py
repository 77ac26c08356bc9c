"""The U-Net: any power of two, where styles and norms act, and bad arguments."""

import pytest
import torch

from vqlab.nn.unet import UNet


def glyphs(count=3, size=32):
    return torch.rand(count, 1, size, size) * 2 - 1


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_any_power_of_two_down_to_one_position(size, norm):
    net, x = UNet(size, 2, base_channels=4, norm=norm), glyphs(2, size)
    maps = net.encode(x)
    assert [m.shape[-1] for m in maps] == [size, *(size >> level for level in range(size.bit_length()))]
    drawn = net(x, torch.tensor([0, 1]))
    assert drawn.shape == x.shape
    assert drawn.abs().max() <= 1
    drawn.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_an_untrained_one_draws_about_the_source():
    x = glyphs().sign()
    drawn = UNet(32)(x, torch.zeros(3, dtype=torch.int64))
    assert (drawn.sign() == x).float().mean() > 0.98


def test_the_style_changes_the_glyph_and_shares_of_two_lie_between_them():
    net, x = UNet(32, 2, base_channels=8).double(), glyphs(1).double()
    first, second = (net(x, torch.tensor([style])) for style in (0, 1))
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(net(x, torch.tensor([[0.0, 1.0]]).double()), second)
    mixed = net(x, torch.tensor([[0.5, 0.5]]).double())
    assert 0 < (mixed - first).abs().mean() < (second - first).abs().mean()
