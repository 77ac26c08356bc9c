"""VectorQuantizer against the papers' formulas, restated in float64."""

import copy
import io
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.codes import as_set, set_codebook
from vqlab.errors import UserError
from vqlab.quantizers.sampling import lots_by_content, smallest_k
from vqlab.quantizers.vector import KMEANS_ITERATIONS, KMEANS_ROWS_PER_CODE, SAME_LOT, VectorQuantizer

OPTIONS = list(
    itertools.product(["ema", "loss"], ["ste", "rotation"], ["euclidean", "cosine"], ["kmeans", "data", "uniform"])
)


def rand(*shape, seed, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def to_rows(z):
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def nearest(rows, codes):
    return torch.stack([(row - codes.double()).square().sum(1).argmin() for row in rows.double()])


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# --- value, indices, loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_decode_gives_the_quantized_bits(options):
    rule, estimator, distance, init = options
    quantizer = VectorQuantizer(
        20, 6, codebook_update=rule, estimator=estimator, distance=distance, init=init, revive_after=2
    )
    quantizer.auto_update = False
    for step in range(4):
        out = quantizer(rand(3, 6, 5, 4, seed=step, scale=3).requires_grad_())
        assert torch.equal(quantizer.decode(out.indices), out.quantized)
        quantizer.update(out.stats)
    quantizer.eval()
    z = rand(3, 6, 5, 4, seed=9, scale=3)
    out = quantizer(z)
    assert torch.equal(quantizer.decode(out.indices), out.quantized)
    assert torch.equal(quantizer.encode(z), out.indices)
    assert out.stats is None


@pytest.mark.parametrize("shape", [(7,), (3, 10), (2, 4, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_shapes_and_brute_force_indices(shape, distance):
    batch, *spatial = shape
    quantizer = VectorQuantizer(11, 5, distance=distance)
    quantizer(rand(50, 5, seed=1))
    quantizer.eval()
    z = rand(batch, 5, *spatial, seed=2)
    out = quantizer(z)
    assert out.quantized.shape == z.shape
    assert out.indices.shape == shape
    assert out.indices.dtype == torch.int64
    assert out.loss.shape == ()
    rows, codes = to_rows(z), quantizer.codebook
    expected = nearest(rows, codes) if distance == "euclidean" else (unit(rows) @ unit(codes).T).argmax(1)
    assert torch.equal(out.indices.flatten(), expected)
    torch.testing.assert_close(to_rows(out.quantized), codes[expected])
    strided = z.movedim(1, -1).contiguous().movedim(-1, 1)
    wide = z.repeat_interleave(2, dim=-1)[..., ::2]
    for view in (strided, wide):
        again = quantizer(view)
        assert torch.equal(again.indices, out.indices)
        assert torch.equal(again.quantized, out.quantized)


@given(
    batch=st.integers(1, 4),
    spatial=st.lists(st.integers(1, 4), max_size=3),
    codes=st.integers(1, 9),
    dim=st.integers(1, 6),
    options=st.sampled_from(OPTIONS),
    revive_after=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_small_shape(batch, spatial, codes, dim, options, revive_after, seed):
    rule, estimator, distance, init = options
    quantizer = VectorQuantizer(
        codes,
        dim,
        codebook_update=rule,
        estimator=estimator,
        distance=distance,
        init=init,
        revive_after=revive_after,
        seed=seed,
    )
    for step in range(3):
        z = rand(batch, dim, *spatial, seed=seed % 1000 + step).requires_grad_()
        out = quantizer(z)
        (out.quantized.sum() + out.loss).backward()
        assert out.quantized.shape == z.shape
        assert out.indices.shape == (batch, *spatial)
        assert out.indices.min() >= 0
        assert out.indices.max() < codes
        assert out.stats.counts.sum() == out.indices.numel()
        assert z.grad.isfinite().all()
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    quantizer.eval()
    z = rand(batch, dim, *spatial, seed=seed % 1000 + 7)
    out = quantizer(z)
    rows, book = to_rows(z).double(), quantizer.codebook.detach().double()
    if distance == "cosine":
        rows, book = unit(rows), unit(book)
    dist = torch.stack([(row - book).square().sum(1) for row in rows])
    chosen = dist.gather(1, out.indices.reshape(-1, 1))[:, 0]
    assert (chosen - dist.min(1).values).max() < 1e-5
    assert torch.equal(quantizer.decode(out.indices), out.quantized)


@pytest.mark.parametrize("rule", ["ema", "loss"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_losses_and_their_gradients(rule, distance):
    quantizer = VectorQuantizer(
        9, 4, commitment_weight=0.3, codebook_update=rule, distance=distance, init="uniform"
    ).double()
    codes = rand(9, 4, seed=1).double()
    quantizer.codebook.data.copy_(unit(codes) if distance == "cosine" else codes)
    quantizer.eval()
    z = rand(6, 4, 7, seed=2).double().requires_grad_()
    out = quantizer(z)
    out.loss.backward()

    rows, book = to_rows(z.detach()).requires_grad_(), quantizer.codebook.detach().clone().requires_grad_()
    a, b = (unit(rows), unit(book)) if distance == "cosine" else (rows, book)
    index = nearest(a.detach(), b.detach())
    commitment = (a - b[index].detach()).square().sum() / a.numel()
    codebook_loss = (a.detach() - b[index]).square().sum() / a.numel()
    expected = 0.3 * commitment + (codebook_loss if rule == "loss" else 0)
    expected.backward()
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(to_rows(z.grad), rows.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(out.terms["commitment_loss"], commitment.detach(), rtol=1e-12, atol=0)
    assert not any(term.requires_grad for term in out.terms.values())
    if rule == "loss":
        torch.testing.assert_close(quantizer.codebook.grad, book.grad, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(out.terms["codebook_loss"], codebook_loss.detach(), rtol=1e-12, atol=0)
    else:
        assert not list(quantizer.parameters())
        assert "codebook_loss" not in out.terms
    if distance == "euclidean":  # the commitment gradient in closed form: 2 weight (z - e) / (N D)
        by_hand = 2 * 0.3 * (rows.detach() - book.detach()[index]) / rows.numel()
        torch.testing.assert_close(to_rows(z.grad), by_hand, rtol=1e-10, atol=1e-14)


def test_no_gradient_reaches_the_codebook_through_the_output():
    quantizer = VectorQuantizer(9, 4, codebook_update="loss", commitment_weight=1.0, init="uniform").eval()
    z = rand(6, 4, 7, seed=2).requires_grad_()
    quantizer(z).quantized.sum().backward()
    assert quantizer.codebook.grad is None
    torch.testing.assert_close(z.grad, torch.ones_like(z))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_input_and_autocast_choose_the_float32_codes(dtype):
    quantizer = VectorQuantizer(300, 16)
    quantizer(3 + 0.1 * rand(2000, 16, seed=1))
    quantizer.eval()
    z = (3 + 0.1 * rand(500, 16, seed=2)).to(dtype)
    expected = quantizer(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
    plain = quantizer(z)
    assert torch.equal(out.indices, expected.indices)
    assert torch.equal(out.indices, nearest(z.float(), quantizer.codebook))
    assert torch.equal(plain.indices, expected.indices)
    assert out.quantized.dtype == plain.quantized.dtype == dtype
    assert out.loss.dtype == torch.float32
    assert torch.equal(out.loss, expected.loss)
    assert torch.equal(out.quantized, expected.quantized.to(dtype))


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_training_under_autocast_teaches_what_float32_does(rule):
    first, second = (VectorQuantizer(32, 8, codebook_update=rule, revive_after=2) for _ in range(2))
    for step in range(6):
        z = rand(80, 8, seed=step).bfloat16()
        first(z.float())
        with torch.autocast("cpu", torch.bfloat16):
            second(z)
    assert_same_state(state(first), state(second))


# --- running means ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["uniform", "data", "kmeans"])
def test_running_means_over_20_batches(init, distance):
    """Appendix A.1 of the paper, with N_k and m_k starting from the counts of the first batch."""
    decay, codes = 0.6, 12  # reached after 12 steps
    quantizer = VectorQuantizer(codes, 5, ema_decay=decay, init=init, distance=distance, revive_after=None)
    quantizer.auto_update = False

    def rows_of(step):
        rows = rand(150, 5, seed=step, scale=1 + step % 3).double()
        return unit(rows) if distance == "cosine" else rows

    quantizer(rand(150, 5, seed=0, scale=1))
    book = quantizer.codebook.double()
    if init == "uniform":
        count, total = torch.ones(codes).double(), book.clone()
    else:
        count = torch.bincount(nearest(rows_of(0), book), minlength=codes).clamp_min(1).double()
        total = book * count[:, None]
    torch.testing.assert_close(quantizer.ema_counts.double(), count, rtol=0, atol=0)
    torch.testing.assert_close(quantizer.ema_sums.double(), total, rtol=1e-6, atol=1e-6)

    for step in range(20):
        z = rand(150, 5, seed=step, scale=1 + step % 3)
        rows = rows_of(step)
        index = nearest(rows, book)
        out = quantizer(z)
        assert torch.equal(out.indices, index)
        assert quantizer.update(out.stats) == []
        now = min(decay, (2 + step) / (11 + step))  # step t = 1, 2, ...: (1 + t) / (10 + t)
        for k in range(codes):
            members = rows[index == k]
            count[k] = now * count[k] + (1 - now) * len(members)
            total[k] = now * total[k] + (1 - now) * members.sum(0)
        book = total / count[:, None]
        book = unit(book) if distance == "cosine" else book
        torch.testing.assert_close(quantizer.ema_counts.double(), count, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(quantizer.ema_sums.double(), total, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(quantizer.codebook.double(), book, rtol=1e-5, atol=2e-6)
    assert quantizer.steps == 20


def test_decay_zero_is_the_mean_of_the_last_batch():
    quantizer = VectorQuantizer(4, 3, ema_decay=0.0, init="data", revive_after=None)
    z = rand(60, 3, seed=1)
    before = quantizer(z).indices
    for k in before.unique():
        torch.testing.assert_close(quantizer.codebook[k], z[before == k].mean(0))


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_without_revival_an_unhit_code_keeps_its_bits(rule):
    quantizer = VectorQuantizer(10, 3, codebook_update=rule, init="uniform", revive_after=None, ema_decay=0.9)
    far = rand(10, 3, seed=1, scale=2)
    far[5:] += 100
    set_codebook(quantizer, far)
    for step in range(400):
        z = rand(20, 3, seed=step)
        assert quantizer(z).indices.max() < 5
    assert torch.equal(quantizer.codebook[5:], far[5:])
    if rule == "ema":
        assert not torch.equal(quantizer.codebook[:5], far[:5])
        hit = quantizer(far[5:]).indices  # after this long, a hit code follows its vectors and nothing else
        assert hit.tolist() == [5, 6, 7, 8, 9]
        torch.testing.assert_close(quantizer.codebook[5:], far[5:])


# --- initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_data_init_takes_distinct_rows_of_the_first_batch(rule):
    quantizer = VectorQuantizer(30, 4, codebook_update=rule, init="data")
    quantizer.auto_update = False
    z = rand(100, 4, seed=3)
    quantizer(z)
    assert bool(quantizer.first_batch.seen)
    assert len(quantizer.codebook.unique(dim=0)) == 30
    assert set(as_set(quantizer.codebook)) <= set(as_set(z))
    again = quantizer.codebook.detach().clone()
    quantizer(rand(100, 4, seed=4))
    assert torch.equal(quantizer.codebook, again)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("total", [100, 900])
def test_kmeans_init_is_lloyd_on_drawn_rows(distance, total):
    codes = 10
    quantizer = VectorQuantizer(codes, 4, init="kmeans", distance=distance, seed=5)
    quantizer.auto_update = False
    z = rand(total, 4, seed=6)
    quantizer(z)
    rows = F.normalize(z, dim=1) if distance == "cosine" else z
    num = min(total, KMEANS_ROWS_PER_CODE * codes)
    sample = smallest_k(rows, lots_by_content(rows, 5, (rows.double().sum(0) / total).float()), num, SAME_LOT)[
        0
    ].double()
    centers = sample[:codes].clone()
    for _ in range(KMEANS_ITERATIONS):
        index = nearest(sample, centers)
        for k in range(codes):
            if (index == k).any():
                centers[k] = sample[index == k].mean(0)
        centers = unit(centers) if distance == "cosine" else centers
    torch.testing.assert_close(quantizer.codebook.double(), centers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("init", ["kmeans", "data"])
@pytest.mark.parametrize("rule", ["ema", "loss"])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_fewer_vectors_than_codes(init, rule, rows):
    quantizer = VectorQuantizer(16, 4, codebook_update=rule, init=init, revive_after=2)
    z = rand(rows, 4, seed=rows, scale=5)
    out = quantizer(z)
    torch.testing.assert_close(out.quantized.detach(), z, rtol=1e-6, atol=1e-6)
    assert len(out.indices.unique()) == rows
    assert quantizer.state_dict()["codebook"].isfinite().all()
    for step in range(15):
        quantizer(rand(40, 4, seed=step))
    assert len(quantizer.eval()(rand(2000, 4, seed=99)).indices.unique()) >= 14


def test_eval_does_not_initialise_and_training_then_does():
    quantizer = VectorQuantizer(8, 4).eval()
    before = state(quantizer)
    quantizer(rand(50, 4, seed=1))
    assert_same_state(before, state(quantizer))
    quantizer.train()(rand(50, 4, seed=1))
    assert bool(quantizer.first_batch.seen)
    assert not torch.equal(before["codebook"], quantizer.codebook)


# --- purity, resume, copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_forward_changes_no_buffer(rule):
    quantizer = VectorQuantizer(8, 4, codebook_update=rule, revive_after=1)
    quantizer.auto_update = False
    quantizer(rand(50, 4, seed=1))
    before = state(quantizer)
    for step in range(3):
        quantizer(rand(50, 4, seed=step))
        assert_same_state(before, state(quantizer))
    quantizer.eval()
    quantizer.auto_update = True
    quantizer(rand(50, 4, seed=7))
    assert_same_state(before, state(quantizer))


def run(quantizer, steps):
    for step in steps:
        out = quantizer(rand(60, 4, seed=step))
        if quantizer.codebook_update == "loss":
            quantizer.codebook.grad = None
            out.loss.backward()
            with torch.no_grad():
                quantizer.codebook -= 0.5 * quantizer.codebook.grad
    return quantizer


@pytest.mark.parametrize("rule", ["ema", "loss"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("cut", [0, 1, 8])
def test_saving_and_loading_changes_no_bit(rule, distance, cut):
    def new(seed):
        return VectorQuantizer(64, 4, codebook_update=rule, distance=distance, revive_after=2, seed=seed)

    straight = run(new(3), range(16))
    file = io.BytesIO()
    torch.save(run(new(3), range(cut)).state_dict(), file)
    file.seek(0)
    resumed = new(3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert_same_state(state(straight), state(run(resumed, range(cut, 16))))


def test_loading_inside_another_module():
    parent, other = (torch.nn.ModuleDict({"q": VectorQuantizer(16, 4, revive_after=2)}) for _ in range(2))
    run(parent["q"], range(5))
    other.load_state_dict(parent.state_dict())
    assert_same_state(state(run(parent["q"], range(5, 9))), state(run(other["q"], range(5, 9))))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_alike(duplicate):
    quantizer = run(VectorQuantizer(16, 4, revive_after=2), range(5))
    twin = duplicate(quantizer)
    assert twin.init_args == quantizer.init_args
    assert_same_state(state(run(quantizer, range(5, 9))), state(run(twin, range(5, 9))))
    fresh = VectorQuantizer(16, 4, revive_after=2)
    twin.load_state_dict(fresh.state_dict())
    assert_same_state(state(run(twin, range(4))), state(run(fresh, range(4))))


# --- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("parts", [2, 5])
def test_statistics_of_parts_add_up_to_those_of_the_whole(distance, parts):
    quantizer = VectorQuantizer(24, 6, distance=distance, seed=2)
    run_z = rand(200, 6, seed=1)
    quantizer.auto_update = False
    quantizer(run_z)
    whole = quantizer(run_z).stats
    halves = [quantizer(part).stats for part in run_z.chunk(parts)]
    joined = halves[0]
    for half in halves[1:]:
        joined = joined + half
    assert torch.equal(joined.counts, whole.counts)
    torch.testing.assert_close(joined.sums, whole.sums, rtol=1e-5, atol=1e-5)
    assert as_set(joined.candidates) == as_set(whole.candidates)
    assert torch.equal(joined.lots, whole.lots)
    out = quantizer(run_z)
    for k in range(24):
        members = (F.normalize(run_z, dim=1) if distance == "cosine" else run_z)[out.indices == k]
        assert whole.counts[k] == len(members)
        torch.testing.assert_close(whole.sums[k], members.sum(0), rtol=1e-5, atol=1e-5)


def test_an_accumulated_update_equals_that_of_the_whole_batch():
    first, second = (VectorQuantizer(24, 6, revive_after=2) for _ in range(2))
    first.auto_update = second.auto_update = False
    start = rand(128, 6, seed=50)
    first(start)
    second(start)
    for step in range(10):
        z = rand(128, 6, seed=step)
        first.update(first(z).stats)
        second.update(second(z[:64]).stats + second(z[64:]).stats)
        for name, value in first.state_dict().items():
            torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("dim", [3, 16])
def test_repeated_vectors_do_not_fill_the_candidates(dim):
    quantizer = VectorQuantizer(16, dim, init="uniform")
    rows = rand(1, dim, seed=1).expand(1000, dim).clone()
    rows[100:120] = rand(20, dim, seed=2)
    candidates = quantizer(rows).stats.candidates
    assert len(candidates.unique(dim=0)) == 16


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (2, 8, 8, 4), (4,)])
def test_wrong_width_names_embedding_dim(shape):
    with pytest.raises(UserError, match="embedding_dim"):
        VectorQuantizer(8, 4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_embeddings", 0),
        ("num_embeddings", -3),
        ("embedding_dim", 0),
        ("commitment_weight", -0.1),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("ema_decay", float("nan")),
        ("commitment_weight", float("nan")),
        ("revive_after", 0),
        ("revive_after", -1.0),
        ("revive_after", float("nan")),
        ("codebook_update", "sgd"),
        ("estimator", "gumbel"),
        ("distance", "manhattan"),
        ("init", "zeros"),
    ],
)
def test_bad_arguments_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        VectorQuantizer(**{name: value})


def test_the_counts_of_kmeans_are_those_of_all_ranks(monkeypatch):
    """Two ranks with the same batch, simulated by one process: a sum over the ranks is twice its own."""
    monkeypatch.setattr("vqlab.quantizers.vector.all_sum", lambda own: 2 * own)
    quantizer = VectorQuantizer(4, 2, init="kmeans")
    rows = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    quantizer.initialize(rows)
    own = (rows[:, None] - quantizer.codebook).square().sum(2).argmin(1).bincount(minlength=4)
    assert torch.equal(quantizer.ema_counts, 2.0 * own)
    torch.testing.assert_close(quantizer.ema_sums, quantizer.codebook * 2.0 * own[:, None])
