"""The VQ-GAN autoencoder: sizes, errors, and the parts it is made of."""

import pytest
import torch
import torch.nn.functional as F

from vqlab.errors import UserError
from vqlab.nn.autoencoders.conv import (
    ConvDecoder,
    ConvEncoder,
    Downsample,
    ResBlock,
    SelfAttention,
    Upsample,
    activation,
    check_divisible,
    norm,
)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CONFIGS = [
    {},
    {"channel_multipliers": (1,)},
    {"channel_multipliers": [1, 2, 2, 4], "num_res_blocks": 1},
    {"base_channels": 6, "z_channels": 5, "attention": True},
    {"base_channels": 8, "attention_levels": [0, 2], "attention": True},
    {"base_channels": 7, "channel_multipliers": (3, 1), "dropout": 0.5},
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_sizes_go_round(config, channels):
    config = {"base_channels": 8, "z_channels": 12, "num_res_blocks": 1, **config}
    encoder = ConvEncoder(in_channels=channels, **config)
    decoder = ConvDecoder(out_channels=channels, **config)
    factor = 2 ** (len(config["channel_multipliers"]) - 1) if "channel_multipliers" in config else 4
    assert encoder.downsampling == decoder.upsampling == factor
    x = rand(2, channels, 16, 24)
    z = encoder(x)
    assert z.shape == (2, config["z_channels"], 16 // factor, 24 // factor)
    assert encoder.out_channels == decoder.in_channels == config["z_channels"]
    y = decoder(z)
    assert y.shape == x.shape
    assert encoder.in_channels == decoder.out_channels == channels
    y.square().sum().backward()
    for module in (encoder, decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_each_further_res_block_adds_one_per_resolution():
    def count(module):
        return sum(isinstance(m, ResBlock) for m in module.modules())

    for blocks in (1, 2):
        assert count(ConvEncoder(base_channels=8, num_res_blocks=blocks)) == 3 * blocks + 2
        assert count(ConvDecoder(base_channels=8, num_res_blocks=blocks)) == 3 * (blocks + 1) + 2


@pytest.mark.parametrize(("name", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_output_activation_bounds_the_images(name, low, high):
    torch.manual_seed(1)
    kwargs = {"base_channels": 8, "z_channels": 4, "num_res_blocks": 1}
    decoder, free = ConvDecoder(**kwargs, out_activation=name), ConvDecoder(**kwargs)
    free.load_state_dict(decoder.state_dict())
    for module in (decoder, free):
        module.head[0].weight.data.mul_(20)
    z = 5 * rand(2, 4, 4, 4)
    assert free(z).min() < low
    assert free(z).max() > high
    assert low <= decoder(z).min()
    assert decoder(z).max() <= high
    torch.testing.assert_close(decoder(z), free(z).tanh() if name == "tanh" else free(z).sigmoid())


@pytest.mark.parametrize("name", ["relu", "Tanh", ""])
def test_unknown_activation_is_refused(name):
    with pytest.raises(UserError, match="out_activation"):
        activation(name)
    with pytest.raises(UserError, match="out_activation"):
        ConvDecoder(base_channels=8, out_activation=name)


@pytest.mark.parametrize(
    ("height", "width", "factor", "good"),
    [(30, 30, 4, 32), (32, 30, 4, 32), (3, 3, 8, 8), (33, 33, 2, 32), (1, 1, 2, 2)],
)
def test_divisibility_names_the_image_size(height, width, factor, good):
    with pytest.raises(UserError, match=rf"--data\.image_size={good}\b"):
        check_divisible(torch.zeros(1, 3, height, width), factor)
    check_divisible(torch.zeros(1, 3, good, 2 * good), factor)


def test_the_encoder_checks_its_input():
    encoder = ConvEncoder(base_channels=8, num_res_blocks=1)
    with pytest.raises(UserError, match=r"30x32.*--data\.image_size=32"):
        encoder(torch.zeros(1, 3, 30, 32))


@pytest.mark.parametrize(
    "config",
    [{"base_channels": 0}, {"num_res_blocks": 0}, {"channel_multipliers": ()}, {"channel_multipliers": (1, 0)}],
)
@pytest.mark.parametrize("cls", [ConvEncoder, ConvDecoder])
def test_bad_sizes_are_refused_by_name(cls, config):
    with pytest.raises(UserError, match=next(iter(config))):
        cls(**config)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (6, 2), (20, 4), (32, 32), (48, 16), (64, 32), (96, 32), (7, 1)]
)
def test_norm_takes_any_width(channels, groups):
    layer = norm(channels)
    assert layer.num_groups == groups
    x = 3 + 2 * rand(2, channels, 5, 5)
    grouped = x.double().reshape(2, groups, -1)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(layer(x).double(), expected.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_attention_equals_its_formula():
    torch.manual_seed(2)
    layer, x = SelfAttention(8).double(), rand(2, 8, 3, 5).double()
    qkv = layer.qkv(layer.norm(x))
    expected = torch.empty_like(x)
    for b in range(2):
        q, k, v = qkv[b].flatten(1).T.split(8, dim=1)  # each (15, 8)
        weights = torch.softmax(q @ k.T / 8**0.5, dim=1)
        expected[b] = x[b] + layer.proj((weights @ v).T.reshape(1, 8, 3, 5))[0]
    torch.testing.assert_close(layer(x), expected)


def test_attention_sees_the_whole_image():
    """Without attention and with one block, a far pixel cannot matter (but for the norm's statistics, frozen here)."""
    x = rand(1, 8, 6, 6)
    changed = x.clone()
    changed[..., 5, 5] += 1
    torch.manual_seed(3)
    layer = SelfAttention(8)
    layer.norm = torch.nn.Identity()
    assert not torch.allclose(layer(x)[..., 0, 0], layer(changed)[..., 0, 0])
    kinds = [[type(m) for m in ConvEncoder(base_channels=8, attention=flag).modules()] for flag in (False, True)]
    assert [kind.count(SelfAttention) for kind in kinds] == [0, 1]


def test_downsample_pads_right_and_bottom_alone():
    layer, x = Downsample(3), rand(2, 3, 6, 8)
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, stride=2)
    assert layer(x).shape == (2, 3, 3, 4)
    torch.testing.assert_close(layer(x), expected)
    layer.conv.weight.data.zero_()
    layer.conv.weight.data[:, :, 0, 0] = 1  # the kernel's first tap: reads pixels 0, 2, 4 themselves
    torch.testing.assert_close(layer(x)[:, 0], x.sum(1)[:, ::2, ::2] + layer.conv.bias[0], rtol=1e-5, atol=1e-5)


def test_upsample_copies_and_convolves():
    layer, x = Upsample(3), rand(2, 3, 4, 5)
    layer.conv.weight.data.zero_()
    layer.conv.bias.data.zero_()
    for c in range(3):
        layer.conv.weight.data[c, c, 1, 1] = 1
    assert torch.equal(layer(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("channels", "out"), [(8, 8), (8, 12)])
def test_res_block_with_a_silent_body_is_its_skip(channels, out):
    block, x = ResBlock(channels, out), rand(2, channels, 4, 4)
    block.body[-1].weight.data.zero_()
    block.body[-1].bias.data.zero_()
    expected = x if channels == out else F.conv2d(x, block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x), expected)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(4)
    encoder, x = ConvEncoder(base_channels=8, num_res_blocks=1, dropout=0.5), rand(1, 3, 8, 8)
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


@pytest.mark.parametrize("cls", [ConvEncoder, ConvDecoder])
@pytest.mark.parametrize("levels", [(3,), (-1,), (0, 7)])
def test_attention_at_no_level_is_refused(cls, levels):
    with pytest.raises(UserError, match=r"attention_levels must lie between 0 .* and 2"):
        cls(base_channels=8, attention_levels=levels)
