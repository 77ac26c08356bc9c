"""Composite: equal parts, of which each has its own seed, codebook and statistics."""

import pytest
import torch

from vqlab.nn.anneal import Anneal
from vqlab.quantizers.composite import SEED_STRIDE, Composite, another
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree
from vqlab.quantizers.product import ProductQuantizer
from vqlab.quantizers.residual import ResidualQuantizer
from vqlab.quantizers.sim_vq import SimVQ
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import from_config, to_config

MAKERS = {
    "vector": lambda: VectorQuantizer(7, 3, 0.5, "loss", 0.9, "rotation", "euclidean", "data", None, seed=11),
    "default seed": lambda: VectorQuantizer(7, 3),
    "sim_vq": lambda: SimVQ(7, 3, 0.1, "rotation", "random", seed=5),
    "ibq": lambda: IBQ(7, 3, 0.1, 0.2, 0.3, seed=5),
    "gumbel": lambda: GumbelQuantizer(7, 3, 0.1, Anneal(1.0, 0.1, 9, kind="exponential"), False, seed=5),
    "product": lambda: ProductQuantizer(VectorQuantizer(7, 3, seed=4), 2),
    "residual": lambda: ResidualQuantizer(ProductQuantizer(SimVQ(7, 3, seed=4), 2), 3, dropout=0.5, seed=8),
    "fsq": lambda: FSQ([5, 4]),
    "lookup_free": lambda: LookupFree(3, 0.2, 0.3, 0.4, 0.5, 6),
    "binary_spherical": lambda: BinarySpherical(3, 0.2, 0.3, 0.4, 0.5, 6),
}


def flat(spec, path=()):
    """Every entry of a nested spec by its path."""
    if not isinstance(spec, dict):
        return {path: spec}
    return {key: value for name, part in spec.items() for key, value in flat(part, (*path, name)).items()}


def seeds_and_codebooks(quantizer):
    """Of every quantizer inside that draws something, what it drew from."""
    parts = [part for part in quantizer.modules() if isinstance(part, (VectorQuantizer, SimVQ))]
    codebooks = [part.frozen if isinstance(part, SimVQ) else part.codebook for part in parts]
    return [part.init_args["seed"] for part in parts], codebooks


def assert_all_differ(quantizer, num):
    seeds, codebooks = seeds_and_codebooks(quantizer)
    assert len(set(seeds)) == num
    assert len(torch.stack(codebooks).unique(dim=0)) == num


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("number", [1, 3])
def test_another_has_other_seeds_and_nothing_else(make, number):
    quantizer = make()
    before = to_config(quantizer)
    other = another(quantizer, number)
    assert other is not quantizer
    assert to_config(quantizer) == before
    first, second = flat(before), flat(to_config(other))
    assert first.keys() == second.keys()
    seeds = [path for path in first if path[-1] == "seed"]
    assert len(seeds) == str(before).count("'seed'")
    for path, value in first.items():
        if path in seeds:
            assert (second[path] - value) % SEED_STRIDE == 0  # a run has fewer steps than two seeds lie apart
            assert second[path] != value
        else:
            assert second[path] == value, path


def test_every_number_gives_another_seed():
    quantizer = VectorQuantizer(7, 3, seed=2)
    assert len({another(quantizer, number).seed for number in range(10)}) == 10


@pytest.mark.parametrize("composite", [ResidualQuantizer, ProductQuantizer])
@pytest.mark.parametrize("part", [VectorQuantizer(16, 3, seed=3), SimVQ(16, 3, seed=3)])
def test_parts(composite, part):
    whole = composite(part, 4)
    assert isinstance(whole, Composite)
    assert whole.quantizers[0] is part
    assert [type(other) for other in whole.quantizers] == [type(part)] * 4
    assert (whole.num_embeddings, whole.num_codebooks, whole.index_dims) == (16, 4, 1)
    assert whole.auto_update
    assert not any(other.auto_update for other in whole.quantizers)
    assert_all_differ(whole, 4)


def test_what_passes_the_gradient_is_taken_from_the_parts():
    rotation = VectorQuantizer(4, 2, estimator="rotation")
    for composite in (ResidualQuantizer, ProductQuantizer):
        assert composite(rotation, 2).estimate is rotation.estimate
        assert not composite(rotation, 2).soft
        assert composite(IBQ(4, 2), 2).soft
        assert composite(composite(IBQ(4, 2), 2), 2).soft


def test_made_again_it_has_the_same_codebooks():
    first = ResidualQuantizer(SimVQ(8, 3, seed=6), 3)
    again = from_config(to_config(first))
    (seeds, codebooks), (seeds_again, codebooks_again) = seeds_and_codebooks(first), seeds_and_codebooks(again)
    assert seeds == seeds_again == [6, 6 + SEED_STRIDE, 6 + 2 * SEED_STRIDE]
    assert torch.equal(torch.stack(codebooks), torch.stack(codebooks_again))


@pytest.mark.parametrize("composite", [ResidualQuantizer, ProductQuantizer])
def test_each_part_learns_from_its_own_statistics(composite):
    torch.manual_seed(1)
    whole = composite(VectorQuantizer(8, 4, ema_decay=0.5, revive_after=2), 3)
    whole.auto_update = False
    for _ in range(5):
        out = whole(torch.randn(40, whole.embedding_dim))
        alone = [another(whole.quantizers[0], 0) for _ in range(3)]
        for copy, part, stats in zip(alone, whole.quantizers, out.stats.unbind(), strict=True):
            copy.load_state_dict(part.state_dict())
            copy.seed = part.seed
            copy.commit(stats)
        revivals = whole.update(out.stats)
        assert len(revivals) == 3
        for copy, part, revival in zip(alone, whole.quantizers, revivals, strict=True):
            assert revival.codebook is part.codebook
            for name, value in copy.state_dict().items():
                assert torch.equal(value, part.state_dict()[name]), name
    assert [part.steps.item() for part in whole.quantizers] == [5, 5, 5]


@pytest.mark.parametrize("num", [1, 2])
def test_alone_it_updates_itself_once_per_training_batch(num):
    whole = ResidualQuantizer(VectorQuantizer(8, 4), num)
    for step in range(3):
        whole(torch.randn(40, 4))
        assert [part.steps.item() for part in whole.quantizers] == [step + 1] * num
        assert whole.steps == step + 1
    whole.eval()(torch.randn(40, 4))
    assert whole.steps == 3


def test_codebooks_are_those_of_the_parts_by_number():
    whole = ProductQuantizer(ResidualQuantizer(VectorQuantizer(7, 3), 2), 3)
    tables = whole.codebooks()
    assert list(tables) == [f"codebook.{group}.{level}" for group in range(3) for level in range(2)]
    for name, codes in tables.items():
        _, group, level = name.split(".")
        assert torch.equal(codes, whole.quantizers[int(group)].quantizers[int(level)].codebook)
    one = ProductQuantizer(FSQ([3, 2]), 2).codebooks()["codebook.1"]
    assert torch.equal(one, FSQ([3, 2]).lookup(torch.arange(6)))


@pytest.mark.parametrize("inner", [ProductQuantizer, ResidualQuantizer])
@pytest.mark.parametrize("outer", [ProductQuantizer, ResidualQuantizer])
def test_parts_of_parts_differ(outer, inner):
    assert_all_differ(outer(inner(SimVQ(8, 3), 2), 3), 6)


def test_parts_made_from_null_differ():
    assert_all_differ(ResidualQuantizer(ProductQuantizer(None, 2), 2), 4)
