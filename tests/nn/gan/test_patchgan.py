"""PatchGAN against the published layout, written out layer by layer."""

import math

import pytest
import torch
from torch import nn

from tests.helpers.refusal import refused
from vqlab.nn.gan.discriminators import PatchGAN

NORMS = ["group", "batch", "spectral", "none"]


def published(in_channels, width, norm):
    """Three layers that halve, 64 wide in the publication; ``norm`` makes a norm layer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        norm(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
        norm(4 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * width, 8 * width, 4, 1, 1),
        norm(8 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8 * width, 1, 4, 1, 1),
    ).double()


def convolutions(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def norms(net):
    return [layer for layer in net.modules() if isinstance(layer, (nn.GroupNorm, nn.BatchNorm2d))]


@torch.no_grad()
def copy_weights(source, target):
    for mine, theirs in zip(convolutions(source), convolutions(target), strict=True):
        theirs.weight.copy_(mine.weight)
        theirs.bias.zero_() if mine.bias is None else theirs.bias.copy_(mine.bias)
    for mine, theirs in zip(norms(source), norms(target), strict=True):
        theirs.weight.copy_(mine.weight)
        theirs.bias.copy_(mine.bias)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(24, 24), (32, 40), (27, 31)])
def test_it_is_the_published_layout(norm, size):
    net = PatchGAN(2, base_channels=12, norm=norm).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and scales away from 0 and 1
    make = {"group": lambda c: nn.GroupNorm(math.gcd(c, 32), c, eps=1e-6), "batch": nn.BatchNorm2d}
    reference = published(2, 12, make.get(norm, lambda _: nn.Identity()))
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    net.eval() if norm == "spectral" else net.train()  # in training each pass refines the spectral norm
    copy_weights(net, reference)
    logits = net(x)
    assert logits.shape == (3, 1, size[0] // 8 - 2, size[1] // 8 - 2)
    torch.testing.assert_close(logits, reference(x))


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_weights_start_as_those_of_pix2pix(norm):
    net = PatchGAN(norm=norm)
    for layer in convolutions(net)[1:-1]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert layer.weight.mean().abs() < 1e-3
        assert (layer.bias is None) == (norm == "batch")
        assert layer.bias is None or not layer.bias.any()
    scales = [layer.weight for layer in norms(net)]
    assert len(scales) == (0 if norm == "none" else 3)
    assert all(scale.std().item() == pytest.approx(0.02, rel=0.3) for scale in scales)
    assert all(scale.mean().item() == pytest.approx(1, abs=0.01) for scale in scales)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 5])
def test_the_smallest_image_and_the_widths(num_layers):
    net, smallest = PatchGAN(base_channels=2, num_layers=num_layers), 3 * 2**num_layers
    assert net(torch.zeros(1, 3, smallest, smallest)).shape == (1, 1, 1, 1)
    assert [conv.out_channels for conv in convolutions(net)] == [*(2 * min(2**i, 8) for i in range(num_layers + 1)), 1]
    with refused(f"{smallest}x{smallest - 1}", f"num_layers={num_layers}", f"set image_size={smallest}"):
        net(torch.zeros(1, 3, smallest, smallest - 1))
    with pytest.raises(RuntimeError):  # it is torch's limit, not a stricter one
        net.layers(torch.zeros(1, 3, smallest, smallest - 1))
