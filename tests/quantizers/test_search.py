"""Nearest-code search against brute force in float64."""

import pytest
import torch

from tests.helpers.family import Largest, rand
from vqlab.quantizers import search
from vqlab.quantizers.search import nearest_code

EPS = torch.finfo(torch.float32).eps


def distances(z, codebook):
    """Squared distances (N, K) in float64, row by row and without any expansion."""
    z, codebook = z.double(), codebook.double()
    return torch.stack([(row - codebook).square().sum(1) for row in z])


def regret(z, codebook, indices, dist=None):
    """How much farther than the nearest code the chosen one is, in units of what float32 can resolve."""
    dist = distances(z, codebook) if dist is None else dist
    center = codebook.double().mean(0)
    rows, codes = (z.double() - center).norm(dim=1), (codebook.double() - center).norm(dim=1).max()
    resolution = EPS * codes * (rows + codes)
    excess = dist.gather(1, indices[:, None])[:, 0] - dist.min(1).values
    return (excess / resolution.clamp_min(1e-300)).max().item()


def uniform_codebook(num, dim, seed):
    return (2 * torch.rand(num, dim, generator=torch.Generator().manual_seed(seed)) - 1) / num


def off_origin(num, dim, codes, mean, seed):
    return mean + 0.1 * rand(num, dim, seed=seed), mean + 0.1 * rand(codes, dim, seed=seed + 1)


SHAPES = [
    *[(200, 4, 512), (101, 64, 1024), (20, 256, 8192), (150, 64, 1000), (200, 8, 33), (64, 8, 16384)],
    *[(24, 64, 16384), (300, 3, 7), (33, 128, 5000), (1, 64, 1024), (257, 17, 100), (20, 512, 2049)],
]
CASES = {
    **{
        f"uniform-{num}x{dim}-K{codes}-scale{scale}": (scale * rand(num, dim, seed=7), uniform_codebook(codes, dim, 8))
        for num, dim, codes in SHAPES
        for scale in (1, 10)
    },
    **{
        f"offset-{num}x{dim}-K{codes}-mean{mean}": off_origin(num, dim, codes, mean, 9)
        for num, dim, codes in SHAPES
        for mean in (0, 3, 30)
    },
    **{
        f"offset-uniform-mean{mean}": (mean + 0.1 * rand(200, 32, seed=11), uniform_codebook(256, 32, 12))
        for mean in (3, 10, 30)
    },
}


@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force(case):
    z, codebook = CASES[case]
    dist = distances(z, codebook)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            indices = nearest_code(z, codebook)
        assert indices.dtype == torch.int64
        assert regret(z, codebook, indices, dist) <= 4
        assert (indices != dist.argmin(1)).float().mean() <= 0.01


def test_this_check_tells_the_usual_formulas_apart():
    """The expanded form with |z|^2, and bf16 off the origin, must not pass the check above."""
    z, codebook = CASES["uniform-20x256-K8192-scale10"]
    expanded = z.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * z @ codebook.T
    assert regret(z, codebook, expanded.argmin(1)) > 100
    z, codebook = CASES["offset-101x64-K1024-mean30"]
    with torch.autocast("cpu", torch.bfloat16):
        scores = z @ codebook.T
    wrong = (scores.float() - codebook.square().sum(1) / 2).argmax(1)
    assert regret(z, codebook, wrong) > 100


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
def test_blocks_give_the_same_answer_as_one_block(monkeypatch, scores, codes, num_codes):
    z, codebook = rand(60, 6, seed=3), rand(num_codes, 6, seed=4)
    monkeypatch.setitem(search.SCORES, "cpu", scores)
    monkeypatch.setitem(search.CODES, "cpu", codes)
    assert torch.equal(nearest_code(z, codebook), distances(z, codebook).argmin(1))
    assert nearest_code(z[:0], codebook).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("num_codes", [1, 65, 5000])
def test_rows_that_are_no_numbers_get_a_valid_index(num_codes, bad):
    """Their index can be looked up, and the other rows get their codes."""
    z, codebook = rand(40, 6, seed=1), rand(num_codes, 6, seed=2)
    expected = distances(z, codebook).argmin(1)
    z[3], z[17, 2] = bad, bad
    indices = nearest_code(z, codebook)
    assert indices.min() >= 0
    assert indices.max() < num_codes
    keep = torch.ones(40, dtype=torch.bool)
    keep[[3, 17]] = False
    assert torch.equal(indices[keep], expected[keep])


def test_rows_and_codes_may_lie_in_memory_in_any_order():
    z, codebook = rand(100, 16, seed=1), rand(300, 16, seed=2)
    expected = distances(z, codebook).argmin(1)
    for rows in (z, z.T.contiguous().T, z.repeat_interleave(2, 1)[:, ::2]):
        for codes in (codebook, codebook.T.contiguous().T):
            assert torch.equal(nearest_code(rows, codes), expected)


@pytest.mark.parametrize(("num", "codes"), [(4096, 1024), (4096, 16384), (100_000, 1024), (1, 10**6), (30, 50)])
def test_no_tensor_of_rows_times_codes(num, codes):
    z, codebook = torch.zeros(num, 8), torch.zeros(codes, 8)
    with Largest() as seen:
        nearest_code(z, codebook)
    assert seen.elements <= max(search.SCORES["cpu"], z.numel(), codebook.numel())


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_float32_whatever_is_allowed_elsewhere(monkeypatch, precision, kind):
    """On a processor without units for bf16 the setting changes no result, so the setting itself is looked at."""
    matmul = torch.backends.cuda.matmul if kind == "cuda" else torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        allowed = matmul.fp32_precision
        with search._full_precision(kind):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == allowed
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cuda.matmul.allow_tf32 == (precision != "highest")  # the old name still agrees
    finally:
        torch.set_float32_matmul_precision(before)


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    for name in ("uniform-20x256-K8192-scale10", "offset-33x128-K5000-mean30"):
        z, codebook = CASES[name]
        with torch.autocast("cpu", torch.bfloat16):
            assert regret(z, codebook, nearest_code(z, codebook)) <= 4


def test_one_graph_for_all_shapes():
    def assign(z, codebook):
        indices = nearest_code(z * 2, codebook)
        return indices, codebook[indices].sum()

    compiled = torch.compile(assign, fullgraph=True, dynamic=True, backend="aot_eager")
    codebook = rand(333, 6, seed=2).requires_grad_()
    compiled(rand(50, 6, seed=1), codebook)
    with torch.compiler.set_stance("fail_on_recompile"):
        for num, codes in [(50, 333), (70, 333), (9, 1000), (300, 5)]:
            z, codebook = rand(num, 6, seed=1), rand(codes, 6, seed=2).requires_grad_()
            indices, total = compiled(z, codebook)
            assert torch.equal(indices, assign(z, codebook)[0])
            total.backward()
            assert codebook.grad.sum() == num * 6


def test_the_operator_keeps_torchs_contract():
    torch.library.opcheck(search._operator, (rand(10, 4, seed=1), rand(70, 4, seed=2)))


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["uniform-20x256-K8192-scale10", "offset-101x64-K1024-mean30"])
def test_on_a_gpu_with_tf32_allowed(case):
    z, codebook = CASES[case]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with torch.autocast("cuda", torch.bfloat16):
            indices = nearest_code(z.cuda(), codebook.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    assert regret(z, codebook, indices) <= 4
