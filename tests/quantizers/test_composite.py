"""Composite and ProductQuantizer: parts with seeds, codebooks and statistics of their own."""

import pytest
import torch

from tests.helpers.family import FAMILY, PYRAMID, assert_same_state, rand
from vqlab.quantizers.composite import SEED_STRIDE, ProductQuantizer, ResidualQuantizer, another
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import LookupFree
from vqlab.quantizers.sim_vq import SimVQ
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import to_config

G, D = 3, 4


def flat(config, path=()):
    """Every entry of a nested config by its path."""
    if not isinstance(config, dict):
        return {path: config}
    return {key: value for name, part in config.items() for key, value in flat(part, (*path, name)).items()}


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in PYRAMID])
@pytest.mark.parametrize("number", [1, 3])
def test_another_has_other_seeds_and_nothing_else(name, number):
    quantizer = FAMILY[name]()
    before = to_config(quantizer)
    first, second = flat(before), flat(to_config(another(quantizer, number)))
    assert to_config(quantizer) == before
    assert first.keys() == second.keys()
    for path, value in first.items():
        if path[-1] == "seed":
            assert (second[path] - value) % SEED_STRIDE == 0  # more than a run has steps
            assert second[path] != value
        else:
            assert second[path] == value, path


@pytest.mark.parametrize(
    "build",
    [
        lambda: ResidualQuantizer(VectorQuantizer(16, 3, seed=3), 6),
        lambda: ProductQuantizer(SimVQ(16, 3, seed=3), 6),
        lambda: ProductQuantizer(ProductQuantizer(SimVQ(8, 3), 2), 3),
        lambda: ProductQuantizer(ResidualQuantizer(SimVQ(8, 3), 2), 3),
        lambda: ResidualQuantizer(ProductQuantizer(SimVQ(8, 3), 2), 3),
        lambda: ResidualQuantizer(ResidualQuantizer(SimVQ(8, 3), 2), 3),
        lambda: ResidualQuantizer(ProductQuantizer(None, 2), 3),
    ],
)
def test_all_codebooks_differ(build):
    whole = build()
    assert len(torch.stack(list(whole.codebooks().values())).unique(dim=0)) == whole.num_codebooks == 6


@pytest.mark.parametrize("composite", [ResidualQuantizer, ProductQuantizer])
def test_attributes_of_the_parts(composite):
    rotation = VectorQuantizer(16, 2, estimator="rotation")
    whole = composite(rotation, 4)
    assert whole.quantizers[0] is rotation
    assert [type(part) for part in whole.quantizers] == [VectorQuantizer] * 4
    assert (whole.num_embeddings, whole.num_codebooks, whole.index_dims) == (16, 4, 1)
    assert [part.auto_update for part in (whole, *whole.quantizers)] == [True, *[False] * 4]
    assert whole.estimate is rotation.estimate
    assert not whole.soft
    assert composite(composite(IBQ(4, 2), 2), 2).soft


@pytest.mark.parametrize("composite", [ResidualQuantizer, ProductQuantizer])
def test_each_part_is_updated_with_its_own_statistics(composite):
    whole = composite(VectorQuantizer(8, 4, ema_decay=0.5, revive_after=2), 3)
    whole.auto_update = False
    for step in range(5):
        out = whole(rand(40, whole.embedding_dim, seed=step))
        alone = [another(whole.quantizers[0], 0) for _ in range(3)]
        for copy, part, stats in zip(alone, whole.quantizers, out.stats.unbind(), strict=True):
            copy.load_state_dict(part.state_dict())
            copy.seed = part.seed
            copy.commit(stats)
        revivals = whole.update(out.stats)
        assert [revival.codebook for revival in revivals] == [part.codebook for part in whole.quantizers]
        for copy, part in zip(alone, whole.quantizers, strict=True):
            assert_same_state(copy.state_dict(), part.state_dict())
    assert [part.steps.item() for part in whole.quantizers] == [5, 5, 5]


def test_codebooks_are_those_of_the_parts_by_number():
    whole = ProductQuantizer(ResidualQuantizer(VectorQuantizer(7, 3), 2), 3)
    tables = whole.codebooks()
    assert list(tables) == [f"codebook.{group}.{level}" for group in range(3) for level in range(2)]
    assert torch.equal(tables["codebook.2.1"], whole.quantizers[2].quantizers[1].codebook)
    assert torch.equal(ProductQuantizer(FSQ([3, 2]), 2).codebooks()["codebook.1"], FSQ([3, 2]).lookup(torch.arange(6)))


def test_the_noise_of_a_group_is_its_own():
    quantizer = ProductQuantizer(GumbelQuantizer(9, D), G)
    for part in quantizer.quantizers[1:]:
        part.load_state_dict(quantizer.quantizers[0].state_dict())
    quantizer.sample_index = torch.arange(200)
    indices = quantizer(torch.ones(200, G * D)).indices
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (indices[:, a] == indices[:, b]).float().mean() < 0.6


@pytest.mark.parametrize(
    ("part", "gain"),
    [
        (VectorQuantizer(9, 2), 1.0),
        (VectorQuantizer(9, 2, distance="cosine"), None),
        (LookupFree(2), 2.0),
        (FSQ([5, 3]), [4.0, 2.0] * G),
    ],
)
def test_the_residual_gain_of_a_product_is_that_of_its_groups(part, gain):
    found = ProductQuantizer(part, G).residual_gain
    assert (found.tolist() if isinstance(found, torch.Tensor) else found) == gain
