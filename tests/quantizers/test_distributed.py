"""Two processes have equal codebooks, which equal that of one process with the whole batch."""

import contextlib

import pytest
import torch
import torch.distributed as dist

from tests.helpers.family import FAMILY, assert_same_state, example, parts_of, vector
from tests.helpers.two_ranks import on_two_ranks
from vqlab.quantizers import GaussianQuantizer, VectorQuantizer

WORLD, STEPS, SAMPLES = 2, 20, 16
RATE = 0.05  # a larger rate amplifies rounding differences
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}  # rounding of float32 sums in two parts
MEMBERS = FAMILY | {
    "vector-data-rotation": lambda: vector(init="data", estimator="rotation"),
    "vector-one-channel": lambda: VectorQuantizer(12, 1, revive_after=2),
    "vector-more-codes-than-rows": lambda: VectorQuantizer(500, 4, revive_after=2),
}

VECTORS = [name for name in MEMBERS if name.startswith("vector")]


def build():
    """Build all quantizers before the process group exists, as Lightning does."""
    members = {}
    for seed, name in enumerate(MEMBERS):
        torch.manual_seed(seed)  # equal networks on all ranks, as under DDP
        members[name] = MEMBERS[name]()
        members[name].auto_update = False
    return members


def batch(quantizer, step):
    """Clusters that move, so that codes are revived; in multiples of 1/4096, whose sums are exact."""
    noise = example(quantizer, step, batch=SAMPLES).flatten(2)
    centers = torch.randn(5, noise.shape[1], generator=torch.Generator().manual_seed(1000 + step // 4))
    place = torch.arange(SAMPLES)[:, None] + torch.arange(noise.shape[2])
    z = 0.75 * centers[place % 5].movedim(2, 1) + 0.125 * noise
    return (4096 * z).round().div(4096).view_as(example(quantizer, step, batch=SAMPLES))


def of_rank(rows, rank, world, interleaved=True):
    return rows[rank::world] if interleaved else rows.chunk(world)[rank]


def means_over_ranks(loss, z, parameters, world):
    """Return the gradients under DDP; that of the input is not averaged."""
    own, *gradients = torch.autograd.grad(loss, [z, *parameters], materialize_grads=True)
    if world > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)
    return own / world, [gradient / world for gradient in gradients]


def train(name, quantizer, rank=0, world=1, interleaved=True):
    """Train 20 steps with averaged gradients; return the state and the results of the last batch."""
    parameters, revived = list(quantizer.parameters()), 0
    for step in range(STEPS):
        z = of_rank(batch(quantizer, step), rank, world, interleaved).clone().requires_grad_()
        if any(word in name for word in ("gaussian", "gumbel", "loss")):
            quantizer.sample_index = of_rank(step * SAMPLES + torch.arange(SAMPLES), rank, world, interleaved)
        out = quantizer(z)
        own, gradients = means_over_ranks(out.loss + (out.quantized - z).square().mean(), z, parameters, world)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
        if out.stats is not None:
            revived += sum(rows.sum().item() for _, rows in quantizer.update(out.stats))
    last = {"indices": out.indices, "quantized": out.quantized.detach(), "gradient": own}
    terms = {"loss": out.loss.detach(), **out.terms}
    return {"state": quantizer.state_dict(), "revived": revived, "last": last, "terms": terms}


@contextlib.contextmanager
def counted():
    """Record the collectives, by kind and shape."""
    calls, reduce, gather = [], dist.all_reduce, dist.all_gather
    dist.all_reduce = lambda x, *args: (calls.append(("all_reduce", tuple(x.shape))), reduce(x, *args))
    dist.all_gather = lambda out, x: (calls.append(("all_gather", tuple(x.shape))), gather(out, x))
    yield calls
    dist.all_reduce, dist.all_gather = reduce, gather


def collectives(quantizer, batches):
    """The collectives of each forward and each update: [(forward, update) of each batch]."""
    steps = []
    for z in batches:
        with counted() as forward:
            out = quantizer(z)
        with counted() as update:
            if out.stats is not None:
                quantizer.update(out.stats)
        steps.append((forward, update))
    return steps


def odd_batches(quantizer, rank):
    """Make all vectors of rank 1 equal, repeated, or far away."""
    z = [batch(quantizer, step) for step in range(4)]
    if rank == 1:
        z = [torch.zeros_like(z[0]), z[1][:1].expand_as(z[1]), 1e6 * z[2], z[3][:8].repeat(2, *[1] * (z[3].ndim - 1))]
    return z


def after_nan(quantizer, rank):
    """Return the state after a first batch with NaN on rank 1, and three more batches."""
    for step in range(4):
        z = of_rank(batch(quantizer, step), rank, WORLD).clone()
        if step == 0 and rank == 1:
            z[0] = float("nan")
        out = quantizer(z)
        if out.stats is not None and step > 0:
            quantizer.update(out.stats)
    return quantizer.state_dict()


def on_rank(rank, interleaved, concatenated, usual, odd, spoilt):
    result = {
        "interleaved": {name: train(name, q, rank, WORLD) for name, q in interleaved.items()},
        "concatenated": {name: train(name, concatenated[name], rank, WORLD, interleaved=False) for name in VECTORS},
        "usual": {n: collectives(q, [batch(q, step) for step in range(4)]) for n, q in usual.items()},
        "odd": {n: collectives(q, odd_batches(q, rank)) for n, q in odd.items()},
    }
    # As on a GPU, the sums of the second rank have other rounding errors.
    exact, eigh = torch.Tensor.index_add, torch.linalg.eigh
    torch.Tensor.index_add = lambda *args: exact(*args) * (1 + 3e-7 * rank)
    torch.linalg.eigh = lambda x: eigh(x * (1 + 3e-7 * rank))
    result["spoilt"] = {name: after_nan(q, rank) for name, q in spoilt.items()}
    torch.Tensor.index_add, torch.linalg.eigh = exact, eigh
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    members = [build() for _ in range(5)]
    return on_two_ranks(lambda rank: on_rank(rank, *members), tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def single():
    return {name: train(name, quantizer) for name, quantizer in build().items()}


@pytest.mark.parametrize(
    ("name", "split"), [*((n, "interleaved") for n in MEMBERS), *((n, "concatenated") for n in VECTORS)]
)
def test_two_ranks_are_bit_equal_and_close_to_one_process(ranks, single, name, split):
    both, one = [rank[split][name] for rank in ranks], single[name]
    assert_same_state(*(rank["state"] for rank in both))
    torch.testing.assert_close(both[0]["state"], one["state"], **TOLERANCE)
    assert both[0]["revived"] == one["revived"]
    for key, expected in one["last"].items():
        parts = [rank["last"][key] for rank in both]
        found = torch.stack(parts, 1).flatten(0, 1) if split == "interleaved" else torch.cat(parts)
        torch.testing.assert_close(found, expected, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")
    for key, expected in one["terms"].items():
        found = torch.stack([rank["terms"][key] for rank in both]).mean()
        torch.testing.assert_close(found, expected, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")


def test_batches_cause_revival(single):
    revived = {name: member["revived"] for name, member in single.items()}
    often = {name for name, count in revived.items() if count > 5}
    assert {"vector", "residual-vector", "product-vector", "residual-product-vector", "multi-scale-vector"} <= often
    assert revived["vector-unrevived"] == revived["fsq"] == 0


@pytest.mark.parametrize("name", FAMILY)
def test_update_needs_one_sum_and_two_gathers(ranks, name):
    parts = parts_of(FAMILY[name]())
    books = [part for part in parts if isinstance(part, VectorQuantizer)]
    gathers = 2 * any(getattr(part, "revive_after", None) is not None for part in books)
    counted = any(isinstance(part, VectorQuantizer | GaussianQuantizer) for part in parts)
    steps = [[[kind for kind, _ in calls] for calls in step] for step in ranks[0]["usual"][name]]
    for _, update in steps:
        assert sorted(update) == ["all_gather"] * gathers + ["all_reduce"] * counted
    # After the initialization a forward needs only the mean probabilities of each entropy.
    entropies = sum(getattr(part, "num_groups", getattr(part, "entropy_weight", 0) > 0) for part in parts)
    entropies *= len(getattr(FAMILY[name](), "scales", [1]))
    assert all(forward == ["all_reduce"] * entropies for forward, _ in steps[1:])


@pytest.mark.parametrize("name", FAMILY)
def test_collectives_do_not_depend_on_the_data(ranks, name):
    usual, odd = ([rank[key][name] for rank in ranks] for key in ("usual", "odd"))
    assert odd[0] == odd[1] == usual[0] == usual[1]


@pytest.mark.parametrize("name", FAMILY)
def test_ranks_are_bit_equal_after_nan_and_rounding_errors_on_one_rank(ranks, name):
    states = [rank["spoilt"][name] for rank in ranks]
    assert_same_state(*states)
    assert all(value.isfinite().all() for value in states[0].values())
    assert all(value for key, value in states[0].items() if key.endswith("first_batch.seen"))
