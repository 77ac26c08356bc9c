"""Composite quantizers: seeds and statistics of the parts, scaling and dropout of residuals."""

import itertools
import math

import pytest
import torch

from tests.helpers.family import assert_same_state, rand, rand64
from vqlab import FSQ, BinarySpherical, LookupFree, SimVQ, VectorQuantizer
from vqlab.errors import UserError
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer, another
from vqlab.quantizers.search import nearest_sum


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
def test_all_codebooks_are_different(build):
    whole = build()
    assert len(torch.stack(list(whole.codebooks().values())).unique(dim=0)) == whole.num_codebooks == 6


@pytest.mark.parametrize("composite", [ResidualQuantizer, ProductQuantizer])
def test_each_part_has_separate_statistics(composite):
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
        assert [codebook for codebook, _ in revivals] == [part.codebook for part in whole.quantizers]
        for copy, part in zip(alone, whole.quantizers, strict=True):
            assert_same_state(copy.state_dict(), part.state_dict())
    assert [part.steps.item() for part in whole.quantizers] == [5, 5, 5]


def test_codebooks_of_the_parts_are_numbered():
    whole = ProductQuantizer(ResidualQuantizer(VectorQuantizer(7, 3), 2), 3)
    tables = whole.codebooks()
    assert list(tables) == [f"codebook.{group}.{level}" for group in range(3) for level in range(2)]
    assert torch.equal(tables["codebook.2.1"], whole.quantizers[2].quantizers[1].codebook)
    assert torch.equal(ProductQuantizer(FSQ([3, 2]), 2).codebooks()["codebook.1"], FSQ([3, 2]).lookup(torch.arange(6)))


K, D = 8, 3


def make(levels, **kwargs):
    """Build float64 levels with constant codebooks of decreasing scale."""
    part = VectorQuantizer(K, D, 0.3, "loss", init="uniform", revive_after=None)
    quantizer = ResidualQuantizer(part, levels, **kwargs).double()
    for level, part in enumerate(quantizer.quantizers):
        part.codebook.data.copy_(rand64(K, D, seed=100 + level) / 2**level)
    quantizer.auto_update = False
    return quantizer


def depths_of(quantizer, steps):
    """Return the number of levels that each training step uses."""
    z = torch.zeros(1, quantizer.embedding_dim)
    return [int((quantizer(z).indices >= 0).sum()) for _ in range(steps)]


def rms_by_level(quantizer, rows):
    """Return the root mean square error (Q, D) of the first 1, 2, ... levels."""
    indices = quantizer.eval().quantize(rows).indices
    levels = range(1, len(quantizer.quantizers) + 1)
    return torch.stack([(rows - quantizer.lookup(indices[:, :n])).square().mean(0).sqrt() for n in levels])


@pytest.mark.parametrize(
    ("part", "limit", "gain"),
    [
        (FSQ([5, 3, 7, 9]), 1.0, torch.tensor([4.0, 2.0, 6.0, 8.0])),
        (LookupFree(4), 2.0, torch.full((4,), 2.0)),
        (BinarySpherical(4), 1.0, torch.full((4,), 2.0)),  # twice the codes' 1 / sqrt(4)
    ],
)
def test_fixed_codebooks_are_scaled_to_the_residual(part, limit, gain):
    uniform = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(10))
    rms = rms_by_level(ResidualQuantizer(part, 4), limit * (2 * uniform - 1))
    torch.testing.assert_close(rms[:-1] / rms[1:], gain.expand(3, 4), rtol=0.05, atol=0)


@pytest.mark.parametrize(("dropout", "seed"), [(0.6, 0), (1.0, 3), (0.25, 1)])
def test_dropout_depths_are_uniform(dropout, seed):
    steps, levels = 400, 4
    depths = depths_of(ResidualQuantizer(FSQ([3]), levels, dropout, seed), steps)
    for depth in range(1, levels + 1):
        probability = dropout / levels + (1 - dropout) * (depth == levels)
        deviation = math.sqrt(steps * probability * (1 - probability))
        assert abs(depths.count(depth) - steps * probability) < 4 * deviation
    repeated = sum(a == b for a, b in itertools.pairwise(depths)) / steps
    assert repeated == pytest.approx(sum((depths.count(d) / steps) ** 2 for d in range(5)), abs=0.1)


def test_dropped_levels_are_trained_but_not_in_the_output():
    quantizer, whole = make(4, dropout=1.0, seed=2), make(4)
    seen = set()
    for step in range(12):
        z = rand64(6, D, 5, seed=step)
        out, expected = quantizer(z), whole(z)
        depth = int((out.indices[0, 0] >= 0).sum())
        seen.add(depth)
        assert torch.equal(out.indices[..., :depth], expected.indices[..., :depth])
        assert (out.indices[..., depth:] == -1).all()  # at every position
        assert torch.equal(quantizer.decode(out.indices), out.quantized)
        torch.testing.assert_close(out.quantized, whole.decode(expected.indices[..., :depth]))
        assert torch.equal(out.loss, expected.loss)
        assert torch.equal(out.stats.counts, expected.stats.counts)
        out.loss.backward()
        assert quantizer.quantizers[3].codebook.grad.abs().sum() > 0
        assert quantizer.steps == step
        quantizer.update(out.stats)
    assert seen == {1, 2, 3, 4}


def test_dropout_depth_depends_on_the_saved_step():
    first, second, other = (ResidualQuantizer(FSQ([3, 3]), 6, dropout=0.9, seed=seed) for seed in (4, 4, 5))
    depths_of(first, 7)
    second.load_state_dict(first.state_dict())
    other.steps.fill_(7)
    expected = depths_of(first, 30)
    assert depths_of(second, 30) == expected != depths_of(other, 30)
    assert len(set(expected)) > 3
    assert depths_of(ResidualQuantizer(FSQ([3]), 4), 20) == [4] * 20
    assert (make(4, dropout=1.0).eval()(rand(6, D, seed=1)).indices >= 0).all()


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_each_residual_level_reduces_the_error(levels):
    part = FSQ([levels])
    low, high = part.bound(torch.tensor([[-99.0], [99.0]]))
    rows = low + (high - low) * torch.rand(20_000, 1, generator=torch.Generator().manual_seed(11))
    rms = rms_by_level(ResidualQuantizer(part, 4), rows)
    assert (rms[:-1] / rms[1:] > 0.9 * (levels - 1)).all()
    rms = rms_by_level(ResidualQuantizer(ResidualQuantizer(FSQ([5]), 2), 2), rows)
    assert rms[1] < rms[0] / 10


def beam_codes(books, z, width):
    """Return the codes of one vector by a beam search over lists."""
    partial = [((), z)]
    for book in books:
        longer = [((*path, k), rest - code) for path, rest in partial for k, code in enumerate(book)]
        partial = sorted(longer, key=lambda one: one[1].square().sum().item())[:width]
    return list(partial[0][0])


@pytest.mark.parametrize("width", [1, 2, 5])
def test_beam_keeps_the_best_partial_sums(width):
    books, z = [rand64(7, 4, seed=seed, scale=2 / (1 + seed)) for seed in range(4)], rand64(50, 4, seed=9)
    assert nearest_sum(z, books, width).tolist() == [beam_codes(books, row, width) for row in z]


def test_wide_beam_finds_the_nearest_of_all_sums():
    books, z = [rand64(6, 3, seed=seed) for seed in range(3)], rand64(40, 3, seed=9)
    every = list(itertools.product(range(6), repeat=3))
    sums = torch.stack([sum(book[k] for book, k in zip(books, path, strict=True)) for path in every])
    assert nearest_sum(z, books, 36).tolist() == [list(every[k]) for k in torch.cdist(z, sums).argmin(1)]


def test_beam_lowers_the_error_in_training_and_evaluation():
    errors = {}
    for beam in (1, 8):
        quantizer = ResidualQuantizer(VectorQuantizer(16, 6, revive_after=None), 4, beam=beam)
        for step in range(20):
            quantizer(rand(256, 6, seed=step))
        z = rand(512, 6, seed=100)
        errors[beam] = [(quantizer.train(mode)(z).quantized - z).square().mean().item() for mode in (True, False)]
    assert errors[8][0] < 0.9 * errors[1][0]
    assert errors[8][1] < 0.9 * errors[1][1]


@pytest.mark.parametrize("beam", [1, 3])
def test_fewer_depths_are_searched_and_decoded(beam):
    quantizer = ResidualQuantizer(VectorQuantizer(16, 6), 4, beam=beam)
    quantizer(rand(256, 6, seed=0))
    quantizer.eval().depths = 2
    z = rand(50, 6, 3, seed=1)
    out = quantizer(z)
    assert out.indices.shape == (50, 3, 2)
    assert torch.equal(quantizer.decode(out.indices), out.quantized)
    books = [part.codebook for part in quantizer.quantizers[:2]]
    assert torch.equal(out.indices, nearest_sum(z.movedim(1, -1).reshape(-1, 6), books, beam).view(50, 3, 2))
    assert quantizer.code_shape((3,)) == (3, 2)


@pytest.mark.parametrize(
    "part", [FSQ([5, 4]), SimVQ(8, 3), ProductQuantizer(None, 2)], ids=lambda part: type(part).__name__
)
def test_beam_needs_codebooks_to_search(part):
    with pytest.raises(UserError, match=f"beam must be 1 for a {type(part).__name__}, got 4"):
        ResidualQuantizer(part, 2, beam=4)


def test_beam_is_exact_far_from_the_origin():
    books = [3000 + rand(16, 8, seed=0), rand(16, 8, seed=1, scale=0.1)]
    z = 3000 + rand(200, 8, seed=2)
    assert torch.equal(nearest_sum(z, books, 4), nearest_sum(z.double(), [book.double() for book in books], 4))
