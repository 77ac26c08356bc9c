"""Losses and gradients of all quantizers in float64 against the formulas of the papers."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call

from tests.helpers.family import (
    BATCH,
    FAMILY,
    example,
    gumbel,
    nearest,
    parts_of,
    pyramid,
    rand,
    rand64,
    rows_of,
    trained,
)
from tests.helpers.resampling import down, up
from vqlab import FSQ, IBQ, BinarySpherical, GaussianQuantizer, GumbelQuantizer, LookupFree, SimVQ, VectorQuantizer
from vqlab.quantizers import MultiScaleQuantizer, ProductQuantizer, ResidualQuantizer, search
from vqlab.quantizers.base import rotation_trick

# FSQ and LookupFree have constants that are rounded to float32.
EXACT, ROUNDED = {"rtol": 1e-9, "atol": 1e-10}, {"rtol": 1e-5, "atol": 1e-6}


def double(name):
    quantizer = trained(name).double()
    quantizer.sample_index = torch.arange(BATCH) + 50
    return quantizer


def record_noise(quantizer):
    """Append the noise of each Gumbel or Gaussian quantizer to its attribute ``drawn``."""
    for part in parts_of(quantizer):
        if isinstance(part, GumbelQuantizer | GaussianQuantizer):

            def spy(*args, part=part, draw=part._noise):
                part.drawn.append(draw(*args))
                return part.drawn[-1]

            part.drawn, part._noise = [], spy


def carried(value, surrogate):
    """Return ``value`` with the gradient of ``surrogate``."""
    return value.detach() + surrogate - surrogate.detach()


def mean_square(x):
    return x.square().sum() / x.numel()


def entropy(probs):
    return -torch.special.xlogy(probs, probs).sum(-1)


def rotated(x, q):
    """Return (|q| / |x|) R x for each row, with the matrix R of the rotation from x to q."""
    out = []
    for row, to in zip(x, q, strict=True):
        a, b = (v.detach() / v.detach().norm() for v in (row, to))
        r = (a + b) / (a + b).norm()
        rotation = torch.eye(len(a)).double() - 2 * torch.outer(r, r) + 2 * torch.outer(b, a)
        out.append(to.norm().detach() / row.norm().detach() * rotation @ row)
    return torch.stack(out)


def bounded(q, rows):
    """Map the rows (N, D) to the domain of the codes."""
    if isinstance(q, FSQ):
        columns = []
        for column, count in zip(rows.T, q.levels.tolist(), strict=True):
            half, offset = (count - 1) * 1.001 / 2, 0.5 if count % 2 == 0 else 0.0
            columns.append(((column + math.atanh(offset / half)).tanh() * half - offset) / (count // 2))
        return torch.stack(columns, 1)
    if isinstance(q, BinarySpherical) or getattr(q, "distance", None) == "cosine":
        return rows / rows.norm(dim=1, keepdim=True)
    if isinstance(q, ProductQuantizer):
        return torch.cat([bounded(p, rows_p) for p, rows_p in zip(q.parts, groups(q, rows), strict=True)], 1)
    return bounded(q.parts[0], rows) if isinstance(q, ResidualQuantizer) else rows


def groups(q, rows):
    return rows.chunk(len(q.parts), 1)


def gain(q):
    if isinstance(q, FSQ):
        return torch.tensor(q.levels.tolist()).double() - 1
    if isinstance(q, ProductQuantizer):
        inner = gain(q.parts[0])
        return inner.repeat(len(q.parts)) if torch.is_tensor(inner) else inner
    return 2.0 if isinstance(q, LookupFree) else 1.0


def leaf_of(q):
    """The first quantizer that has no parts."""
    while hasattr(q, "parts") or isinstance(q, MultiScaleQuantizer):
        q = q.parts[0] if hasattr(q, "parts") else q.quantizer
    return q


def estimated(q, x, codes):
    """Return the codes with the gradient of the straight-through or rotation estimator."""
    return carried(codes, rotated(x, codes) if leaf_of(q).init_args.get("estimator") == "rotation" else x)


@functools.singledispatch
def restated(q, x, indices, search=True):
    """Check the ``indices`` of bounded rows ``x`` (N, D); return (quantized, loss) by the formulas of the papers."""
    codes = q.codebook if isinstance(q, VectorQuantizer) else q.frozen @ q.projection.weight.T + q.projection.bias
    if getattr(q, "distance", None) == "cosine":
        codes = codes / codes.norm(dim=1, keepdim=True)
    assert not search or torch.equal(indices, nearest(x, codes))
    codes = torch.stack([codes[index] for index in indices])
    loss = q.commitment_weight * mean_square(x - codes.detach())
    if isinstance(q, SimVQ) or q.codebook_update == "loss":
        loss = loss + mean_square(x.detach() - codes)
    return estimated(q, x, codes), loss


@restated.register(ProductQuantizer)
def restated_product(q, x, indices):
    parts = [restated(*a) for a in zip(q.parts, groups(q, x), indices.unbind(1), strict=True)]
    return torch.cat([codes for codes, _ in parts], 1), sum(loss for _, loss in parts) / len(parts)


@restated.register(FSQ)
def restated_fsq(q, x, indices):
    """Codes (j - L // 2) / (L // 2) for the levels j = 0 .. L - 1; the index has the radices L."""
    place, columns = 1, []
    for column, count in zip(x.T, q.levels.tolist(), strict=True):
        level = indices // place % count
        assert torch.equal(level, (column * (count // 2)).round().long() + count // 2)
        columns.append((level - count // 2).double() / (count // 2))
        place *= count
    return estimated(q, x, torch.stack(columns, 1)), torch.zeros(()).double()


@restated.register(ResidualQuantizer)
def restated_residual(q, x, indices):
    rest, total, loss = x, torch.zeros_like(x), 0.0
    for level, part in enumerate(q.parts):
        own = indices[:, level]
        dropped = (own < 0).flatten().all()
        if dropped:  # dropped depths are trained, too
            own = part.quantize((rest * gain(part) ** level).detach()).indices
        beam = {"search": False} if q.beam > 1 else {}  # tests/quantizers/test_composite.py checks the search
        codes, own_loss = restated(part, rest * gain(part) ** level, own, **beam)
        codes, loss = codes / gain(part) ** level, loss + own_loss
        rest = rest - (codes if q.soft else codes.detach())
        total = total if dropped else total + codes
        torch.testing.assert_close(q.lookup(indices[:, : level + 1]).double(), total.detach(), **ROUNDED)
    return total if q.soft else estimated(q, x, total), loss


@restated.register(GumbelQuantizer)
def restated_gumbel(q, x, indices):
    logits = x @ q.logits.weight.T + q.logits.bias
    probs = logits.softmax(1)
    loss = q.kl_weight * (math.log(q.num_embeddings) - entropy(probs)).mean()
    noisy = logits + q.drawn.pop(0)
    assert torch.equal(indices, noisy.argmax(1))
    soft = (noisy / q.temperature.double()).softmax(1)
    if not q.straight_through:
        return soft @ q.codebook, loss
    return q.codebook[indices] + carried(torch.zeros_like(x), soft @ q.codebook.detach()), loss


@restated.register(GaussianQuantizer)
def restated_gaussian(q, x, indices):
    posterior, prior = Normal(x, (q.log_variance(x) / 2).exp()), Normal(0.0, 1.0)
    wide = Normal(posterior.mean[:, None], posterior.stddev[:, None])
    assert torch.equal(indices, (wide.log_prob(q.codebook) - prior.log_prob(q.codebook)).sum(2).argmax(1))
    bits, target = kl_divergence(posterior, prior).sum(1) / math.log(2), math.log2(q.num_embeddings)
    overall, m_above, m_below = q.multipliers.tolist()
    weights = [m_above if b > target + 0.5 else m_below if b < target - 0.5 else 1.0 for b in bits.tolist()]
    loss = q.kl_weight * overall * (torch.tensor(weights).double() * bits).mean()
    return posterior.mean + posterior.stddev * q.drawn.pop(0), loss


@restated.register(IBQ)
def restated_ibq(q, x, indices):
    logits = x @ q.codebook.T
    assert torch.equal(indices, logits.argmax(1))
    one_hot = F.one_hot(indices, q.num_embeddings).double()
    codes = carried(one_hot, logits.softmax(1)) @ q.codebook  # section 3.2, equation 5
    hard = one_hot @ q.codebook
    loss = mean_square(codes - x) + mean_square(hard.detach() - x)
    loss = loss + q.commitment_weight * mean_square(hard - x.detach())
    if q.entropy_weight:
        sharp = (logits / q.temperature).softmax(1)
        loss = loss + q.entropy_weight * (entropy(sharp).mean() - entropy(sharp.mean(0)))
    return codes, loss


@restated.register(LookupFree)
def restated_lookup_free(q, x, indices):
    """Sum q(c | z) over all 2^D codes; the distribution of a group sums over the codes with equal bits."""
    dim, every = q.embedding_dim, torch.arange(2**q.embedding_dim)
    codes = (2.0 * (every[:, None] >> torch.arange(dim) & 1) - 1).double()
    codes = codes / math.sqrt(dim) if isinstance(q, BinarySpherical) else codes
    probs = (-(x[:, None] - codes).square().sum(2) / q.temperature).softmax(1)
    assert torch.equal(indices, probs.argmax(1))
    start, diversity = 0, 0.0
    for width in [part.shape[1] for part in x.tensor_split(q.num_groups, 1)]:
        group = torch.zeros(2**width).double().index_add(0, every >> start & (2**width - 1), probs.mean(0))
        start, diversity = start + width, diversity + entropy(group)
    loss = q.entropy_weight * (entropy(probs).mean() - q.diversity_weight * diversity)
    return estimated(q, x, codes[indices]), loss + q.commitment_weight * mean_square(x - codes[indices])


def restated_pyramid(q, z, indices):
    """Algorithms 1 and 2 of VAR, with resampling by matrices."""
    f = bounded(q.quantizer, rows_of(z)).view(z.shape[0], *z.shape[2:], -1).movedim(-1, 1)
    f_hat, loss, start = torch.zeros_like(f), 0.0, 0
    for scale, edge in enumerate(q.scales):
        rest = down(f - (f_hat if q.soft else f_hat.detach()), edge)
        own = indices[:, start : start + edge**q.spatial_dims].flatten(0, 1)
        start += edge**q.spatial_dims
        codes, own_loss = restated(q.quantizer, rows_of(rest), own)
        if not q.soft:
            codes = q.quantizer.lookup(own).double()
        h = up(codes.view(len(z), *rest.shape[2:], -1).movedim(-1, 1), z.shape[-1])
        phi = q.phi[round(scale / max(1, len(q.scales) - 1) * (len(q.phi) - 1))]
        f_hat = f_hat + h / 2 + phi(h) / 2
        torch.testing.assert_close(q.decode(indices[:, :start]).double(), f_hat, **ROUNDED)
        loss = loss + (own_loss + mean_square(f_hat - f.detach())) / len(q.scales)
    if not q.soft:
        f_hat = estimated(q, rows_of(f), rows_of(f_hat)).view(len(f), *f.shape[2:], -1).movedim(-1, 1)
    return f_hat, loss


@pytest.mark.parametrize("name", FAMILY)
def test_values_losses_and_gradients_equal_formulas(name):
    quantizer = double(name)
    record_noise(quantizer)
    z = example(quantizer, 5).double().requires_grad_()
    out = quantizer(z)
    again = z.detach().clone().requires_grad_()
    if isinstance(quantizer, MultiScaleQuantizer):
        quantized, loss = restated_pyramid(quantizer, again, out.indices)
    else:
        rows = bounded(quantizer, rows_of(again))
        quantized, loss = restated(quantizer, rows, out.indices.flatten(0, 1))
        quantized = quantized.view(z.shape[0], *z.shape[2:], -1).movedim(-1, 1)
    close = ROUNDED if "fsq" in name or "binary" in name else EXACT
    torch.testing.assert_close(out.quantized, quantized, **close)
    torch.testing.assert_close(out.loss, loss, **close)

    weight = rand64(*z.shape, seed=6)
    names, parameters = zip(*[("z", None), *quantizer.named_parameters()], strict=True)
    for theirs, ours in ((out.loss, loss), ((out.quantized * weight).sum(), (quantized * weight).sum())):
        if not ours.requires_grad:
            assert not theirs.requires_grad
            continue
        found = torch.autograd.grad(theirs, [z, *parameters[1:]], retain_graph=True, materialize_grads=True)
        expected = torch.autograd.grad(ours, [again, *parameters[1:]], retain_graph=True, materialize_grads=True)
        for label, a, b in zip(names, found, expected, strict=True):
            torch.testing.assert_close(a, b, **close, msg=lambda text, label=label: f"{label}: {text}")
    assert torch.autograd.grad((out.quantized * weight).sum(), z)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "pick"),
    [
        *((functools.partial(trained, n), "loss") for n in ("lookup-free-groups", "binary-spherical", "gumbel")),
        *((functools.partial(trained, "gaussian"), pick) for pick in ("loss", "quantized")),
        (functools.partial(trained, "gumbel-mixture"), "quantized"),
        (lambda: pyramid(gumbel(temperature=0.7, straight_through=False), scales=[1, 2], num_phi=1), "quantized"),
    ],
)
def test_gradients_equal_finite_differences(build, pick):
    quantizer = build().double()
    quantizer.auto_update, quantizer.sample_index = False, torch.arange(2)
    z = example(quantizer, 3, batch=2, edge=2).double().requires_grad_()
    leaves = {name: p.detach().clone().requires_grad_() for name, p in quantizer.named_parameters()}

    def function(z, *values):
        return getattr(functional_call(quantizer, dict(zip(leaves, values, strict=True)), (z,)), pick)

    assert torch.autograd.gradcheck(function, (z, *leaves.values()), eps=1e-7, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["gaussian", "ibq", "gumbel", "gumbel-mixture", "lookup-free-groups", "binary-spherical", "residual-gumbel"]
)
def test_block_size_does_not_change_gradients(name, monkeypatch):
    results = []
    quantizer = double(name)
    for elements in (2**22, 50):
        monkeypatch.setattr(search, "CHUNK_ELEMENTS", elements)
        quantizer.zero_grad()
        z = example(quantizer, 5).double().requires_grad_()
        out = quantizer(z)
        (out.quantized.square().sum() + out.loss).backward()
        results.append([out.quantized, out.loss, z.grad, *(p.grad for p in quantizer.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_gradient_of_ibq_equals_closed_form():
    """dq/dz = Cov_p(c), the covariance of the codes under p = softmax(z C^T); every code has a gradient."""
    quantizer = IBQ(9, 4).double()
    z, g = rand64(30, 4, seed=3).requires_grad_(), rand64(30, 4, seed=4)
    out = quantizer(z)
    out.quantized.backward(g)
    codes = quantizer.codebook.detach()
    expected = torch.zeros_like(codes)
    for n, p in enumerate((z.detach() @ codes.T).softmax(1)):
        away = codes - p @ codes
        torch.testing.assert_close(z.grad[n], (p[:, None] * away).T @ away @ g[n], rtol=1e-10, atol=1e-12)
        expected[out.indices[n]] += g[n]
        expected += torch.outer(p * (away @ g[n]), z[n].detach())
    torch.testing.assert_close(quantizer.codebook.grad, expected, rtol=1e-10, atol=1e-12)


def jacobian(z, q):
    """dq/dz (D, D) of one row, by autograd."""
    return torch.autograd.functional.jacobian(lambda x: rotation_trick(x[None], q[None])[0], z)


@pytest.mark.parametrize("seed", range(5))
def test_rotation_trick_is_a_scaled_rotation_from_z_to_q(seed):
    z, q = rand64(6, seed=seed), rand64(6, seed=seed + 100)
    rotation = jacobian(z, q) * z.norm() / q.norm()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(6).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation @ z / z.norm(), q / q.norm(), rtol=0, atol=1e-12)
    assert torch.linalg.det(rotation).item() == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("dim", [2, 5, 32])
def test_rotation_trick_equals_its_matrix(dim, dtype, tolerance):
    z, q, g = (rand(20, dim, seed=seed, dtype=dtype) for seed in (4, 5, 6))
    out = rotation_trick(z.requires_grad_(), q)
    assert torch.equal(out, q)
    exact = z.detach().double().requires_grad_()
    [expected] = torch.autograd.grad(rotated(exact, q.double()), exact, g.double())
    scale = (z.norm(dim=1) / q.norm(dim=1)).detach().double()[:, None]
    found = scale * torch.autograd.grad(out, z, g)[0].double()
    torch.testing.assert_close(found, scale * expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("z", "q"),
    [
        ([1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]),
        ([1.0, -2.0, 0.5], [-3.0, 6.0, -1.5]),
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_rotation_trick_is_straight_through_where_no_rotation_exists(z, q):
    z, q = torch.tensor(z), torch.tensor(q)
    assert torch.equal(rotation_trick(z[None], q[None])[0], q)
    assert torch.equal(jacobian(z, q), torch.eye(3))
