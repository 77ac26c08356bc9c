"""PatchGAN against the published architecture, layer by layer."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from tests.helpers.refusal import refused
from vqlab.nn import PatchGAN

NORMS = ["group", "batch", "spectral", "none"]


def published(in_channels, width, norm):
    """Three layers of stride 2, with ``width`` 64 in the publication; ``norm`` makes a norm layer."""
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


def layers(net, *kinds):
    return [layer for layer in net.modules() if isinstance(layer, kinds)]


@torch.no_grad()
def copy_weights(source, target):
    kinds = (nn.Conv2d, nn.GroupNorm, nn.BatchNorm2d)
    for mine, theirs in zip(layers(source, *kinds), layers(target, *kinds), strict=True):
        theirs.weight.copy_(mine.weight)
        theirs.bias.zero_() if mine.bias is None else theirs.bias.copy_(mine.bias)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(24, 24), (32, 40), (27, 31)])
def test_logits_equal_the_published_architecture(norm, size):
    net = PatchGAN(2, base_channels=12, norm=norm).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and scales are not 0 and 1
    make = {"group": lambda c: nn.GroupNorm(math.gcd(c, 32), c, eps=1e-6), "batch": nn.BatchNorm2d}
    reference = published(2, 12, make.get(norm, lambda _: nn.Identity()))
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    net.eval() if norm == "spectral" else net.train()  # in training each pass changes the spectral norm
    copy_weights(net, reference)
    logits = net(x)
    assert logits.shape == (3, 1, size[0] // 8 - 2, size[1] // 8 - 2)
    torch.testing.assert_close(logits, reference(x))


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_initial_weights_are_those_of_pix2pix(norm):
    net = PatchGAN(norm=norm)
    for layer in layers(net, nn.Conv2d)[1:-1]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert layer.weight.mean().abs() < 1e-3
        assert (layer.bias is None) == (norm == "batch")
        assert layer.bias is None or not layer.bias.any()
    scales = [layer.weight for layer in layers(net, nn.GroupNorm, nn.BatchNorm2d)]
    assert len(scales) == (0 if norm == "none" else 3)
    assert all(scale.std().item() == pytest.approx(0.02, rel=0.3) for scale in scales)
    assert all(scale.mean().item() == pytest.approx(1, abs=0.01) for scale in scales)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 5])
def test_smallest_image_and_number_of_channels(num_layers):
    net, smallest = PatchGAN(base_channels=2, num_layers=num_layers), 3 * 2**num_layers
    assert net(torch.zeros(1, 3, smallest, smallest)).shape == (1, 1, 1, 1)
    widths = [2 * min(2**i, 8) for i in range(num_layers + 1)]
    assert [conv.out_channels for conv in layers(net, nn.Conv2d)] == [*widths, 1]
    with refused(f"{smallest}x{smallest - 1}", f"num_layers={num_layers}", f"set image_size={smallest}"):
        net(torch.zeros(1, 3, smallest, smallest - 1))
    with pytest.raises(RuntimeError):  # the limit is not stricter than torch's
        net.layers(torch.zeros(1, 3, smallest, smallest - 1))


def test_spectral_norm_of_every_convolution_is_1():
    net = PatchGAN(base_channels=8, norm="spectral").train()
    for _ in range(30):
        net(torch.randn(1, 3, 24, 24))
    for layer in layers(net, nn.Conv2d):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_one_backward_gives_gradients_to_generator_and_discriminator(norm):
    """The sum of the generator loss, through constant weights, and the discriminator loss."""
    net, fake = PatchGAN(base_channels=4, norm=norm), torch.randn(2, 3, 24, 24, requires_grad=True)
    constant = {name: p.detach() for name, p in net.named_parameters()}
    (functional_call(net, constant, (fake,)).mean() - net(fake.detach()).mean()).backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("norm", ["group", "spectral", "none"])
def test_logits_do_not_depend_on_the_other_images(norm):
    net, x = PatchGAN(base_channels=4, norm=norm).double().eval(), torch.randn(3, 3, 24, 24).double()
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))
