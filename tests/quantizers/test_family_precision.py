"""Half precision, autocast and memory of all quantizers."""

import pytest
import torch
from torch import nn

from tests.helpers.family import FAMILY, Largest, example, rand, train_step, trained
from vqlab import FSQ, IBQ, GaussianQuantizer, GumbelQuantizer, LookupFree, VectorQuantizer
from vqlab.quantizers import ProductQuantizer, ResidualQuantizer, search


def assert_equals_float32(out, expected, dtype):
    assert torch.equal(out.indices, expected.indices)
    assert out.quantized.dtype == dtype
    assert torch.equal(out.quantized, expected.quantized.to(dtype))
    assert out.loss.dtype == torch.float32
    assert torch.equal(out.loss, expected.loss)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FAMILY)
def test_half_precision_and_autocast_equal_float32(name, training):
    quantizer = trained(name).train(training)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        z = example(quantizer, 1, batch=8).to(dtype)
        quantizer.sample_index = torch.arange(8)
        expected = quantizer(z.float())
        assert_equals_float32(quantizer(z), expected, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            assert_equals_float32(quantizer(z), expected, dtype)
            if not training:
                assert torch.equal(quantizer.decode(expected.indices), expected.quantized)


@pytest.mark.parametrize("name", FAMILY)
def test_gradients_under_autocast_equal_float32(name):
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
def test_quantizer_in_a_half_precision_model_stays_float32(name):
    quantizer, plain = trained(name), trained(name)
    nn.Sequential(quantizer, nn.Linear(2, 2)).bfloat16().half().to(torch.device("cpu"), torch.bfloat16)
    torch.testing.assert_close(quantizer.state_dict(), plain.state_dict(), rtol=0, atol=0)
    z = example(quantizer, 1).bfloat16()
    for step in range(2):
        assert torch.equal(train_step(quantizer, z, step), train_step(plain, z, step))
    assert_equals_float32(quantizer.eval()(z), plain.eval()(z.float()), z.dtype)


@pytest.mark.parametrize("name", FAMILY)
def test_double_precision_stays_double(name):
    quantizer = trained(name).double().eval()
    z = example(quantizer, 1).double()
    out = quantizer(z)
    assert all(x.dtype != torch.float32 for x in (out.quantized, out.loss, *quantizer.state_dict().values()))
    torch.testing.assert_close(quantizer.decode(out.indices).double(), out.quantized, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "quantizer",
    [
        FSQ([64, 64, 33]),
        LookupFree(20, group_size=4),
        ResidualQuantizer(FSQ([64, 64]), 2),
        ProductQuantizer(FSQ([1024, 3]), 2),
        VectorQuantizer(700, 3, init="uniform"),
    ],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_indices_beyond_bfloat16_integers(quantizer):
    quantizer = quantizer.eval()
    z = rand(4000, quantizer.embedding_dim, seed=1, scale=2e-3 if isinstance(quantizer, VectorQuantizer) else 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z.bfloat16())
    expected = quantizer.double()(z.bfloat16().double())
    assert torch.equal(out.indices, expected.indices)
    assert len(out.indices.unique()) > 256


# Number of probabilities per vector: codes, or 2^g of a group of g bits.
BOUNDED = {
    "vector": (96, lambda: VectorQuantizer(96, 4, revive_after=2)),
    "ibq": (96, lambda: IBQ(96, 4)),
    "gaussian": (96, lambda: GaussianQuantizer(96, 4)),
    "gumbel": (96, lambda: GumbelQuantizer(96, 4)),
    "lookup-free": (2**6, lambda: LookupFree(12, group_size=6)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_array_has_all_vectors_times_all_codes(name, monkeypatch):
    """In three training steps, with initialization and revival, and in eval mode."""
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
