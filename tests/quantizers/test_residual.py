"""ResidualQuantizer against the remainders worked out one by one in float64."""

import itertools
import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.quantizers.estimators import rotation_trick
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree
from vqlab.quantizers.product import ProductQuantizer
from vqlab.quantizers.residual import ResidualQuantizer
from vqlab.quantizers.vector import VectorQuantizer

K, D, WEIGHT = 8, 3, 0.3
COSINE = VectorQuantizer(K, D, distance="cosine")


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def to_rows(z):
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def make(levels, rule="loss", estimator="ste", **kwargs):
    """Codebooks that get smaller by level and stay as they are, in float64."""
    part = VectorQuantizer(K, D, WEIGHT, rule, estimator=estimator, init="uniform", revive_after=None)
    quantizer = ResidualQuantizer(part, levels, **kwargs).double()
    for level, part in enumerate(quantizer.quantizers):
        part.codebook.data.copy_(rand(K, D, seed=100 + level) / 2**level)
    quantizer.auto_update = False
    return quantizer


def by_hand(rows, codebooks):
    """The remainders r_0, r_1, ... and the indices, vector by vector."""
    remainders, indices = [rows], []
    for codes in codebooks:
        chosen = [min(range(K), key=(row - codes).square().sum(1).tolist().__getitem__) for row in remainders[-1]]
        indices.append(torch.tensor(chosen))
        remainders.append(remainders[-1] - codes[chosen])
    return remainders, torch.stack(indices, 1)


def codebooks_of(quantizer):
    return [part.codebook.detach() for part in quantizer.quantizers]


def depths_of(quantizer, steps):
    """How many levels each of ``steps`` training steps used."""
    z = torch.zeros(1, quantizer.embedding_dim)
    return [int((quantizer(z).indices >= 0).sum()) for _ in range(steps)]


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("shape", [(6,), (4, 5), (2, 3, 2)])
def test_each_level_quantizes_what_is_left_over(levels, shape):
    quantizer = make(levels)
    z = rand(shape[0], D, *shape[1:], seed=1)
    remainders, indices = by_hand(to_rows(z), codebooks_of(quantizer))
    out = quantizer(z)
    assert torch.equal(out.indices, indices.reshape(*shape, levels))
    torch.testing.assert_close(to_rows(out.quantized), to_rows(z) - remainders[-1])
    for num in range(1, levels + 1):
        partial = quantizer.decode(out.indices[..., :num])
        torch.testing.assert_close(to_rows(partial), to_rows(z) - remainders[num])


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_loss_is_the_sum_over_levels_and_its_gradient_too(rule):
    quantizer = make(4, rule)
    z = rand(30, D, seed=2).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    remainders, indices = by_hand(z.detach(), codebooks_of(quantizer))
    errors = [r.square().mean() for r in remainders[1:]]
    learnt = rule == "loss"
    torch.testing.assert_close(out.loss, (WEIGHT + learnt) * sum(errors))
    torch.testing.assert_close(out.terms["commitment_loss"], sum(errors))
    torch.testing.assert_close(z.grad, sum(2 * WEIGHT * r / r.numel() for r in remainders[1:]))
    if learnt:
        for level, part in enumerate(quantizer.quantizers):  # 2 (e - r_d) / numel for each vector of a code
            expected = (
                torch.zeros(K, D).double().index_add_(0, indices[:, level], -2 * remainders[level + 1] / z.numel())
            )
            torch.testing.assert_close(part.codebook.grad, expected)


@pytest.mark.parametrize("levels", [1, 2, 7])
@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_the_output_passes_the_gradient_once(levels, dropout):
    quantizer = make(levels, dropout=dropout)
    z, g = rand(20, D, seed=3).requires_grad_(), rand(20, D, seed=4)
    quantizer(z).quantized.backward(g)
    assert torch.equal(z.grad, g)  # not `levels` times
    assert all(part.codebook.grad is None for part in quantizer.quantizers)


def test_the_rotation_is_that_of_the_whole():
    quantizer = make(3, estimator="rotation")
    z, g = rand(20, D, seed=5).requires_grad_(), rand(20, D, seed=6)
    out = quantizer(z)
    (ours,) = torch.autograd.grad(out.quantized, z, g)
    torch.testing.assert_close(ours, torch.autograd.grad(rotation_trick(z, out.quantized.detach()), z, g)[0])


def test_soft_codes_pass_their_gradient_to_the_remainder():
    quantizer = ResidualQuantizer(IBQ(K, D), 3).double()
    z, g = rand(20, D, seed=7).requires_grad_(), rand(20, D, seed=8)
    out = quantizer(z)
    rest, total, loss = z, 0.0, 0.0
    for part in quantizer.quantizers:
        level = part(rest)
        rest, total, loss = rest - level.quantized, total + level.quantized, loss + level.loss
    torch.testing.assert_close(out.quantized, total)
    torch.testing.assert_close(out.loss, loss)
    inputs = [z, *quantizer.parameters()]
    ours = torch.autograd.grad((out.quantized * g).sum() + out.loss, inputs)
    for a, b in zip(ours, torch.autograd.grad((total * g).sum() + loss, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_error_falls_with_every_level():
    quantizer = ResidualQuantizer(VectorQuantizer(16, 4), 5)
    z = rand(2000, 4, seed=9).float()
    out = quantizer(z)
    errors = [(quantizer.decode(out.indices[:, :num]) - z).square().mean() for num in range(1, 6)]
    assert all(b < 0.75 * a for a, b in itertools.pairwise(errors))


def rms_by_level(quantizer, rows):
    """Root mean square error (Q, D) of the first 1, 2, ... levels."""
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
def test_fixed_codebooks_are_scaled_to_the_remainder(part, limit, gain):
    uniform = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(10))
    rms = rms_by_level(ResidualQuantizer(part, 4), limit * (2 * uniform - 1))
    torch.testing.assert_close(rms[:-1] / rms[1:], gain.expand(3, 4), rtol=0.05, atol=0)


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_fsq_with_even_levels_refines_too(levels):
    part = FSQ([levels])
    low, high = part.bound(torch.tensor([[-99.0], [99.0]]))
    rows = low + (high - low) * torch.rand(20_000, 1, generator=torch.Generator().manual_seed(11))
    rms = rms_by_level(ResidualQuantizer(part, 4), rows)
    assert (rms[:-1] / rms[1:] > 0.9 * (levels - 1)).all()


def test_residual_of_residual_refines_fixed_codebooks_too():
    rows = 2 * torch.rand(2000, 1, generator=torch.Generator().manual_seed(12)) - 1
    rms = rms_by_level(ResidualQuantizer(ResidualQuantizer(FSQ([5]), 2), 2), rows)
    assert rms[1] < rms[0] / 10


@pytest.mark.parametrize("part", [LookupFree(4), BinarySpherical(4), FSQ([5, 3, 7, 9])])
def test_fixed_codebooks_see_the_scaled_remainders(part):
    quantizer = ResidualQuantizer(part, 3).eval()
    rows = part.bound(rand(50, 4, seed=13))
    out, rest, loss, gain = quantizer.quantize(rows), rows, 0.0, part.residual_gain
    for level in range(3):
        alone = part.quantize(rest * gain**level)
        assert torch.equal(out.indices[:, level], alone.indices)
        rest, loss = rest - alone.quantized / gain**level, loss + alone.loss
    torch.testing.assert_close(out.loss, loss)
    torch.testing.assert_close(out.quantized, rows - rest)
    z = rand(50, 4, seed=13)
    assert torch.equal(quantizer(z).indices, out.indices)  # bounded once, before the first level


@pytest.mark.parametrize(("dropout", "seed"), [(0.6, 0), (1.0, 3), (0.25, 1)])
def test_depths_are_uniform_where_levels_are_dropped(dropout, seed):
    steps, levels = 400, 4
    depths = depths_of(ResidualQuantizer(FSQ([3]), levels, dropout, seed), steps)
    for depth in range(1, levels + 1):
        probability = dropout / levels + (1 - dropout) * (depth == levels)
        deviation = math.sqrt(steps * probability * (1 - probability))
        assert abs(depths.count(depth) - steps * probability) < 4 * deviation
    repeated = sum(a == b for a, b in itertools.pairwise(depths)) / steps
    assert repeated == pytest.approx(sum((depths.count(d) / steps) ** 2 for d in range(5)), abs=0.1)


def test_dropped_levels_are_left_out_of_the_output_and_go_on_learning():
    quantizer, whole = make(4, dropout=1.0, seed=2), make(4)
    seen = set()
    for step in range(12):
        z = rand(6, D, 5, seed=step)
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


def test_the_depth_is_that_of_the_counted_step_also_after_loading():
    first, second = (ResidualQuantizer(FSQ([3, 3]), 6, dropout=0.9, seed=4) for _ in range(2))
    depths_of(first, 7)
    second.load_state_dict(first.state_dict())
    expected = depths_of(first, 30)
    assert depths_of(second, 30) == expected
    assert len(set(expected)) > 3
    other = ResidualQuantizer(FSQ([3, 3]), 6, dropout=0.9, seed=5)
    other.steps.fill_(7)
    assert depths_of(other, 30) != expected


def test_evaluation_uses_every_level():
    quantizer = make(4, dropout=1.0).eval()
    for step in range(5):
        quantizer.steps.fill_(step)
        out = quantizer(rand(6, D, seed=step))
        assert (out.indices >= 0).all()
        assert out.stats is None
    assert depths_of(ResidualQuantizer(FSQ([3]), 4), 20) == [4] * 20  # and so does training without dropout


def vector(dim=2):
    return VectorQuantizer(8, dim, revive_after=2)


@pytest.mark.parametrize(
    ("quantizer", "codebooks"),
    [
        (ResidualQuantizer(ProductQuantizer(vector(), 3), 4, dropout=0.9), (4, 3)),
        (ProductQuantizer(ResidualQuantizer(vector(), 4, dropout=0.9), 3), (3, 4)),
        (ResidualQuantizer(ResidualQuantizer(vector(6), 2, dropout=0.9), 3, dropout=0.9), (3, 2)),
        (ProductQuantizer(ProductQuantizer(vector(1), 3), 2), (2, 3)),
        (ResidualQuantizer(ProductQuantizer(ResidualQuantizer(vector(), 2, 0.9), 3), 2, 0.9), (2, 3, 2)),
        (ResidualQuantizer(ProductQuantizer(FSQ([3, 5]), 3), 4, dropout=0.9), (4, 3)),
    ],
)
def test_composites_of_composites(quantizer, codebooks):
    assert quantizer.num_codebooks == math.prod(codebooks)
    assert quantizer.index_dims == len(codebooks)
    quantizer.auto_update = False
    dropped = set()
    for step in range(8):
        z = rand(4, 6, 5, seed=step).float()
        out = quantizer(z)
        assert out.indices.shape == (4, 5, *codebooks)
        assert torch.equal(quantizer.decode(out.indices), out.quantized)
        dropped.add(int((out.indices < 0).sum()))
        quantizer.update(out.stats)
    assert len(dropped) > 1 or isinstance(quantizer, ProductQuantizer)
    out = quantizer.eval()(z)
    assert (out.indices >= 0).all()
    assert torch.equal(quantizer.decode(out.indices), out.quantized)
    if isinstance(quantizer, ResidualQuantizer):
        by_level = [quantizer.decode(out.indices[:, :, :num]) for num in range(1, codebooks[0] + 1)]
        errors = [(part - quantizer.bound(to_rows(z)).reshape(4, 5, 6).movedim(-1, 1)).norm() for part in by_level]
        assert all(b < a for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_quantizers": 0}, ("num_quantizers must be at least 1, got 0", "--model.quantizer.num_quantizers=")),
        ({"dropout": -0.1}, ("dropout must lie in [0, 1], got -0.1", "0 uses every depth")),
        ({"dropout": 1.1}, ("dropout must lie in [0, 1], got 1.1",)),
        ({"dropout": math.nan}, ("dropout must lie in [0, 1], got nan",)),
        ({"quantizer": COSINE}, ("VectorQuantizer leaves no remainder", "distance=euclidean")),
        ({"quantizer": ProductQuantizer(COSINE, 2)}, ("ProductQuantizer leaves no remainder", "distance=euclidean")),
    ],
)
def test_refusals(arguments, words):
    with refused(*words):
        ResidualQuantizer(**arguments)
