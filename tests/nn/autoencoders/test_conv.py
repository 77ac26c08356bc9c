"""The parts of the VQ-GAN autoencoder against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder, Downsample, ResBlock, SelfAttention, Upsample, norm


def test_each_further_res_block_adds_one_per_resolution():
    def count(module):
        return sum(isinstance(m, ResBlock) for m in module.modules())

    for blocks in (1, 2):
        assert count(ConvEncoder(base_channels=8, num_res_blocks=blocks)) == 3 * blocks + 2
        assert count(ConvDecoder(base_channels=8, num_res_blocks=blocks)) == 3 * (blocks + 1) + 2


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (6, 2), (20, 4), (32, 32), (48, 16), (64, 32), (96, 32), (7, 1)]
)
def test_the_norm_fits_any_width(channels, groups):
    layer = norm(channels)
    assert layer.num_groups == groups
    x = 3 + 2 * torch.randn(2, channels, 5, 5)
    grouped = x.double().reshape(2, groups, -1)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(layer(x).double(), expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_attention_equals_its_formula():
    layer, x = SelfAttention(8).double(), torch.randn(2, 8, 3, 5, dtype=torch.float64)
    qkv = layer.qkv(layer.norm(x))
    expected = torch.empty_like(x)
    for b in range(2):
        q, k, v = qkv[b].flatten(1).T.split(8, dim=1)  # each (15, 8)
        weights = torch.softmax(q @ k.T / 8**0.5, dim=1)
        expected[b] = x[b] + layer.proj((weights @ v).T.reshape(1, 8, 3, 5))[0]
    torch.testing.assert_close(layer(x), expected)
    kinds = [[type(m) for m in ConvEncoder(base_channels=8, attention=flag).modules()] for flag in (False, True)]
    assert [kind.count(SelfAttention) for kind in kinds] == [0, 1]


def test_downsampling_pads_right_and_bottom_alone():
    layer, x = Downsample(3), torch.randn(2, 3, 6, 8)
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, stride=2)
    assert layer(x).shape == (2, 3, 3, 4)
    torch.testing.assert_close(layer(x), expected)


def test_upsampling_copies_and_convolves():
    layer, x = Upsample(3), torch.randn(2, 3, 4, 5)
    copies = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), F.conv2d(copies, layer.conv.weight, layer.conv.bias, padding=1))


@pytest.mark.parametrize(("channels", "out"), [(8, 8), (8, 12)])
def test_a_res_block_whose_last_convolution_is_zero_is_its_skip(channels, out):
    block, x = ResBlock(channels, out), torch.randn(2, channels, 4, 4)
    block.body[-1].weight.data.zero_()
    block.body[-1].bias.data.zero_()
    expected = x if channels == out else F.conv2d(x, block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x), expected)


def test_dropout_acts_in_training_alone():
    encoder, x = ConvEncoder(base_channels=8, num_res_blocks=1, dropout=0.5), torch.randn(1, 3, 8, 8)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize("cls", [ConvEncoder, ConvDecoder])
def test_attention_at_a_level_follows_each_of_its_res_blocks(cls):
    """At level 1 of 3, the second resolution, where the width is twice that of level 0."""
    net = cls(base_channels=8, num_res_blocks=2, channel_multipliers=(1, 2, 4), attention_levels=(1,))
    layers = list(net.layers if cls is ConvEncoder else net.body)
    places = [i for i, layer in enumerate(layers) if isinstance(layer, SelfAttention)]
    assert len(places) == (2 if cls is ConvEncoder else 3)
    assert all(isinstance(layers[i - 1], ResBlock) and layers[i].proj.out_channels == 16 for i in places)
