"""Codes that come in from outside, rows that are no numbers, and graphs for other runtimes: the whole family."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.family import FAMILY, PYRAMID, example, trained
from tests.helpers.refusal import refused
from vqlab.quantizers.product import ProductQuantizer
from vqlab.quantizers.residual import ResidualQuantizer
from vqlab.quantizers.vector import VectorQuantizer


def codes_of(name):
    quantizer = trained(name).eval()
    return quantizer, quantizer.encode(example(quantizer, 1))


@pytest.mark.parametrize("name", FAMILY)
def test_a_code_out_of_range_is_refused_by_name(name):
    quantizer, codes = codes_of(name)
    highest = quantizer.num_embeddings
    for wrong in (highest, 10**9, -2, -1):
        spoilt = codes.clone()
        spoilt.view(-1)[-1] = wrong
        if wrong == -1 and "residual" in name:
            continue  # a depth that dropout left out
        with refused(f"code {wrong} ", f"0 .. {highest - 1}"):
            quantizer.decode(spoilt)
    assert quantizer.decode(codes).isfinite().all()


def test_minus_one_is_a_depth_left_out_and_no_single_code():
    vector = VectorQuantizer(16, 4)
    residual = ResidualQuantizer(ProductQuantizer(vector, 2), 2).eval()
    codes = torch.zeros(1, 3, 2, 2, dtype=torch.int64)  # (B, L, Q, G)
    codes[:, :, 1] = -1
    assert torch.equal(residual.decode(codes), residual.decode(codes[:, :, :1]))
    codes[:, :, 1, 0] = 3  # one group of a depth alone
    with refused("code -1 "):
        residual.decode(codes)


@pytest.mark.parametrize("name", FAMILY)
def test_integers_of_any_kind_are_codes_and_nothing_else(name):
    quantizer, codes = codes_of(name)
    expected = quantizer.decode(codes)
    small = torch.uint8 if quantizer.num_embeddings <= 256 else torch.int16
    for same in (codes.numpy(), codes.tolist(), codes.int(), codes.to(small), codes.numpy().astype(np.uint16)):
        assert torch.equal(quantizer.decode(same), expected)
    for wrong in (codes.float(), codes.numpy() + 0.5, codes > 0, "codes", None):
        with refused("codes must be"):
            quantizer.decode(wrong)
    if quantizer.num_codebooks > 1 and name not in PYRAMID:
        with refused("codes"):
            quantizer.decode(codes.repeat_interleave(2, -quantizer.index_dims))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FAMILY)
def test_a_row_that_is_not_finite_teaches_no_codebook_and_shows(name, bad):
    quantizer = trained(name)
    quantizer.auto_update = True
    z = example(quantizer, 1)
    z[(0, 0, *[0] * (z.ndim - 2))] = bad
    z.requires_grad_()
    out = quantizer(z)
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    if bad == float("inf") and "fsq" in name:  # tanh of it is 1
        return
    assert not (out.loss.isfinite() and out.quantized.isfinite().all())
    if out.loss.requires_grad:
        out.loss.backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in quantizer.parameters())
        assert z.grad is None or z.grad[1:].isfinite().all()


def test_statistics_are_those_of_the_finite_rows():
    whole, finite = (VectorQuantizer(12, 4, init="uniform", revive_after=1) for _ in range(2))
    whole.auto_update = finite.auto_update = False
    z = torch.randn(40, 4)
    index = torch.arange(40)
    whole.sample_index, finite.sample_index = index, index[1:]
    good = finite(z[1:]).stats
    z[0] = float("inf")
    stats = whole(z).stats
    torch.testing.assert_close((stats.counts, stats.sums, stats.lots), (good.counts, good.sums, good.lots))
    assert torch.equal(stats.candidates, good.candidates)


def test_decode_gives_the_quantized_bits_until_the_next_update():
    """As README says: in eval mode, and in training with ``auto_update=False``."""
    quantizer = VectorQuantizer(12, 4)
    z = torch.randn(6, 4, 3)
    quantizer.auto_update = False
    for step in range(3):
        out = quantizer(z + step)
        assert torch.equal(quantizer.decode(out.indices), out.quantized)
        quantizer.update(out.stats)
        assert not torch.equal(quantizer.decode(out.indices), out.quantized)
    out = quantizer.eval()(z)
    assert torch.equal(quantizer.decode(out.indices), out.quantized)


class Verb(nn.Module):
    def __init__(self, quantizer, verb):
        super().__init__()
        self.quantizer, self.verb = quantizer, verb

    def forward(self, x):
        return getattr(self.quantizer, self.verb)(x)


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated; the ONNX export with dynamo=False starts with it
@pytest.mark.parametrize("name", FAMILY)
def test_traced_and_exported_graphs_agree_for_any_batch_and_hold_plain_operators(name):
    quantizer, codes = codes_of(name)
    inputs = {"encode": (example(quantizer, 1), example(quantizer, 2, batch=11))}
    inputs["decode"] = (codes, quantizer.encode(inputs["encode"][1]))
    for verb, (first, second) in inputs.items():
        module = Verb(quantizer, verb)
        traced = torch.jit.trace(module, first, check_trace=False)
        exported = torch.export.export(module, (first,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for graph in (traced, exported.module()):
            assert all(torch.equal(graph(x), module(x)) for x in (first, second))
        called = {str(node.target).split(".")[0] for node in exported.graph.nodes if node.op == "call_function"}
        assert called & {"vqlab", "mkldnn"} == set()


def test_a_forward_on_the_meta_device_has_the_shape():
    quantizer = trained("vector").to("meta")
    out = quantizer(torch.empty(2, 4, 3, 3, device="meta"))
    assert out.quantized.shape == (2, 4, 3, 3)
