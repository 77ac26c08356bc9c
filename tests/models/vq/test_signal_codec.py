"""Records of any length through an S4DVQ: chunks without seams, scales, and records that are refused."""

import numpy as np
import pytest
import torch

from tests.helpers.codecs import LENGTH, PATCH, small_s4dvq, wave
from tests.helpers.refusal import refused
from vqlab.metrics.signal import snr
from vqlab.models import SignalCodec
from vqlab.nn import S4D, S4DDecoder, S4DEncoder
from vqlab.quantizers import FSQ, IdentityQuantizer, MultiScaleQuantizer, ProductQuantizer, VectorQuantizer

LONG = 40 * LENGTH


@pytest.mark.parametrize("mixer", ["conv", "s4d"])
def test_chunks_give_the_codes_and_the_signal_of_the_whole_record(mixer):
    model, x = small_s4dvq(mixer), wave(LONG, seed=1)  # no feature lies between two codes up to rounding
    whole, chunked = SignalCodec(model, LONG), SignalCodec(model, 3 * LENGTH)
    coded = whole.encode(x)
    np.testing.assert_array_equal(chunked.encode(x).codes, coded.codes)
    difference = np.abs(whole.decode(coded) - chunked.decode(coded)).max()
    assert difference < 1e-3 * x.std()
    chunked.__dict__["_context"] = 0  # the test is able to fail
    assert np.abs(whole.decode(coded) - chunked.decode(coded)).max() > 1e-3 * x.std()


@pytest.mark.parametrize("samples", [1, PATCH - 1, PATCH, PATCH + 1, LENGTH, LONG + 5])
def test_any_length_is_decoded_to_the_same_length(samples):
    codec, x = SignalCodec(small_s4dvq(channels=2), 300), wave(samples, 2)
    coded = codec.encode(x)
    assert coded.codes.shape == (-(-samples // PATCH), 3)
    assert codec.decode(coded).shape == x.shape
    if samples > LENGTH:  # the SNR of a few patches varies by several dB
        assert snr(torch.from_numpy(codec.decode(coded)), torch.from_numpy(x)).min() > 5


def test_decoded_record_is_the_reconstruction_of_the_standardised_record():
    model = small_s4dvq("s4d", standardize="none")
    codec, x = SignalCodec(model), wave(LENGTH)
    expected = model.reconstruct(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_array_equal(codec.decode(codec.encode(x)), expected)


def test_statistics_of_the_training_data_are_used_if_they_standardised_it():
    model = small_s4dvq(standardize="dataset", statistics=[[5.0], [2.0]])
    codec, x = SignalCodec(model), wave(LENGTH)
    coded = codec.encode(x)
    assert coded.scaling is None
    np.testing.assert_array_equal(coded.codes, model.encode((torch.from_numpy(x)[None] - 5) / 2)[0].numpy())


def test_drift_of_the_amplitude_costs_no_accuracy():
    codec, x = SignalCodec(small_s4dvq()), wave(LONG)
    quiet = np.geomspace(1e-3, 1, LONG) * (x - x.mean())
    x_hat = codec.decode(codec.encode(quiet))
    parts = [
        torch.from_numpy(part.reshape(1, 40, LENGTH) / np.geomspace(1e-3, 1, 40)[:, None]) for part in (x_hat, quiet)
    ]
    assert snr(*parts)[:, 2:].min() > snr(*parts)[:, 20:].min() - 1


def test_constant_record_is_exact():
    codec, x = SignalCodec(small_s4dvq()), np.full((1, 1000), 0.1, np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(x)), x)


def test_kernels_are_those_of_windows_only_while_a_long_record_is_encoded():
    model = small_s4dvq("s4d")
    layers, seen = [module for module in model.modules() if isinstance(module, S4D)], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(layer.taper))
    codec = SignalCodec(model)
    codec.encode(wave(LENGTH))
    assert set(seen) == {None}
    seen.clear()
    codec.decode(codec.encode(wave(LENGTH + 1)))
    assert seen == [LENGTH // 4] * len(layers)
    assert {layer.taper for layer in layers} == {None}


def test_networks_with_pooling_and_product_codes():
    size = {"d_model": 16, "pool": [2, 2], "d_state": 8}
    quantizer = ProductQuantizer(VectorQuantizer(8, 4), 2)
    model = type(small_s4dvq())(S4DEncoder(**size), S4DDecoder(in_channels=16, **size), quantizer, length=64).eval()
    x = wave(1000)
    a, b = SignalCodec(model, 64), SignalCodec(model)
    np.testing.assert_array_equal(a.encode(x).codes, b.encode(x).codes)
    assert np.abs(a.decode(b.encode(x)) - b.decode(b.encode(x))).max() < 1e-3 * x.std()


def test_records_and_models_that_are_refused():
    codec = SignalCodec(small_s4dvq())
    for x, words in [
        (wave(100, 2), "(1, T), got (2, 100)"),
        (wave(100)[:, :0], "(1, T), got (1, 0)"),
        (wave(100)[0], "(1, T), got (100,)"),
        (np.where(np.arange(100) == 7, np.nan, wave(100)), "channel 0 is not at sample 7"),
        (np.where(np.arange(100) == 9, np.inf, wave(100)), "channel 0 is not at sample 9"),
    ]:
        with refused(words):
            codec.encode(x)
    with refused("IdentityQuantizer has none"):
        SignalCodec(small_s4dvq(quantizer=IdentityQuantizer(16)))
    with refused("codes for each position"):
        scales = MultiScaleQuantizer(VectorQuantizer(8, 16), scales=[1, 2, 8], spatial_dims=1)
        SignalCodec(small_s4dvq(quantizer=scales))
    assert SignalCodec(small_s4dvq(quantizer=FSQ([5, 5, 5]))).encode(wave(100)).codes.shape == (7,)
