"""Half precision, autocast and memory of the family."""

import pytest
import torch
from torch import nn

from tests.helpers.family import FAMILY, Largest, example, rand, train_step, trained
from vqlab.quantizers import search
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import LookupFree
from vqlab.quantizers.vector import VectorQuantizer

LOW = [torch.bfloat16, torch.float16]


def assert_equals_float32(out, expected, dtype):
    assert torch.equal(out.indices, expected.indices)
    assert out.quantized.dtype == dtype
    assert torch.equal(out.quantized, expected.quantized.to(dtype))
    assert out.loss.dtype == torch.float32
    assert torch.equal(out.loss, expected.loss)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FAMILY)
def test_low_precision_input_and_autocast_give_what_float32_does(name, training):
    quantizer = trained(name).train(training)
    for dtype in (*LOW, torch.float32):
        z = example(quantizer, 1, batch=8).to(dtype)
        quantizer.sample_index = torch.arange(8)
        expected = quantizer(z.float())
        assert_equals_float32(quantizer(z), expected, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            assert_equals_float32(quantizer(z), expected, dtype)
            if not training:
                assert torch.equal(quantizer.decode(expected.indices), expected.quantized)


@pytest.mark.parametrize("name", FAMILY)
def test_gradients_under_autocast_are_those_of_float32(name):
    gradients = []
    for enabled in (False, True):
        quantizer = trained(name)
        quantizer.sample_index = torch.arange(6)
        z = example(quantizer, 1).bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = quantizer(z)
            loss = out.loss + out.quantized.float().square().mean()
        loss.backward()
        gradients.append([z.grad, *(p.grad for p in quantizer.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", FAMILY)
def test_a_quantizer_cast_to_half_precision_stays_float32(name):
    quantizer, plain = trained(name), trained(name)
    nn.Sequential(quantizer, nn.Linear(2, 2)).bfloat16()
    states = quantizer.state_dict(), plain.state_dict()
    for key in states[1]:
        assert states[0][key].dtype == states[1][key].dtype
        assert torch.equal(states[0][key], states[1][key])
    z = example(quantizer, 1).bfloat16()
    for step in range(2):
        assert torch.equal(train_step(quantizer, z, step), train_step(plain, z, step))
    assert_equals_float32(quantizer.eval()(z), plain.eval()(z.float()), z.dtype)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FSQ([64, 64, 33]),
        lambda: LookupFree(20, group_size=4),
        lambda: ResidualQuantizer(FSQ([64, 64]), 2),
        lambda: ProductQuantizer(FSQ([1024, 3]), 2),
        lambda: VectorQuantizer(700, 3, init="uniform"),
    ],
    ids=["fsq", "lookup-free", "residual", "product", "vector"],
)
def test_more_codes_than_bfloat16_has_integers(build):
    quantizer = build().eval()
    z = rand(4000, quantizer.embedding_dim, seed=1, scale=2e-3 if isinstance(quantizer, VectorQuantizer) else 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z.bfloat16())
    expected = quantizer.double()(z.bfloat16().double())
    assert torch.equal(out.indices, expected.indices)
    assert len(out.indices.unique()) > 256


# 2^g probabilities of a group of g bits take the place of the K of a codebook
BOUNDED = {
    "vector": (96, lambda: VectorQuantizer(96, 4, revive_after=2)),
    "ibq": (96, lambda: IBQ(96, 4)),
    "gumbel": (96, lambda: GumbelQuantizer(96, 4)),
    "lookup-free": (2**6, lambda: LookupFree(12, group_size=6)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_array_of_all_vectors_times_all_codes(name, monkeypatch):
    """In training steps, of which the first sets the codebook up and the third revives, and in an evaluation."""
    width, build = BOUNDED[name]
    monkeypatch.setattr(search, "CHUNK_ELEMENTS", 2**11)
    monkeypatch.setattr(search, "SCORES", {"cpu": 2**11})
    monkeypatch.setattr(search, "CODES", {"cpu": 64})
    quantizer = build()
    z = rand(384, quantizer.embedding_dim, seed=1).requires_grad_()
    with Largest() as seen:
        for _ in range(3):
            out = quantizer(z)
            (out.loss + out.quantized.square().sum()).backward()
        quantizer.eval()(z)
    assert seen.elements < len(z) * width / 2
