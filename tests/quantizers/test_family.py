"""The contract of all quantizers: values, shapes, state, inputs that are not finite, graphs."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.family import (
    FAMILY,
    GRAPHS,
    PYRAMID,
    assert_same_state,
    example,
    parts_of,
    rand,
    state,
    train_step,
    trained,
)
from vqlab.serialization import from_config, to_config

STEPS = 5


def assert_same_output(first, second):
    values = ([out.indices, out.quantized, out.loss, out.terms] for out in (first, second))
    torch.testing.assert_close(*values, rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILY)
def test_decode_is_bit_equal_to_forward(name):
    quantizer = trained(name)
    if name != "gumbel-mixture" and "gaussian" not in name:  # in training a mixture of codes, a sample
        for step in range(4):
            out = quantizer(example(quantizer, step).requires_grad_())
            assert torch.equal(quantizer.decode(out.indices), out.quantized)
            if out.stats is not None:
                quantizer.update(out.stats)
    quantizer.eval()
    z = example(quantizer, 9)
    out = quantizer(z)
    assert torch.equal(quantizer.decode(out.indices), out.quantized)
    assert torch.equal(quantizer.encode(z), out.indices)
    with torch.no_grad():
        assert_same_output(quantizer(z), out)
    for same in (out.indices.numpy().astype(np.uint16), out.indices.tolist(), out.indices.int()):
        assert torch.equal(quantizer.decode(same), out.quantized)


@pytest.mark.parametrize("name", FAMILY)
def test_only_training_with_auto_update_changes_the_state(name):
    quantizer, alone = trained(name), trained(name)
    before = state(quantizer)
    z = example(quantizer, 1)
    alone.auto_update = True
    alone.sample_index = quantizer.sample_index = torch.arange(len(z))
    out = quantizer(z)
    assert_same_state(before, state(quantizer))
    alone(z)
    if out.stats is not None:
        quantizer.update(out.stats)
    assert_same_state(state(alone), state(quantizer))
    alone.eval()
    assert alone(z).stats is None
    assert_same_state(state(alone), state(quantizer))
    assert all(v.shape == () and v.dtype == torch.float32 for v in (out.loss, *out.terms.values()))
    assert not any(term.requires_grad for term in out.terms.values())


@pytest.mark.parametrize("name", FAMILY)
def test_two_half_batches_give_the_update_of_the_whole_batch(name):
    whole, halves = trained(name), trained(name)
    for step in range(3):
        z, index = example(whole, step), torch.arange(6) + 6 * step
        whole.sample_index = index
        stats = [whole(z).stats]
        for half, half_index in zip(z.chunk(2), index.chunk(2), strict=True):
            halves.sample_index = half_index
            stats.append(halves(half).stats)
        if stats[0] is None:
            assert stats == [None] * 3
            return
        revived = whole.update(stats[0])
        again = halves.update(stats[1] + stats[2])
        assert [rows.tolist() for _, rows in revived] == [rows.tolist() for _, rows in again]
    torch.testing.assert_close(whole.state_dict(), halves.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_resuming_and_copying_are_bit_equal(name):
    straight, cut = FAMILY[name](), FAMILY[name]()
    cut.load_state_dict(straight.state_dict())
    straight.auto_update = cut.auto_update = False
    for step in range(STEPS):
        train_step(cut, example(cut, step), step)
    torch.save(cut.state_dict(), "state.pt")
    resumed = FAMILY[name]()
    resumed.auto_update = False
    resumed.load_state_dict(torch.load("state.pt", weights_only=True))
    copied = pickle.loads(pickle.dumps(cut))
    for step in range(2 * STEPS):
        indices = train_step(straight, example(straight, step), step)
        if step >= STEPS:
            for other in (resumed, copied):
                assert torch.equal(train_step(other, example(straight, step), step), indices)
    assert_same_state(state(straight), state(resumed))
    assert_same_state(state(straight), state(copied))
    z = example(straight, 99)
    assert_same_output(straight.eval()(z), resumed.eval()(z))


@pytest.mark.parametrize("name", FAMILY)
def test_config_rebuilds_an_equal_quantizer(name):
    torch.manual_seed(1)
    quantizer = FAMILY[name]()
    spec = json.loads(json.dumps(to_config(quantizer)))
    torch.manual_seed(1)
    again = from_config(spec)
    assert to_config(again) == spec
    assert str(again) == str(quantizer)
    assert_same_state(state(again), state(quantizer))
    for step in range(2):
        for module in (quantizer, again):
            module.sample_index = torch.arange(6)
        assert_same_output(quantizer(example(quantizer, step)), again(example(again, step)))


@given(
    name=st.sampled_from(sorted(FAMILY)),
    batch=st.integers(1, 3),
    spatial=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_small_inputs_of_any_shape(name, batch, spatial, seed):
    quantizer = FAMILY[name]()
    quantizer.auto_update = False
    if name in PYRAMID:
        spatial = [quantizer.scales[-1]] * quantizer.spatial_dims
    for step in range(2):
        z = (rand(batch, quantizer.embedding_dim, *spatial, seed=seed) + step).requires_grad_()
        quantizer.sample_index = torch.arange(batch) + step
        out = quantizer(z)
        (out.quantized.square().sum() + out.loss).backward()
        assert out.quantized.shape == z.shape
        assert out.indices.shape == (batch, *quantizer.code_shape(spatial))
        dropped = any(getattr(part, "dropout", 0) for part in parts_of(quantizer))
        assert out.indices.min() >= (-1 if dropped else 0)
        assert out.indices.max() < quantizer.num_embeddings
        assert z.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in quantizer.parameters())
        if out.stats is not None:
            quantizer.update(out.stats)
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    out = quantizer.eval()(z)
    assert out.indices.min() >= 0
    assert torch.equal(quantizer.decode(out.indices), out.quantized)
    for other in (z.movedim(1, -1).contiguous().movedim(-1, 1), z.repeat_interleave(2, dim=1)[:, ::2]):
        assert torch.equal(quantizer(other).quantized, out.quantized)  # the same numbers in other strides


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FAMILY)
def test_rows_that_are_not_finite_change_the_loss_but_no_codebook(name, bad):
    quantizer = trained(name)
    quantizer.auto_update = True
    z = example(quantizer, 1)
    z[(0, 0, *[0] * (z.ndim - 2))] = bad
    z.requires_grad_()
    out = quantizer(z)
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    if bad == float("inf") and "fsq" in name:  # tanh is 1
        return
    assert not (out.loss.isfinite() and out.quantized.isfinite().all())
    if out.loss.requires_grad:
        out.loss.backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in quantizer.parameters())
        assert z.grad is None or z.grad[1:].isfinite().all()


@pytest.mark.parametrize("scale", [1e4, 1e-30, 0.0])
@pytest.mark.parametrize("name", FAMILY)
def test_gradients_of_extreme_inputs_are_finite(name, scale):
    quantizer = trained(name)
    z = (scale * example(quantizer, 1)).requires_grad_()
    out = quantizer(z)
    (out.quantized.sum() + out.loss).backward()
    for value in (out.quantized, out.loss, z.grad, *(weight.grad for weight in quantizer.parameters())):
        assert value is None or value.isfinite().all()


class Method(nn.Module):
    def __init__(self, quantizer, name):
        super().__init__()
        self.quantizer, self.name = quantizer, name

    def forward(self, x):
        return getattr(self.quantizer, self.name)(x)


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, but the ONNX export with dynamo=False uses it
@pytest.mark.parametrize("name", GRAPHS)
def test_traced_and_exported_graphs_use_plain_operators_for_any_batch(name):
    quantizer = trained(name).eval()
    inputs = {"encode": (example(quantizer, 1), example(quantizer, 2, batch=11))}
    inputs["decode"] = tuple(quantizer.encode(z) for z in inputs["encode"])
    for method, (first, second) in inputs.items():
        module = Method(quantizer, method)
        traced = torch.jit.trace(module, first, check_trace=False)
        exported = torch.export.export(module, (first,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for graph in (traced, exported.module()):
            assert all(torch.equal(graph(x), module(x)) for x in (first, second))
        called = {str(node.target).split(".")[0] for node in exported.graph.nodes if node.op == "call_function"}
        assert called & {"vqlab", "mkldnn"} == set()
