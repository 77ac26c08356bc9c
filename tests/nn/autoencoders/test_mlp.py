"""The fully connected networks: the paper's sizes, their formula, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.refusal import refused
from vqlab.nn.autoencoders.mlp import MLPDecoder, MLPEncoder
from vqlab.serialization import from_config, to_config


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linears(net):
    return [module for module in net.modules() if isinstance(module, nn.Linear)]


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 9, 28])
@pytest.mark.parametrize("hidden", [(), (7,), (5, 4, 3)])
@pytest.mark.parametrize("features", [1, 6])
def test_sizes_go_round(channels, size, hidden, features):
    encoder = MLPEncoder(channels, size, hidden, features)
    decoder = MLPDecoder(channels, size, hidden[::-1], features)
    x = rand(3, channels, size, size)
    z = encoder(x)
    assert z.shape == (3, features, 1, 1)
    assert encoder.downsampling == decoder.upsampling == size
    assert encoder.out_channels == decoder.in_channels == features
    assert encoder.in_channels == decoder.out_channels == channels
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for net in (encoder, decoder) for p in net.parameters())
    widths = [channels * size**2, *hidden, features]
    assert [layer.in_features for layer in linears(encoder)] == widths[:-1]
    assert [layer.out_features for layer in linears(decoder)] == widths[-2::-1]


def test_the_defaults_are_the_papers():
    shapes = [[(layer.in_features, layer.out_features) for layer in linears(net())] for net in (MLPEncoder, MLPDecoder)]
    assert shapes == [[(784, 512), (512, 256)], [(256, 512), (512, 784)]]


def test_the_encoder_equals_its_formula():
    encoder, x = MLPEncoder(2, 3, (5, 4), 6), rand(7, 2, 3, 3)
    z = x.reshape(7, 18)
    for layer in linears(encoder):
        z = leaky(z @ layer.weight.T + layer.bias)
    assert z.min() < 0 < z.max()
    torch.testing.assert_close(encoder(x)[:, :, 0, 0], z)


def test_the_decoder_equals_its_formula_and_leaves_its_input_alone():
    decoder, z = MLPDecoder(2, 3, (5, 4), 6, "sigmoid"), rand(7, 6, 1, 1)
    before, x = z.clone(), z.reshape(7, 6)
    for layer in linears(decoder):
        x = leaky(x) @ layer.weight.T + layer.bias
    torch.testing.assert_close(decoder(z), F.sigmoid(x).reshape(7, 2, 3, 3))
    assert torch.equal(z, before)


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_the_head_begins_with_the_last_layer_with_weights(hidden):
    """The adaptive weight of a VQ-GAN looks for it there."""
    decoder = MLPDecoder(image_size=4, hidden_channels=hidden, in_channels=3)
    assert decoder.head[0] is linears(decoder)[-1]
    assert not [p for module in decoder.head[1:] for p in module.parameters()]
    z = rand(2, 3, 1, 1)
    assert torch.equal(decoder(z), decoder.head(decoder.body(z)))


@pytest.mark.parametrize(("name", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_output_activation_bounds_the_images(name, low, high):
    bounded, free = (MLPDecoder(image_size=8, in_channels=9, out_activation=a) for a in (name, None))
    free.load_state_dict(bounded.state_dict())
    z = 1000 * rand(2, 9, 1, 1)
    assert free(z).min() < low
    assert free(z).max() > high
    assert low <= bounded(z).min()
    assert bounded(z).max() <= high


def test_a_checkpoint_can_rebuild_them():
    for net in (MLPEncoder(3, 4, (6, 5), 2), MLPDecoder(3, 4, (6, 5), 2, "tanh")):
        again = from_config(to_config(net))
        assert to_config(again) == to_config(net)
        again.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        ({"in_channels": 0}, "got 0"),
        ({"out_channels": -1}, "got -1"),
        ({"image_size": 0}, "got 0"),
        ({"image_size": -28}, "got -28"),
        ({"hidden_channels": (3, 0, 5)}, "got 0"),
    ],
)
@pytest.mark.parametrize(("cls", "part"), [(MLPEncoder, "encoder"), (MLPDecoder, "decoder")])
def test_sizes_below_one_are_refused_by_name(cls, part, bad, got):
    with refused("at least 1", got, f"--model.{part}.{next(iter(bad))}"):
        cls(**bad)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 14), (1, 784), (14, 56)])
def test_images_of_another_size_are_refused(height, width):
    """Also those of as many pixels, which a linear layer would take."""
    with refused(f"{height}x{width}", "28x28", "--model.encoder.image_size", "--data.image_size=28"):
        MLPEncoder()(torch.zeros(1, 1, height, width))


@pytest.mark.parametrize(("height", "width"), [(2, 2), (1, 4)])
def test_a_map_of_more_than_one_code_is_refused(height, width):
    """Also one of as many numbers, which a linear layer would take."""
    words = f"{height}x{width}", f"{8 * height}x{8 * width}", "--model.decoder.image_size", "--data.image_size=8"
    with refused(*words):
        MLPDecoder(image_size=8, in_channels=16)(torch.zeros(1, 16 // (height * width), height, width))


def test_unknown_activation_is_refused():
    with refused("out_activation", "'relu'"):
        MLPDecoder(out_activation="relu")
