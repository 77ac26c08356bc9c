"""Nearest-code search against brute force in float64."""

import pytest
import torch

from vqlab.quantizers import search
from vqlab.quantizers.search import nearest_code

EPS = torch.finfo(torch.float32).eps


def distances(z, codebook):
    """Squared distances (N, K) in float64, row by row and without any expansion."""
    z, codebook = z.double(), codebook.double()
    return torch.stack([(row - codebook).square().sum(1) for row in z])


def regret(z, codebook, indices):
    """How much farther than the nearest code the chosen one is, in units of what float32 can resolve."""
    dist = distances(z, codebook)
    center = codebook.double().mean(0)
    rows, codes = (z.double() - center).norm(dim=1), (codebook.double() - center).norm(dim=1).max()
    resolution = EPS * codes * (rows + codes)
    excess = dist.gather(1, indices[:, None])[:, 0] - dist.min(1).values
    return (excess / resolution.clamp_min(1e-300)).max().item()


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform_codebook(num, dim, seed):
    return (2 * torch.rand(num, dim, generator=torch.Generator().manual_seed(seed)) - 1) / num


def off_origin(num, dim, codes, mean, seed):
    direction = mean * torch.ones(dim)
    return direction + 0.1 * rand(num, dim, seed=seed), direction + 0.1 * rand(codes, dim, seed=seed + 1)


CASES = {
    **{
        f"uniform-{num}x{dim}-K{codes}-scale{scale}": (scale * rand(num, dim, seed=7), uniform_codebook(codes, dim, 8))
        for num, dim, codes in [(200, 4, 512), (101, 64, 1024), (48, 256, 8192)]
        for scale in (1, 5, 10)
    },
    **{
        f"offset-{num}x{dim}-K{codes}-mean{mean}": off_origin(num, dim, codes, mean, 9)
        for num, dim, codes in [(150, 64, 1024), (200, 8, 33)]
        for mean in (0, 3, 10, 30)
    },
    **{
        f"offset-uniform-mean{mean}": (mean + 0.1 * rand(200, 32, seed=11), uniform_codebook(256, 32, 12))
        for mean in (3, 10, 30)
    },
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force(case, autocast):
    z, codebook = CASES[case]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        indices = nearest_code(z, codebook)
    assert indices.dtype == torch.int64
    assert regret(z, codebook, indices) <= 4
    assert (indices != distances(z, codebook).argmin(1)).float().mean() <= 0.01


def test_this_check_tells_the_usual_formulas_apart():
    """The expanded form with |z|^2, and bf16 off the origin, must not pass the check above."""
    z, codebook = CASES["uniform-48x256-K8192-scale10"]
    expanded = z.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * z @ codebook.T
    assert regret(z, codebook, expanded.argmin(1)) > 100
    z, codebook = CASES["offset-150x64-K1024-mean10"]
    with torch.autocast("cpu", torch.bfloat16):
        scores = z @ codebook.T
    wrong = (scores.float() - codebook.square().sum(1) / 2).argmax(1)
    assert regret(z, codebook, wrong) > 100


@pytest.mark.parametrize(("num", "dim", "codes"), [(1, 3, 5), (5, 3, 1), (4, 2, 100), (1, 1, 1), (3, 1, 7)])
def test_small_shapes(num, dim, codes):
    z, codebook = rand(num, dim, seed=1), rand(codes, dim, seed=2)
    assert torch.equal(nearest_code(z, codebook), distances(z, codebook).argmin(1))


@pytest.mark.parametrize(
    ("num", "dim", "distinct", "copies"),
    [(64, 4, 5, 3), (33, 17, 13, 7), (257, 64, 100, 5), (1, 8, 3, 11), (7, 1, 2, 2)],
)
@pytest.mark.parametrize("seed", range(3))
def test_ties_go_to_the_lowest_index(num, dim, distinct, copies, seed):
    base = rand(distinct, dim, seed=seed)
    order = torch.randperm(distinct * copies, generator=torch.Generator().manual_seed(seed)) % distinct
    codebook, z = base[order], rand(num, dim, seed=seed + 10)
    nearest = distances(z, base).argmin(1)
    lowest = torch.stack([(order == code).nonzero()[0, 0] for code in nearest])
    assert torch.equal(nearest_code(z, codebook), lowest)


def test_equidistant_codes_tie_to_the_lowest_index():
    codebook = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert nearest_code(torch.zeros(3, 2), codebook).tolist() == [0, 0, 0]


@pytest.mark.parametrize("scores", [1, 64 * 7, 2**14])
@pytest.mark.parametrize("codes", [1, 64, 200])
@pytest.mark.parametrize("num_codes", [30, 64, 333])
def test_blocks_give_the_same_answer_as_one_block(monkeypatch, scores, codes, num_codes):
    z, codebook = rand(100, 6, seed=3), rand(num_codes, 6, seed=4)
    monkeypatch.setitem(search.SCORES, "cpu", scores)
    monkeypatch.setitem(search.CODES, "cpu", codes)
    assert torch.equal(nearest_code(z, codebook), distances(z, codebook).argmin(1))


def test_no_gradient_and_double():
    z = rand(20, 3, seed=5).double().requires_grad_()
    codebook = rand(9, 3, seed=6).double()
    indices = nearest_code(z, codebook)
    assert not indices.requires_grad
    assert torch.equal(indices, distances(z.detach(), codebook).argmin(1))
