"""Generators and feature networks: any size, and features that differ at the start."""

import pytest
import torch
from torch import nn

from vqlab.nn.gan.conv import ConvFeatures, ConvGenerator
from vqlab.nn.gan.mlp import MLPFeatures, MLPGenerator


@pytest.mark.parametrize("size", [8, 28, 30, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("make", "describe"), [(ConvGenerator, ConvFeatures), (MLPGenerator, MLPFeatures)])
def test_any_size_and_channels(make, describe, size, channels):
    images = make(20, channels, size)(torch.randn(4, 20))
    assert images.shape == (4, channels, size, size)
    assert images.abs().max() <= 1
    net = describe(channels, size)
    assert net(images).shape == (4, net.out_features)


@pytest.mark.parametrize("describe", [ConvFeatures, MLPFeatures])
def test_untrained_features_differ_between_images(describe):
    # In a well-known loop batch norm's eps is 0.8 by mistake: there this spread is 0.0003.
    torch.manual_seed(0)
    net = describe(1, 32)
    assert all(part.eps <= 1e-3 for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    assert net(torch.rand(64, 1, 32, 32) * 2 - 1).std(0).mean() > 0.1


def test_noise_is_added_in_training_alone():
    net, x = MLPFeatures(1, 8), torch.randn(4, 1, 8, 8)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
