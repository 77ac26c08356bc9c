"""The VQ-VAE paper's autoencoder: sizes, errors, and its residual block."""

import pytest
import torch
import torch.nn.functional as F

from vqlab.errors import UserError
from vqlab.nn.autoencoders.small import Residual, SmallDecoder, SmallEncoder


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("downsampling", [2, 4, 8])
@pytest.mark.parametrize(("hidden", "res", "blocks"), [(16, 4, 2), (9, 3, 1), (2, 1, 0)])
def test_sizes_go_round(channels, downsampling, hidden, res, blocks):
    kwargs = {
        "hidden_channels": hidden,
        "res_channels": res,
        "num_res_blocks": blocks,
        "downsampling": downsampling,
    }
    encoder, decoder = SmallEncoder(channels, **kwargs), SmallDecoder(channels, **kwargs)
    x = rand(2, channels, 16, 24)
    z = encoder(x)
    assert z.shape == (2, hidden, 16 // downsampling, 24 // downsampling)
    assert encoder.downsampling == decoder.upsampling == downsampling
    assert encoder.out_channels == decoder.in_channels == hidden
    assert encoder.in_channels == decoder.out_channels == channels
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for module in (encoder, decoder) for p in module.parameters())
    assert sum(isinstance(m, Residual) for m in encoder.modules()) == blocks


@pytest.mark.parametrize("bad", [{"hidden_channels": 1}, {"res_channels": 0}, {"num_res_blocks": -1}])
@pytest.mark.parametrize("cls", [SmallEncoder, SmallDecoder])
def test_bad_sizes_are_refused_by_name(cls, bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        cls(**bad)


@pytest.mark.parametrize("downsampling", [0, 1, 3, 6, -2, -4])
@pytest.mark.parametrize("cls", [SmallEncoder, SmallDecoder])
def test_downsampling_must_be_a_power_of_two(cls, downsampling):
    with pytest.raises(UserError, match="downsampling"):
        cls(downsampling=downsampling)


def test_the_encoder_checks_its_input():
    with pytest.raises(UserError, match=r"30x32.*--data\.image_size=32"):
        SmallEncoder(hidden_channels=8)(torch.zeros(1, 3, 30, 32))


@pytest.mark.parametrize(("name", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_output_activation_bounds_the_images(name, low, high):
    torch.manual_seed(1)
    decoder, free = SmallDecoder(hidden_channels=8, out_activation=name), SmallDecoder(hidden_channels=8)
    free.load_state_dict(decoder.state_dict())
    z = 100 * rand(2, 8, 4, 4)
    assert free(z).min() < low
    assert free(z).max() > high
    assert low <= decoder(z).min()
    assert decoder(z).max() <= high


def test_unknown_activation_is_refused():
    with pytest.raises(UserError, match="out_activation"):
        SmallDecoder(out_activation="relu")


def test_residual_equals_its_formula():
    block, x = Residual(6, 3), rand(2, 6, 5, 5)
    hidden = F.conv2d(x.clamp_min(0), block.conv3.weight, block.conv3.bias, padding=1).clamp_min(0)
    expected = x + F.conv2d(hidden, block.conv1.weight, block.conv1.bias)
    torch.testing.assert_close(block(x), expected)


def test_the_block_reads_its_input_and_does_not_change_it():
    """An in-place ReLU would clip the skip path too."""
    block, x = Residual(6, 3), rand(2, 6, 5, 5)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)
