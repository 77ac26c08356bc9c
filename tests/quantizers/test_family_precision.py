"""Half precision, autocast and memory of the family."""

import itertools

import pytest
import torch
from torch import nn

from tests.helpers.family import FAMILY, Largest, example, rand, train_step, trained
from vqlab.quantizers import search
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.quantizers.sim_vq import SimVQ
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


CASTS = {
    "bfloat16": lambda module: module.bfloat16(),
    "half": lambda module: module.half(),
    "to": lambda module: module.to(torch.device("cpu"), torch.bfloat16),
    "inside": lambda module: nn.Sequential(module, nn.Linear(2, 2)).half()[0],
}


@pytest.mark.parametrize(
    ("name", "cast"),
    [
        *((name, "bfloat16") for name in FAMILY),
        *itertools.product(["vector", "product-gumbel"], ["half", "to", "inside"]),
    ],
)
def test_a_quantizer_cast_to_half_precision_stays_float32(name, cast):
    quantizer, plain = trained(name), trained(name)
    assert CASTS[cast](quantizer) is quantizer
    states = quantizer.state_dict(), plain.state_dict()
    for key in states[1]:
        assert states[0][key].dtype == states[1][key].dtype
        assert torch.equal(states[0][key], states[1][key])
    z = example(quantizer, 1).bfloat16()
    for step in range(2):
        assert torch.equal(train_step(quantizer, z, step), train_step(plain, z, step))
    assert_equals_float32(quantizer.eval()(z), plain.eval()(z.float()), z.dtype)


@pytest.mark.parametrize("name", FAMILY)
def test_double_precision_is_kept(name):
    quantizer = trained(name).double().eval()
    assert all(value.dtype != torch.float32 for value in quantizer.state_dict().values())
    z = example(quantizer, 1).double()
    out = quantizer(z)
    assert out.quantized.dtype == out.loss.dtype == torch.float64
    torch.testing.assert_close(quantizer.decode(out.indices).double(), out.quantized, rtol=1e-6, atol=1e-6)


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


# --- memory ----------------------------------------------------------------------------------------------------------

CODES, DIM, ROWS, BLOCK = 96, 4, 384, 2**11
# 2^g probabilities of a group of g bits take the place of the K of a codebook
BOUNDED = {
    "vector": (CODES, lambda: VectorQuantizer(CODES, DIM, revive_after=2)),
    "vector-loss": (CODES, lambda: VectorQuantizer(CODES, DIM, codebook_update="loss", distance="cosine")),
    "sim-vq": (CODES, lambda: SimVQ(CODES, DIM)),
    "ibq": (CODES, lambda: IBQ(CODES, DIM)),
    "gumbel": (CODES, lambda: GumbelQuantizer(CODES, DIM)),
    "gumbel-mixture": (CODES, lambda: GumbelQuantizer(CODES, DIM, straight_through=False)),
    "lookup-free": (2**6, lambda: LookupFree(12, group_size=6)),
    "binary-spherical": (2**6, lambda: BinarySpherical(6)),
    "residual-vector": (CODES, lambda: ResidualQuantizer(VectorQuantizer(CODES, DIM), 2)),
    "residual-gumbel": (CODES, lambda: ResidualQuantizer(GumbelQuantizer(CODES, DIM), 2)),
    "product-ibq": (CODES, lambda: ProductQuantizer(IBQ(CODES, DIM), 2)),
    "multi-scale-vector": (CODES, lambda: MultiScaleQuantizer(VectorQuantizer(CODES, DIM), [1, 8])),
}


def largest(quantizer, sampled):
    """Of a training step and of an evaluation."""
    shape = (6, 8, 8) if isinstance(quantizer, MultiScaleQuantizer) else (ROWS,)
    z = rand(shape[0], quantizer.embedding_dim, *shape[1:], seed=1).requires_grad_()
    quantizer.auto_update = False
    with Largest() as seen:
        for _ in range(3):  # the first sets the codebook up, the third revives
            quantizer.sample_index = torch.arange(len(z)) if sampled else None
            out = quantizer(z)
            (out.loss + out.quantized.square().sum()).backward()
            if out.stats is not None:
                quantizer.update(out.stats)
        quantizer.eval()(z)
        with torch.no_grad():
            quantizer(z)
    return seen.elements


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("name", BOUNDED)
def test_no_array_of_all_vectors_times_all_codes(name, sampled, monkeypatch):
    width, build = BOUNDED[name]
    monkeypatch.setattr(search, "CHUNK_ELEMENTS", BLOCK)
    monkeypatch.setattr(search, "SCORES", {"cpu": BLOCK})
    monkeypatch.setattr(search, "CODES", {"cpu": 64})
    assert largest(build(), sampled) < ROWS * width / 2


@pytest.mark.parametrize("name", ["vector", "ibq", "gumbel", "lookup-free"])
def test_this_check_sees_such_an_array(name):
    """With blocks as large as they are by default, these few vectors are one block."""
    width, build = BOUNDED[name]
    assert largest(build(), sampled=True) >= ROWS * width
