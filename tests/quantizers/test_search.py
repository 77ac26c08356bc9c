"""Nearest-code search against brute force in float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
        for scale in (1, 5, 10)
    },
    **{
        f"offset-{num}x{dim}-K{codes}-mean{mean}": off_origin(num, dim, codes, mean, 9)
        for num, dim, codes in SHAPES
        for mean in (0, 3, 10, 30)
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
    z, codebook = CASES["offset-101x64-K1024-mean10"]
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


@pytest.mark.parametrize("scores", [64, 64 * 7, 2**14])
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


@pytest.mark.parametrize("num_codes", [1, 5, 100, 5000])
def test_no_rows(num_codes):
    indices = nearest_code(torch.empty(0, 4), rand(num_codes, 4, seed=1))
    assert indices.shape == (0,)
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("num_codes", [1, 7, 65, 1000, 5000, 8192])
def test_rows_that_are_no_numbers_get_a_valid_index(num_codes, bad):
    """Whatever stands in one row, its index can be looked up, and the other rows find their codes."""
    z, codebook = rand(40, 6, seed=1), rand(num_codes, 6, seed=2)
    expected = distances(z, codebook).argmin(1)
    z[3], z[17, 2] = bad, bad
    indices = nearest_code(z, codebook)
    assert indices.min() >= 0
    assert indices.max() < num_codes
    keep = torch.ones(40, dtype=torch.bool)
    keep[[3, 17]] = False
    assert torch.equal(indices[keep], expected[keep])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_codebook_gives_valid_indices(bad):
    codebook = rand(5000, 6, seed=2)
    codebook[4321] = bad
    indices = nearest_code(rand(40, 6, seed=1), codebook)
    assert indices.min() >= 0
    assert indices.max() < 5000


@pytest.mark.parametrize("num_codes", [4097, 5000, 8192, 8193, 9999])
def test_ties_across_blocks_go_to_the_lowest_index(num_codes):
    base = rand(97, 33, seed=1)
    codebook, z = base[torch.arange(num_codes) % 97], rand(500, 33, seed=2)
    assert torch.equal(nearest_code(z, codebook), distances(z, base).argmin(1))


def test_rows_and_codes_may_lie_in_memory_in_any_order():
    z, codebook = rand(100, 16, seed=1), rand(300, 16, seed=2)
    expected = distances(z, codebook).argmin(1)
    for rows in (z, z.T.contiguous().T, z.repeat_interleave(2, 1)[:, ::2]):
        for codes in (codebook, codebook.T.contiguous().T):
            assert torch.equal(nearest_code(rows, codes), expected)


class Largest(TorchDispatchMode):
    """Remember the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def largest(num, dim, codes):
    z, codebook = torch.zeros(num, dim), torch.zeros(codes, dim)
    with Largest() as mode:
        nearest_code(z, codebook)
    return mode.elements


@pytest.mark.parametrize(
    ("num", "dim", "codes"), [(4096, 8, 1024), (4096, 8, 16384), (100_000, 8, 1024), (1, 8, 10**6)]
)
def test_no_tensor_of_rows_times_codes(num, dim, codes):
    assert largest(num, dim, codes) <= search.SCORES["cpu"]


def test_rows_that_do_not_divide_the_block_need_no_more():
    assert largest(30, 4, 50) <= 30 * search.LANES


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


def test_the_product_runs_in_full_precision(monkeypatch):
    seen, scores = [], search._scores

    def watched(*args):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return scores(*args)

    monkeypatch.setattr(search, "_scores", watched)
    nearest_code(rand(5, 3, seed=1), rand(4, 3, seed=2))
    assert set(seen) == {"ieee"}


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
