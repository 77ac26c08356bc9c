"""What every quantizer and composite must do: values, shapes, state, errors."""

import io
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.family import FAMILY, PYRAMID, example, parts_of, rand, train_step, trained
from vqlab.errors import UserError
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.quantizers.product import ProductQuantizer
from vqlab.quantizers.residual import ResidualQuantizer
from vqlab.quantizers.stats import CodeStats
from vqlab.serialization import from_config, to_config

STEPS = 5


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


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
def test_two_halves_of_a_batch_teach_what_the_batch_does(name):
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


@pytest.mark.parametrize("name", FAMILY)
def test_the_order_of_the_first_batch_changes_nothing(name):
    """Two processes sum in another order than one. Remainders have a mean of almost 0, which is all rounding."""
    for seed in range(6):
        first, second = FAMILY[name](), FAMILY[name]()
        second.load_state_dict(first.state_dict())
        first.auto_update = second.auto_update = False
        z = (64 * example(first, seed, batch=16)).round() / 64  # whose own sums no order rounds
        first(z)
        second(z[torch.arange(16).view(-1, 2).T.flatten()])
        torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=1e-6, atol=1e-6)


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
def test_a_spec_builds_the_same_thing(name):
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
    """A part that is made like the first must not draw what the first draws."""
    seeds = [p.init_args["seed"] for p in parts_of(FAMILY[name]()) if len(parts_of(p)) == 1 and "seed" in p.init_args]
    assert len(set(seeds)) == len(seeds), seeds


def test_every_position_of_a_pyramid_draws_for_itself():
    """All codes are equally likely, so that the noise alone decides; 126 draws of 1000 repeat 8 times on average."""
    quantizer = MultiScaleQuantizer(GumbelQuantizer(1000, 4), scales=[1, 2, 4])
    torch.nn.init.zeros_(quantizer.quantizer.logits.weight)
    torch.nn.init.zeros_(quantizer.quantizer.logits.bias)
    quantizer.sample_index = torch.arange(6)
    assert len(quantizer(torch.zeros(6, 4, 4, 4)).indices.unique()) > 105


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


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("training", [True, False])
def test_unfit_input_is_refused_by_name(name, training):
    quantizer = trained(name).train(training)
    z = example(quantizer, 1)
    with pytest.raises(UserError, match="embedding_dim"):
        quantizer(z.repeat_interleave(2, dim=1))
    with pytest.raises(UserError, match="empty"):
        quantizer(z[:0])
    if isinstance(quantizer, MultiScaleQuantizer):
        for wrong in (z[..., :-1], z[..., 0], z[..., None]):
            with pytest.raises(UserError, match="scales"):
                quantizer(wrong)
    else:
        with pytest.raises(UserError, match="empty"):
            quantizer(z[..., :0])
        with pytest.raises(UserError, match="embedding_dim"):
            quantizer(z[0, 0])


@pytest.mark.parametrize("name", FAMILY)
def test_a_first_batch_of_nan_is_not_learnt_from(name):
    """The loss or the output shows it to the caller; the codebook waits for a batch of numbers."""
    quantizer = FAMILY[name]()
    quantizer.auto_update = False
    before = state(quantizer)
    z = example(quantizer, 0)
    z[0] = float("nan")
    quantizer(z)
    assert_same_state(before, state(quantizer))


def test_statistics_stack_and_unbind():
    parts = [CodeStats(rand(3, seed=n), rand(3, 2, seed=n), rand(4, 2, seed=n), rand(4, seed=n)) for n in range(3)]
    fields = ("counts", "sums", "candidates", "lots")
    for part, again in zip(parts, CodeStats.stack(parts).unbind(), strict=True):
        assert all(torch.equal(getattr(part, name), getattr(again, name)) for name in fields)
    joined = (CodeStats.stack(parts) + CodeStats.stack(parts[::-1])).unbind()
    for n, again in enumerate(joined):
        expected = parts[n] + parts[2 - n]
        assert all(torch.equal(getattr(expected, name), getattr(again, name)) for name in fields)
