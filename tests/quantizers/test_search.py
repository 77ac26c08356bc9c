"""Nearest-code search against brute force in float64, and softmaxes in blocks against all rows at once."""

import math

import pytest
import torch

from tests.helpers.family import Largest, rand, rand64
from vqlab.quantizers import search
from vqlab.quantizers.search import entropy, in_chunks, nearest_code

EPS = torch.finfo(torch.float32).eps


def distances(z, codebook):
    """Squared distances (N, K) in float64, row by row and without any expansion."""
    z, codebook = z.double(), codebook.double()
    return torch.stack([(row - codebook).square().sum(1) for row in z])


def regret(z, codebook, indices):
    """Excess distance of the chosen code over the nearest one, in units of the float32 rounding error."""
    dist, center = distances(z, codebook), codebook.double().mean(0)
    rows, codes = (z.double() - center).norm(dim=1), (codebook.double() - center).norm(dim=1).max()
    excess = dist.gather(1, indices[:, None])[:, 0] - dist.min(1).values
    return (excess / (EPS * codes * (rows + codes)).clamp_min(1e-300)).max().item()


@pytest.mark.parametrize("mean", [0, 3, 30])
@pytest.mark.parametrize("scale", ["of the rows", "1 / K"])
@pytest.mark.parametrize(
    ("num", "dim", "codes"),
    [(200, 4, 512), (101, 64, 1024), (20, 256, 8192), (200, 8, 33), (24, 64, 16384), (300, 3, 7), (20, 512, 2049)],
)
def test_nearest_code_equals_brute_force(num, dim, codes, scale, mean):
    z, codebook = mean + 0.1 * rand(num, dim, seed=9), mean + 0.1 * rand(codes, dim, seed=10)
    if scale == "1 / K":
        codebook = (2 * torch.rand(codes, dim, generator=torch.Generator().manual_seed(8)) - 1) / codes
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            indices = nearest_code(z, codebook)
        assert regret(z, codebook, indices) <= 4
        assert (indices != distances(z, codebook).argmin(1)).float().mean() <= 0.01


@pytest.mark.parametrize(
    ("num", "dim", "distinct", "codes"),
    [(64, 4, 5, 15), (33, 17, 13, 91), (257, 64, 100, 500), (7, 1, 2, 4), (300, 33, 97, 4097), (300, 33, 97, 8193)],
)
def test_ties_go_to_the_lowest_index(num, dim, distinct, codes):
    base = rand(distinct, dim, seed=1)
    order = torch.randperm(codes, generator=torch.Generator().manual_seed(1)) % distinct
    codebook, z = base[order], rand(num, dim, seed=11)
    nearest = distances(z, base).argmin(1)
    lowest = torch.stack([(order == code).nonzero()[0, 0] for code in nearest])
    assert torch.equal(nearest_code(z, codebook), lowest)


@pytest.mark.parametrize("scores", [64, 64 * 7, 2**14])
@pytest.mark.parametrize("codes", [20, 64, 200])
@pytest.mark.parametrize("num_codes", [1, 30, 64, 333])
def test_search_in_blocks_equals_brute_force(monkeypatch, scores, codes, num_codes):
    z, codebook = rand(60, 6, seed=3), rand(num_codes, 6, seed=4)
    monkeypatch.setitem(search.SCORES, "cpu", scores)
    monkeypatch.setitem(search.CODES, "cpu", codes)
    assert torch.equal(nearest_code(z, codebook), distances(z, codebook).argmin(1))
    assert nearest_code(z[:0], codebook).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("num_codes", [1, 65, 5000])
def test_rows_that_are_not_finite_get_a_valid_index(num_codes, bad):
    z, codebook = rand(40, 6, seed=1), rand(num_codes, 6, seed=2)
    expected = distances(z, codebook).argmin(1)
    z[3], z[17, 2] = bad, bad
    indices = nearest_code(z, codebook)
    assert indices.min() >= 0
    assert indices.max() < num_codes
    assert (indices != expected).nonzero().flatten().tolist() in ([], [3], [17], [3, 17])


@pytest.mark.parametrize(("num", "codes"), [(4096, 16384), (100_000, 1024), (1, 10**6)])
def test_search_holds_no_tensor_of_rows_times_codes(num, codes):
    z, codebook = torch.zeros(num, 8), torch.zeros(codes, 8)
    with Largest() as seen:
        nearest_code(z, codebook)
    assert seen.elements <= max(search.SCORES["cpu"], z.numel(), codebook.numel())


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_products_ignore_the_global_matmul_precision(kind):
    matmul = torch.backends.cuda.matmul if kind == "cuda" else torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        allowed = matmul.fp32_precision
        with search._full_precision(kind):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == allowed
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_search_without_onednn(monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    z, codebook = 30 + 0.1 * rand(33, 128, seed=1), 30 + 0.1 * rand(5000, 128, seed=2)
    assert regret(z, codebook, nearest_code(z, codebook)) <= 4


def test_compiled_search_has_one_graph_for_all_shapes():
    def assign(z, codebook):
        indices = nearest_code(z * 2, codebook)
        return indices, codebook[indices].sum()

    compiled = torch.compile(assign, fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(rand(50, 6, seed=1), rand(333, 6, seed=2).requires_grad_())
    with torch.compiler.set_stance("fail_on_recompile"):
        for num, codes in [(50, 333), (70, 333), (9, 1000), (300, 5)]:
            z, codebook = rand(num, 6, seed=1), rand(codes, 6, seed=2).requires_grad_()
            indices, total = compiled(z, codebook)
            assert torch.equal(indices, assign(z, codebook)[0])
            total.backward()
            assert codebook.grad.sum() == num * 6


@pytest.mark.gpu
def test_search_on_a_gpu_is_not_affected_by_tf32():
    z, codebook = 30 + 0.1 * rand(101, 64, seed=1), 30 + 0.1 * rand(1024, 64, seed=2)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with torch.autocast("cuda", torch.bfloat16):
            indices = nearest_code(z.cuda(), codebook.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    assert regret(z, codebook, indices) <= 4


@pytest.mark.parametrize(("elements", "sizes"), [(28, [4, 4, 2]), (3, [1] * 10), (1000, [10]), (69, [9, 1])])
def test_chunks_have_the_results_and_gradients_of_one_block(monkeypatch, elements, sizes):
    monkeypatch.setattr(search, "CHUNK_ELEMENTS", elements)
    codes = rand64(7, 3, seed=1).requires_grad_()

    def soft_codes(rows, weights):
        probs = (rows @ codes.T).softmax(1)
        return probs @ codes * weights[:, None], probs.sum(0)

    rows, weights = rand64(10, 3, seed=2).requires_grad_(), rand64(10, seed=3).requires_grad_()
    mixtures, sums = zip(*in_chunks(soft_codes, 7, rows, weights), strict=True)
    assert [len(mixture) for mixture in mixtures] == sizes
    found = torch.cat(mixtures), torch.stack(sums).sum(0)
    expected = soft_codes(rows, weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    sums = (a.sin().sum() + b.cos().sum() for a, b in (found, expected))
    gradients = [torch.autograd.grad(total, (rows, weights, codes)) for total in sums]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


def test_backward_recomputes_chunks_with_equal_random_numbers(monkeypatch):
    monkeypatch.setattr(search, "CHUNK_ELEMENTS", 5)
    drawn = []

    def noisy(rows):
        drawn.append(torch.randn(len(rows), 1))
        return (rows * drawn[-1],)

    rows = torch.ones(12, 1, requires_grad=True)
    out = torch.cat([block for (block,) in in_chunks(noisy, 1, rows)])
    torch.rand(7)
    before = torch.random.get_rng_state()
    out.sum().backward()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(rows.grad, out.detach())
    assert len(drawn) == 6
    assert len(torch.cat(drawn).unique()) == 12


def test_entropy_equals_torch_and_has_finite_gradients():
    probs = rand64(6, 6, seed=5).softmax(-1)
    torch.testing.assert_close(entropy(probs), torch.special.entr(probs).sum(-1))
    certain = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    value = entropy(certain)
    value.backward()
    assert value == 0
    assert 20 < certain.grad[1] < math.inf  # towards a code that is never used
