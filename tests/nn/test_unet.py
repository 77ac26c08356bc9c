"""The U-Net: sizes, styles, norms and skip connections."""

import pytest
import torch

from vqlab.nn import UNet


def glyphs(count=3, size=32):
    return torch.rand(count, 1, size, size) * 2 - 1


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_maps_halve_down_to_one_position_for_any_power_of_two(size, norm):
    net, x = UNet(size, 2, base_channels=4, norm=norm), glyphs(2, size)
    maps = net.encode(x)
    assert [m.shape[-1] for m in maps] == [size, *(size >> level for level in range(size.bit_length()))]
    drawn = net(x, torch.tensor([0, 1]))
    assert drawn.shape == x.shape
    assert drawn.abs().max() <= 1
    drawn.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_untrained_output_is_close_to_the_source():
    x = glyphs().sign()
    drawn = UNet(32)(x, torch.zeros(3, dtype=torch.int64))
    assert (drawn.sign() == x).float().mean() > 0.98


def test_style_changes_the_glyph_and_mixtures_lie_between():
    net, x = UNet(32, 2, base_channels=8).double(), glyphs(1).double()
    first, second = (net(x, torch.tensor([style])) for style in (0, 1))
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(net(x, torch.tensor([[0.0, 1.0]]).double()), second)
    mixed = net(x, torch.tensor([[0.5, 0.5]]).double())
    assert 0 < (mixed - first).abs().mean() < (second - first).abs().mean()


@pytest.mark.parametrize(("norm", "depends"), [("instance", False), ("batch", True), ("none", False)])
def test_glyphs_depend_on_the_batch_only_with_batch_norm(norm, depends):
    net, style, x = UNet(32, base_channels=4, norm=norm).double(), torch.zeros(4, dtype=torch.int64), glyphs(4).double()
    assert torch.allclose(net(x[:2], style[:2]), net(x, style)[:2]) != depends


def test_every_map_has_a_skip_connection():
    net, style = UNet(32, base_channels=4), torch.zeros(1, dtype=torch.int64)
    maps = [m.detach() for m in net.encode(glyphs(1))]
    drawn = net.decode(maps, style)
    for level in range(len(maps)):
        changed = [m + 0.5 * (i == level) * torch.randn_like(m) for i, m in enumerate(maps)]
        assert not torch.equal(net.decode(changed, style), drawn), level
