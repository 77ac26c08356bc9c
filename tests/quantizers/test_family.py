"""The contract of every quantizer and composite: values, shapes, state, inputs that are not finite, graphs."""

import copy
import io
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
from vqlab.quantizers.base import DataInit
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.serialization import from_config, to_config

STEPS = 5


def assert_same_output(first, second):
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.quantized, second.quantized)
    assert torch.equal(first.loss, second.loss)
    assert first.terms.keys() == second.terms.keys()
    assert all(torch.equal(first.terms[name], second.terms[name]) for name in first.terms)


def index_axes(quantizer):
    """The axes of ``indices`` behind the spatial ones."""
    if isinstance(quantizer, MultiScaleQuantizer):
        return index_axes(quantizer.quantizer)
    if isinstance(quantizer, (ResidualQuantizer, ProductQuantizer)):
        return (len(quantizer.parts), *index_axes(quantizer.quantizers[0]))
    return ()


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_decode_gives_the_quantized_bits(name):
    quantizer = trained(name)
    if name != "gumbel-mixture":  # which hands a mixture of codes to the decoder while it trains
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


@pytest.mark.parametrize("name", FAMILY)
def test_eval_changes_nothing_and_a_training_forward_neither(name):
    quantizer = trained(name)
    before = state(quantizer)
    out = quantizer(example(quantizer, 1))
    assert_same_state(before, state(quantizer))
    quantizer.eval()
    for part in parts_of(quantizer):
        part.auto_update = True
    assert quantizer(example(quantizer, 1)).stats is None
    assert_same_state(before, state(quantizer))
    assert not any(term.requires_grad for term in out.terms.values())
    for value in (out.loss, *out.terms.values()):
        assert value.shape == ()
        assert value.dtype == torch.float32


@pytest.mark.parametrize("name", FAMILY)
def test_used_alone_it_updates_itself(name):
    alone, by_hand = FAMILY[name](), FAMILY[name]()
    by_hand.load_state_dict(alone.state_dict())
    by_hand.auto_update = False
    for step in range(3):
        z = example(alone, step)
        alone.sample_index = by_hand.sample_index = torch.arange(len(z))
        alone(z)
        out = by_hand(z)
        if out.stats is not None:
            by_hand.update(out.stats)
    assert_same_state(state(alone), state(by_hand))


@pytest.mark.parametrize("name", FAMILY)
def test_two_halves_of_a_batch_give_the_update_of_the_whole(name):
    whole, halves = trained(name), trained(name)
    for step in range(3):
        z, index = example(whole, step), torch.arange(6) + 6 * step
        whole.sample_index = index
        stats = [whole(z).stats]
        for half, its in zip(z.chunk(2), index.chunk(2), strict=True):
            halves.sample_index = its
            stats.append(halves(half).stats)
        if stats[0] is None:
            assert stats == [None] * 3
            return
        revived = whole.update(stats[0])
        again = halves.update(stats[1] + stats[2])
        assert [rows.tolist() for _, rows in revived] == [rows.tolist() for _, rows in again]
    torch.testing.assert_close(whole.state_dict(), halves.state_dict(), rtol=1e-5, atol=1e-6)


# --- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_saving_and_loading_changes_no_bit(name):
    straight, cut = FAMILY[name](), FAMILY[name]()
    cut.load_state_dict(straight.state_dict())
    straight.auto_update = cut.auto_update = False
    for step in range(STEPS):
        indices = train_step(cut, example(cut, step), step)
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    resumed = FAMILY[name]()
    resumed.auto_update = False
    resumed.load_state_dict(torch.load(file, weights_only=True))
    copied = pickle.loads(pickle.dumps(cut))
    for step in range(2 * STEPS):
        indices = train_step(straight, example(straight, step), step)
        if step >= STEPS:
            for other in (resumed, copied):
                assert torch.equal(train_step(other, example(straight, step), step), indices)
    assert_same_state(state(straight), state(resumed))
    assert_same_state(state(straight), state(copied))
    z = example(straight, 99)
    assert_same_output(straight(z.clone()), resumed(z))
    assert_same_output(straight.eval()(z), resumed.eval()(z))


@pytest.mark.parametrize("name", FAMILY)
def test_a_config_builds_the_same_quantizer(name):
    torch.manual_seed(1)
    quantizer = FAMILY[name]()
    spec = json.loads(json.dumps(to_config(quantizer)))
    torch.manual_seed(1)
    again = from_config(spec)
    assert to_config(again) == spec
    assert str(again) == str(quantizer)
    assert_same_state(state(again), state(quantizer))
    attributes = ("num_embeddings", "embedding_dim", "num_codebooks", "index_dims", "soft", "estimate")
    assert all(getattr(again, a) == getattr(quantizer, a) for a in attributes)
    for step in range(2):
        for module in (quantizer, again):
            module.sample_index = torch.arange(6)
        assert_same_output(quantizer(example(quantizer, step)), again(example(again, step)))


@pytest.mark.parametrize("name", FAMILY)
def test_the_parts_differ_from_each_other(name):
    """Each part has random numbers of its own."""
    seeds = [p.init_args["seed"] for p in parts_of(FAMILY[name]()) if len(parts_of(p)) == 1 and "seed" in p.init_args]
    assert len(set(seeds)) == len(seeds), seeds


# --- any shape -------------------------------------------------------------------------------------------------------


def layouts(z):
    """The same numbers in other strides."""
    yield z.movedim(1, -1).contiguous().movedim(-1, 1)
    yield z.repeat_interleave(2, dim=1)[:, ::2]
    yield z.transpose(0, -1).contiguous().transpose(0, -1)


def check_any_shape(quantizer, z, index_shape):
    quantizer.auto_update = False
    for step in range(2):
        z = (z.detach() + step).requires_grad_()
        quantizer.sample_index = torch.arange(len(z)) + step
        out = quantizer(z)
        (out.quantized.square().sum() + out.loss).backward()
        assert out.quantized.shape == z.shape
        assert out.quantized.dtype == z.dtype
        assert out.indices.dtype == torch.int64
        assert out.indices.shape == index_shape
        dropped = any(getattr(part, "dropout", 0) for part in parts_of(quantizer))
        assert out.indices.min() >= (-1 if dropped else 0)
        assert out.indices.max() < quantizer.num_embeddings
        assert z.grad.isfinite().all()
        for parameter in quantizer.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()
        assert torch.equal(quantizer.encode(z), out.indices)
        if out.stats is not None:
            quantizer.update(out.stats)
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    quantizer.eval()
    z = z.detach()
    out = quantizer(z)
    assert out.indices.min() >= 0
    assert torch.equal(quantizer.encode(z), out.indices)
    assert torch.equal(quantizer.decode(out.indices), out.quantized)
    for other in layouts(z):
        again = quantizer(other)
        assert torch.equal(again.indices, out.indices)
        assert torch.equal(again.quantized, out.quantized)
        torch.testing.assert_close(again.loss, out.loss)


@given(
    name=st.sampled_from(sorted(FAMILY.keys() - PYRAMID.keys())),
    batch=st.integers(1, 3),
    spatial=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_small_shape(name, batch, spatial, seed):
    """With 12 codes and as few as one vector."""
    quantizer = FAMILY[name]()
    z = rand(batch, quantizer.embedding_dim, *spatial, seed=seed)
    check_any_shape(quantizer, z, (batch, *spatial, *index_axes(quantizer)))


@given(
    name=st.sampled_from(sorted(PYRAMID)),
    batch=st.integers(1, 2),
    scales=st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True).map(sorted),
    spatial_dims=st.integers(1, 3),
    num_phi=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_small_pyramid(name, batch, scales, spatial_dims, num_phi, seed):
    inner = FAMILY[name]().quantizer
    quantizer = MultiScaleQuantizer(inner, scales, num_phi, spatial_dims)
    z = rand(batch, inner.embedding_dim, *[scales[-1]] * spatial_dims, seed=seed)
    length = sum(edge**spatial_dims for edge in scales)
    check_any_shape(quantizer, z, (batch, length, *index_axes(inner)))


# --- inputs that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_a_first_batch_with_nan_does_not_initialise(name):
    """The loss or the output is NaN; the codebook is initialised from the next finite batch."""
    quantizer = FAMILY[name]()
    quantizer.auto_update = False
    before = state(quantizer)
    z = example(quantizer, 0)
    z[0] = float("nan")
    quantizer(z)
    assert_same_state(before, state(quantizer))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FAMILY)
def test_a_row_that_is_not_finite_updates_no_codebook_and_shows(name, bad):
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


@pytest.mark.parametrize("scale", [1e4, 1e-30, 0.0])
@pytest.mark.parametrize("name", FAMILY)
def test_extreme_inputs_give_finite_gradients(name, scale):
    quantizer = trained(name)
    z = (scale * example(quantizer, 1)).requires_grad_()
    out = quantizer(z)
    (out.quantized.sum() + out.loss).backward()
    for value in (out.quantized, out.loss, z.grad, *(weight.grad for weight in quantizer.parameters())):
        assert value is None or value.isfinite().all()


# --- codes of other types, graphs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_integers_of_any_type_are_codes(name):
    quantizer = trained(name).eval()
    codes = quantizer.encode(example(quantizer, 1))
    small = torch.uint8 if quantizer.num_embeddings <= 256 else torch.int16
    for same in (codes.numpy(), codes.tolist(), codes.int(), codes.to(small), codes.numpy().astype(np.uint16)):
        assert torch.equal(quantizer.decode(same), quantizer.decode(codes))


class Verb(nn.Module):
    def __init__(self, quantizer, verb):
        super().__init__()
        self.quantizer, self.verb = quantizer, verb

    def forward(self, x):
        return getattr(self.quantizer, self.verb)(x)


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated; the ONNX export with dynamo=False starts with it
@pytest.mark.parametrize("name", GRAPHS)
def test_traced_and_exported_graphs_agree_for_any_batch_and_hold_plain_operators(name):
    quantizer = trained(name).eval()
    inputs = {"encode": (example(quantizer, 1), example(quantizer, 2, batch=11))}
    inputs["decode"] = tuple(quantizer.encode(z) for z in inputs["encode"])
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


# --- the flag of data-dependent initialisation -----------------------------------------------------------------------


def loaded_in_a_model(flag):
    source, target = nn.Sequential(nn.Linear(1, 1), flag), nn.Sequential(nn.Linear(1, 1), DataInit(not flag.awaited))
    target.load_state_dict(source.state_dict())
    return target[1]


@pytest.mark.parametrize("duplicate", [loaded_in_a_model, copy.deepcopy, lambda flag: pickle.loads(pickle.dumps(flag))])
@pytest.mark.parametrize("initial", ["awaited", "not awaited", "done"])
def test_a_copied_or_loaded_flag_agrees_with_its_buffer(duplicate, initial):
    flag = DataInit(awaited=initial != "not awaited")
    if initial == "done":
        flag.done()
    other = duplicate(flag)
    assert other.awaited is flag.awaited is (initial == "awaited")
    assert bool(other.seen) is not other.awaited
    other.done()
    assert flag.awaited is (initial == "awaited")
    other.load_state_dict(flag.state_dict())
    assert other.awaited is flag.awaited
