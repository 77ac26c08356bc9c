"""Two processes against one: the same codebook on both, and the one of a single process with the whole batch.

All cases share one pair of processes.
"""

import pytest
import torch
import torch.distributed as dist

from tests.helpers.family import FAMILY, example, parts_of
from tests.helpers.two_ranks import on_two_ranks
from vqlab.metrics.codes.usage import CodebookUsage
from vqlab.quantizers.vector import VectorQuantizer

WORLD, STEPS, ROWS, CODES, DIM = 2, 20, 128, 24, 6
CASES = {
    "ema": {"codebook_update": "ema"},
    "cosine": {"codebook_update": "ema", "distance": "cosine"},
    "loss": {"codebook_update": "loss"},
    "data": {"codebook_update": "ema", "init": "data", "estimator": "rotation"},
    "uniform": {"codebook_update": "ema", "init": "uniform"},
    "narrow": {"codebook_update": "ema", "embedding_dim": 1},
    "few": {"codebook_update": "ema", "num_embeddings": 500},
}
SAMPLES, RATE = 16, 0.05  # for the family; at a rate of 0.3 gradient descent makes rounding differences grow
# float32 sums taken in two parts round otherwise than in one; nothing else differs.
TOLERANCE = 1e-6


def build():
    """The quantizers; called before the process group exists, as Lightning does."""
    common = {"num_embeddings": CODES, "embedding_dim": DIM, "revive_after": 2}
    return {name: VectorQuantizer(**{**common, **kwargs}) for name, kwargs in CASES.items()}


def batch(step, dim):
    """A batch whose clusters wander, so that codes die and are revived."""
    generator = torch.Generator().manual_seed(step)
    centers = 3 * torch.randn(5, dim, generator=torch.Generator().manual_seed(step // 4))
    return centers[torch.arange(ROWS) % 5] + 0.5 * torch.randn(ROWS, dim, generator=generator)


def deal(rows, rank, world, interleaved):
    return rows[rank::world] if interleaved else rows.chunk(world)[rank]


def train(quantizers, usages, rank=0, world=1, interleaved=False):
    """20 optimizer steps each; returns the states, the number of revivals and the usage metrics."""
    revived = dict.fromkeys(quantizers, 0)
    for name, quantizer in quantizers.items():
        quantizer.auto_update = False
        for step in range(STEPS):
            out = quantizer(deal(batch(step, quantizer.embedding_dim), rank, world, interleaved))
            if quantizer.codebook_update == "loss":
                (grad,) = torch.autograd.grad(out.loss, quantizer.codebook)
                if world > 1:
                    dist.all_reduce(grad)
                with torch.no_grad():
                    quantizer.codebook -= 5 * grad / world
            revived[name] += sum(rows.sum().item() for _, rows in quantizer.update(out.stats))
            usages[name].update(out.indices)
    states = {name: {k: v.clone() for k, v in q.state_dict().items()} for name, q in quantizers.items()}
    metrics = {name: {k: v.item() for k, v in usage.compute().items()} for name, usage in usages.items()}
    return {"states": states, "revived": revived, "metrics": metrics}


def metrics_of(quantizers):
    return {name: CodebookUsage(quantizer.num_embeddings) for name, quantizer in quantizers.items()}


def build_family():
    members = {}
    for seed, name in enumerate(FAMILY):
        torch.manual_seed(seed)  # networks are the same on all ranks, as DDP makes them
        members[name] = FAMILY[name]()
        members[name].auto_update = False
    return members


def maps(quantizer, step):
    """Wandering clusters, as ``batch`` has them, for any member; in multiples of 1/4096, whose sums are exact."""
    noise = example(quantizer, step, batch=SAMPLES).flatten(2)
    centers = torch.randn(5, noise.shape[1], generator=torch.Generator().manual_seed(1000 + step // 4))
    place = torch.arange(SAMPLES)[:, None] + torch.arange(noise.shape[2])
    z = 0.75 * centers[place % 5].movedim(2, 1) + 0.125 * noise
    return (4096 * z).round().div(4096).view_as(example(quantizer, step, batch=SAMPLES))


def means_over_ranks(loss, z, parameters, world):
    """The gradients that DDP computes; that of the input is left on its rank."""
    own, *gradients = torch.autograd.grad(loss, [z, *parameters], allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    if world > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)
    return own / world, [gradient / world for gradient in gradients]


def train_member(name, quantizer, rank=0, world=1):
    """20 steps with averaged gradients; returns the state and what the last batch gave."""
    parameters, revived = list(quantizer.parameters()), 0
    for step in range(STEPS):
        z = deal(maps(quantizer, step), rank, world, interleaved=True).clone().requires_grad_()
        if "gumbel" in name or "loss" in name:
            quantizer.sample_index = deal(step * SAMPLES + torch.arange(SAMPLES), rank, world, interleaved=True)
        out = quantizer(z)
        own, gradients = means_over_ranks(out.loss + (out.quantized - z).square().mean(), z, parameters, world)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
        if out.stats is not None:
            revived += sum(rows.sum().item() for _, rows in quantizer.update(out.stats))
    last = {"indices": out.indices, "quantized": out.quantized.detach(), "gradient": own}
    figures = {"loss": out.loss.detach(), **out.terms}
    return {"state": quantizer.state_dict(), "revived": revived, "last": last, "figures": figures}


class Counted:
    """Record the collectives, by kind and shape."""

    def __init__(self):
        self.calls = []
        self.reduce, self.gather = dist.all_reduce, dist.all_gather

    def __enter__(self):
        dist.all_reduce = lambda x, *args: (self.calls.append(("all_reduce", tuple(x.shape))), self.reduce(x, *args))
        dist.all_gather = lambda out, x: (self.calls.append(("all_gather", tuple(x.shape))), self.gather(out, x))
        return self.calls

    def __exit__(self, *_):
        dist.all_reduce, dist.all_gather = self.reduce, self.gather


def collectives(quantizer, batches):
    """What each forward and each update sends: [(forward, update) of each batch]."""
    steps = []
    for z in batches:
        with Counted() as forward:
            out = quantizer(z)
        with Counted() as update:
            if out.stats is not None:
                quantizer.update(out.stats)
        steps.append((forward, update))
    return steps


def odd_batches(quantizer, rank):
    """Of one rank all vectors are equal, or exist twice, or are far away; on the other they are as usual."""
    z = [maps(quantizer, step) for step in range(4)]
    if rank == 1:
        z = [torch.zeros_like(z[0]), z[1][:1].expand_as(z[1]), 1e6 * z[2], z[3][:8].repeat(2, *[1] * (z[3].ndim - 1))]
    return z


def after_nan(quantizer, rank):
    """The state after a first batch with a NaN on one rank alone, and two batches more."""
    for step in range(3):
        z = deal(maps(quantizer, step), rank, WORLD, interleaved=True).clone()
        if step == 0 and rank == 1:
            z[0] = float("nan")
        out = quantizer(z)
        if out.stats is not None and step > 0:
            quantizer.update(out.stats)
    return quantizer.state_dict()


def on_rank(rank, families, plain, usages, halves):
    members, usual, odd, spoilt = families
    concatenated, interleaved, rounded = plain
    result = {
        "concatenated": train(concatenated, usages[0], rank, WORLD),
        "interleaved": train(interleaved, usages[1], rank, WORLD, interleaved=True),
    }
    # A GPU adds in any order: here the second rank's sums come out otherwise in the last bits.
    exact, eigh = torch.Tensor.index_add, torch.linalg.eigh
    torch.Tensor.index_add = lambda *args: exact(*args) * (1 + 3e-7 * rank)
    torch.linalg.eigh = lambda x: eigh(x * (1 + 3e-7 * rank))
    result["rounded"] = train(rounded, usages[2], rank, WORLD)
    result["spoilt"] = {name: after_nan(quantizer, rank) for name, quantizer in spoilt.items()}
    torch.Tensor.index_add, torch.linalg.eigh = exact, eigh
    result["family"] = {name: train_member(name, quantizer, rank, WORLD) for name, quantizer in members.items()}
    result["usual"] = {n: collectives(q, [maps(q, step) for step in range(4)]) for n, q in usual.items()}
    result["odd"] = {n: collectives(q, odd_batches(q, rank)) for n, q in odd.items()}
    halves.update(torch.arange(4) + 4 * rank)
    result["halves"] = {k: v.item() for k, v in halves.compute().items()}
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    # All is built before the process group exists, as Lightning does.
    families, plain, halves = [build_family() for _ in range(4)], [build() for _ in range(3)], CodebookUsage(8)
    usages = [metrics_of(quantizers) for quantizers in plain]
    return on_two_ranks(lambda rank: on_rank(rank, families, plain, usages, halves), tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def single():
    quantizers = build()
    return train(quantizers, metrics_of(quantizers))


@pytest.mark.parametrize("dealing", ["concatenated", "interleaved", "rounded"])
@pytest.mark.parametrize("case", CASES)
def test_ranks_are_equal_to_the_last_bit(ranks, case, dealing):
    first, second = (rank[dealing]["states"][case] for rank in ranks)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert first["steps"] == STEPS


@pytest.mark.parametrize("dealing", ["concatenated", "interleaved"])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process_with_the_whole_batch(ranks, single, case, dealing):
    assert single["revived"][case] > 5  # the case does exercise revival
    assert ranks[0][dealing]["revived"][case] == single["revived"][case]
    torch.testing.assert_close(
        ranks[0][dealing]["states"][case], single["states"][case], rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("dealing", ["concatenated", "interleaved"])
@pytest.mark.parametrize("case", CASES)
def test_usage_is_counted_over_ranks(ranks, single, case, dealing):
    for rank in ranks:
        assert rank[dealing]["metrics"][case] == pytest.approx(single["metrics"][case], rel=1e-6)


def test_ranks_with_different_halves_of_the_codes_use_all(ranks):
    for rank in ranks:
        assert rank["halves"] == pytest.approx({"perplexity": 8.0, "codebook_usage": 1.0})


# --- the whole family ------------------------------------------------------------------------------------------------


def assert_bit_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def alone():
    return {name: train_member(name, quantizer) for name, quantizer in build_family().items()}


@pytest.mark.parametrize("name", FAMILY)
def test_members_are_equal_on_all_ranks_to_the_last_bit(ranks, name):
    assert_bit_equal(*(rank["family"][name]["state"] for rank in ranks))


@pytest.mark.parametrize("name", FAMILY)
def test_members_on_two_ranks_equal_those_on_one(ranks, alone, name):
    close = {"rtol": TOLERANCE, "atol": TOLERANCE}
    both, one = [rank["family"][name] for rank in ranks], alone[name]
    torch.testing.assert_close(both[0]["state"], one["state"], **close)
    assert both[0]["revived"] == one["revived"]
    for key, expected in one["last"].items():  # interleaved: the ranks take turns
        found = torch.stack([rank["last"][key] for rank in both], 1).flatten(0, 1)
        torch.testing.assert_close(found, expected, **close, msg=lambda text, key=key: f"{key}: {text}")
    for key, expected in one["figures"].items():
        found = torch.stack([rank["figures"][key] for rank in both]).mean()
        torch.testing.assert_close(found, expected, **close, msg=lambda text, key=key: f"{key}: {text}")


def test_the_family_does_exercise_revival(alone):
    revived = {name: member["revived"] for name, member in alone.items()}
    mended = {name for name, count in revived.items() if count > 5}
    assert {"vector", "residual-vector", "product-vector", "residual-product-vector", "multi-scale-vector"} <= mended
    assert revived["vector-unrevived"] == revived["fsq"] == 0


@pytest.mark.parametrize("name", FAMILY)
def test_an_update_is_one_sum_and_two_gathers_however_many_the_parts(ranks, name):
    parts = parts_of(FAMILY[name]())
    books = [part for part in parts if isinstance(part, VectorQuantizer)]
    gathers = 2 * any(part.revive_after is not None for part in books)
    steps = [[[kind for kind, _ in calls] for calls in step] for step in ranks[0]["usual"][name]]
    for _, update in steps:
        assert sorted(update) == ["all_gather"] * gathers + ["all_reduce"] * bool(books)
    # once the codebook is set up, a forward sends the mean probabilities of each entropy, and nothing else
    entropies = sum(getattr(part, "num_groups", getattr(part, "entropy_weight", 0) > 0) for part in parts)
    entropies *= len(getattr(FAMILY[name](), "scales", [1]))
    assert all(forward == ["all_reduce"] * entropies for forward, _ in steps[1:])


@pytest.mark.parametrize("name", FAMILY)
def test_no_collective_depends_on_the_data(ranks, name):
    usual, odd = ([rank[key][name] for rank in ranks] for key in ("usual", "odd"))
    assert usual[0] == usual[1]
    assert odd[0] == odd[1] == usual[0]


@pytest.mark.parametrize("name", FAMILY)
def test_a_nan_on_one_rank_and_other_rounding_leave_the_ranks_alike(ranks, name):
    states = [rank["spoilt"][name] for rank in ranks]
    assert_bit_equal(*states)
    assert all(value.isfinite().all() for value in states[0].values())
    assert all(value for key, value in states[0].items() if key.endswith("first_batch.seen"))
