"""Autoencoders for images: sizes, gradients, output activation, head and formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder, ResBlock, SelfAttention, downsample, norm, upsample
from vqlab.nn.autoencoders.patch_conv import PatchConvDecoder, PatchConvEncoder, ScaledResidual
from vqlab.nn.autoencoders.small import MLPDecoder, MLPEncoder, Residual, SmallDecoder, SmallEncoder


def conv(factor, features, **options):
    options = {"base_channels": 8, "z_channels": features, "num_res_blocks": 1, **options}
    return features, factor, lambda c: (ConvEncoder(c, **options), ConvDecoder(c, **options))


def small(factor, *sizes):
    return sizes[0], factor, lambda c: (SmallEncoder(c, *sizes, factor), SmallDecoder(c, *sizes, factor))


def patch_conv(factor, *sizes):
    return sizes[0], factor, lambda c: (PatchConvEncoder(c, *sizes, factor), PatchConvDecoder(c, *sizes, factor))


def mlp(size, hidden, dim):
    return dim, size, lambda c: (MLPEncoder(c, size, hidden, dim), MLPDecoder(c, size, hidden[::-1], dim))


PAIRS = [
    conv(4, 12),
    conv(1, 12, channel_multipliers=(1,)),
    conv(8, 12, channel_multipliers=[1, 2, 2, 4]),
    conv(4, 5, base_channels=6, num_res_blocks=2, attention=True),
    conv(4, 12, attention_levels=[0, 2], attention=True),
    conv(2, 12, base_channels=7, channel_multipliers=(3, 1), dropout=0.5),
    *[small(factor, *sizes) for factor in (2, 4, 8) for sizes in ((16, 4, 2), (9, 3, 1), (2, 1, 0))],
    *[patch_conv(factor, *sizes) for factor in (1, 4, 8) for sizes in ((16, 4, 2), (2, 1, 0))],
    *[mlp(size, hidden, 6) for size in (1, 9, 28) for hidden in ((), (7,), (5, 4, 3))],
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("features", "factor", "make"), PAIRS)
def test_output_has_the_input_size_and_all_weights_have_gradients(features, factor, make, channels):
    encoder, decoder = make(channels)
    height, width = (factor, factor) if isinstance(encoder, MLPEncoder) else (16, 24)
    x = torch.randn(2, channels, height, width)
    z = encoder(x)
    assert z.shape == (2, features, height // factor, width // factor)
    assert (encoder.in_channels, encoder.out_channels, encoder.downsampling) == (channels, features, factor)
    assert (decoder.in_channels, decoder.out_channels, decoder.upsampling) == (features, channels, factor)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for net in (encoder, decoder) for p in net.parameters())


DECODERS = [
    lambda name: ConvDecoder(base_channels=8, z_channels=8, num_res_blocks=1, out_activation=name),
    lambda name: SmallDecoder(hidden_channels=8, out_activation=name),
    lambda name: PatchConvDecoder(hidden_channels=8, out_activation=name),
    lambda name: MLPDecoder(image_size=8, in_channels=8, out_activation=name),
]


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.parametrize("make", DECODERS)
def test_output_activation_is_applied(make, name):
    torch.manual_seed(1)
    bounded, free = make(name), make(None)
    free.load_state_dict(bounded.state_dict())
    size = 1 if isinstance(free, MLPDecoder) else 4
    z = 100 * torch.randn(2, 8, size, size)
    torch.testing.assert_close(bounded(z), free(z).tanh() if name == "tanh" else free(z).sigmoid())


@pytest.mark.parametrize("make", DECODERS)
def test_head_begins_with_the_last_layer_with_weights(make):
    """The adaptive weight of VQ-GAN uses it."""
    decoder = make("tanh")
    with_weights = [part for part in decoder.modules() if isinstance(getattr(part, "weight", None), nn.Parameter)]
    assert decoder.head[0] is with_weights[-1]


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def test_mlps_equal_their_formulas():
    encoder, x = MLPEncoder(2, 3, (5, 4), 6), torch.randn(7, 2, 3, 3)
    z = x.reshape(7, 18)
    for layer in filter(lambda module: isinstance(module, nn.Linear), encoder.modules()):
        z = leaky(z @ layer.weight.T + layer.bias)
    assert z.min() < 0 < z.max()
    torch.testing.assert_close(encoder(x)[:, :, 0, 0], z)
    decoder = MLPDecoder(2, 3, (5, 4), 6, "sigmoid")
    for layer in filter(lambda module: isinstance(module, nn.Linear), decoder.modules()):
        z = leaky(z) @ layer.weight.T + layer.bias
    torch.testing.assert_close(decoder(encoder(x)), F.sigmoid(z).reshape(7, 2, 3, 3))


def test_residual_block_equals_its_formula_and_does_not_change_its_input():
    block, x = Residual(6, 3), torch.randn(2, 6, 5, 5)
    before = x.clone()
    hidden = F.conv2d(x.clamp_min(0), block.conv3.weight, block.conv3.bias, padding=1).clamp_min(0)
    expected = x + F.conv2d(hidden, block.conv1.weight, block.conv1.bias)
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)


def test_scaled_residual_begins_as_the_identity_and_equals_its_formula():
    block, x = ScaledResidual(6, 3), torch.randn(2, 6, 5, 5)
    assert torch.equal(block(x), x)
    first, last = block.body[1], block.body[3]
    nn.init.normal_(last.weight)
    hidden = F.silu(F.conv2d(F.silu(x), first.weight, first.bias, padding=1))
    torch.testing.assert_close(block(x), x + F.conv2d(hidden, last.weight, last.bias, padding=1))


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (6, 2), (20, 4), (32, 32), (48, 16), (64, 32), (96, 32), (7, 1)]
)
def test_group_norm_fits_any_number_of_channels(channels, groups):
    layer = norm(channels)
    assert layer.num_groups == groups
    x = 3 + 2 * torch.randn(2, channels, 5, 5)
    grouped = x.double().reshape(2, groups, -1)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(layer(x).double(), expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [ConvEncoder, ConvDecoder])
def test_attention_follows_each_residual_block_of_its_level(cls):
    net = cls(base_channels=8, num_res_blocks=2, channel_multipliers=(1, 2, 4), attention_levels=(1,))
    layers = list(net.layers if cls is ConvEncoder else net.body)
    places = [i for i, layer in enumerate(layers) if isinstance(layer, SelfAttention)]
    assert len(places) == (2 if cls is ConvEncoder else 3)
    assert all(isinstance(layers[i - 1], ResBlock) and layers[i].proj.out_channels == 16 for i in places)


def test_attention_and_resampling_equal_their_formulas():
    layer, x = SelfAttention(8).double(), torch.randn(2, 8, 4, 6, dtype=torch.float64)
    for row, qkv, y in zip(x, layer.qkv(layer.norm(x)), layer(x), strict=True):
        q, k, v = qkv.flatten(1).T.split(8, dim=1)  # each (24, 8)
        mixed = torch.softmax(q @ k.T / 8**0.5, dim=1) @ v
        torch.testing.assert_close(y, row + layer.proj(mixed.T.reshape(1, 8, 4, 6))[0])
    down, up = downsample(8).double(), upsample(8).double()  # padded only at the right and bottom
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), down.conv.weight, down.conv.bias, stride=2)
    torch.testing.assert_close(down(x), expected)
    copies = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up(x), F.conv2d(copies, up.conv.weight, up.conv.bias, padding=1))


@pytest.mark.parametrize("out", [8, 12])
def test_residual_block_with_a_zero_convolution_equals_its_skip(out):
    block, x = ResBlock(8, out), torch.randn(2, 8, 4, 4)
    for parameter in block.body[-1].parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x), x if out == 8 else F.conv2d(x, block.skip.weight, block.skip.bias))
