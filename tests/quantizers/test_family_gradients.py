"""Losses and gradients of the family in float64, against formulas written out with their stopped gradients."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.family import (
    BATCH,
    FAMILY,
    example,
    nearest,
    parts_of,
    rand,
    rows_of,
    trained,
)
from tests.helpers.resampling import down, up
from vqlab.quantizers import search
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.quantizers.sim_vq import SimVQ
from vqlab.quantizers.vector import VectorQuantizer

# FSQ bounds, and LookupFree scales, with constants that are rounded to float32.
EXACT, ROUNDED = {"rtol": 1e-9, "atol": 1e-10}, {"rtol": 1e-5, "atol": 1e-6}


def double(name):
    quantizer = trained(name).double()
    quantizer.sample_index = torch.arange(BATCH) + 50
    return quantizer


def record_noise(quantizer):
    """Keep what each Gumbel quantizer draws, in order, as its attribute ``drawn``."""
    for part in parts_of(quantizer):
        if isinstance(part, GumbelQuantizer):

            def spy(*args, drawn, draw):
                drawn.append(draw(*args))
                return drawn[-1]

            part.drawn = []
            part._noise = functools.partial(spy, drawn=part.drawn, draw=part._noise)


def tolerance(name):
    return ROUNDED if "fsq" in name or "binary" in name else EXACT


def carried(value, surrogate):
    """``value`` with the gradient of ``surrogate``."""
    return value.detach() + surrogate - surrogate.detach()


def mean_square(x):
    return x.square().sum() / x.numel()


def entropy(probs):
    return -torch.special.xlogy(probs, probs).sum(-1)


def rotated(x, q):
    """(|q| / |x|) R x for each row, R the constant rotation from x to q, from its matrix."""
    out = []
    for row, to in zip(x, q, strict=True):
        a, b = (v.detach() / v.detach().norm() for v in (row, to))
        r = (a + b) / (a + b).norm()
        turn = torch.eye(len(a)).double() - 2 * torch.outer(r, r) + 2 * torch.outer(b, a)
        out.append(to.norm().detach() / row.norm().detach() * turn @ row)
    return torch.stack(out)


def bounded(q, rows):
    """The rows (N, D) where the codes live."""
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
    return rows.split(rows.shape[1] // len(q.parts), 1)


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
    """The codes with the gradient of the straight-through or rotation estimator."""
    return carried(codes, rotated(x, codes) if leaf_of(q).init_args.get("estimator") == "rotation" else x)


def restated(q, x, indices):
    """(quantized, loss) of bounded rows ``x`` (N, D) in the papers' formulas; checks that ``indices`` are right."""
    if isinstance(q, ProductQuantizer):
        parts = [restated(*a) for a in zip(q.parts, groups(q, x), indices.unbind(1), strict=True)]
        return torch.cat([codes for codes, _ in parts], 1), sum(loss for _, loss in parts) / len(parts)
    if isinstance(q, ResidualQuantizer):
        return restated_residual(q, x, indices)
    if isinstance(q, GumbelQuantizer):
        return restated_gumbel(q, x, indices)
    if isinstance(q, IBQ):
        return restated_ibq(q, x, indices)
    if isinstance(q, FSQ):
        return restated_fsq(q, x, indices)
    if isinstance(q, LookupFree):
        return restated_lookup_free(q, x, indices)
    codes = q.codebook if isinstance(q, VectorQuantizer) else q.frozen @ q.projection.weight.T + q.projection.bias
    if getattr(q, "distance", None) == "cosine":
        codes = codes / codes.norm(dim=1, keepdim=True)
    assert torch.equal(indices, nearest(x, codes))
    codes = torch.stack([codes[index] for index in indices])
    loss = q.commitment_weight * mean_square(x - codes.detach())
    if isinstance(q, SimVQ) or q.codebook_update == "loss":
        loss = loss + mean_square(x.detach() - codes)
    return estimated(q, x, codes), loss


def restated_fsq(q, x, indices):
    """Codes (j - L // 2) / (L // 2) for the levels j = 0 .. L - 1; the index has the radices L."""
    place, columns = 1, []
    for column, count in zip(x.T, q.levels.tolist(), strict=True):
        level = indices // place % count
        assert torch.equal(level, (column * (count // 2)).round().long() + count // 2)
        columns.append((level - count // 2).double() / (count // 2))
        place *= count
    return estimated(q, x, torch.stack(columns, 1)), torch.zeros(()).double()


def restated_residual(q, x, indices):
    rest, total, loss = x, torch.zeros_like(x), 0.0
    for level, part in enumerate(q.parts):
        own = indices[:, level]
        dropped = (own < 0).flatten().all()
        if dropped:  # it is trained all the same
            own = part.quantize((rest * gain(part) ** level).detach()).indices
        codes, its_loss = restated(part, rest * gain(part) ** level, own)
        codes, loss = codes / gain(part) ** level, loss + its_loss
        rest = rest - (codes if q.soft else codes.detach())
        total = total if dropped else total + codes
        torch.testing.assert_close(q.lookup(indices[:, : level + 1]).double(), total.detach(), **ROUNDED)
    return total if q.soft else estimated(q, x, total), loss


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


def restated_lookup_free(q, x, indices):
    """With q(c | z) over all 2^D codes; a group's distribution is the sum over the codes that agree in its bits."""
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
        codes, its_loss = restated(q.quantizer, rows_of(rest), own)
        if not q.soft:
            codes = q.quantizer.lookup(own).double()
        h = up(codes.view(len(z), *rest.shape[2:], -1).movedim(-1, 1), z.shape[-1])
        phi = q.phi[round(scale / max(1, len(q.scales) - 1) * (len(q.phi) - 1))]
        f_hat = f_hat + h / 2 + phi(h) / 2
        torch.testing.assert_close(q.decode(indices[:, :start]).double(), f_hat, **ROUNDED)
        loss = loss + (its_loss + mean_square(f_hat - f.detach())) / len(q.scales)
    return f_hat if q.soft else estimated_map(q, f, f_hat), loss


def estimated_map(q, f, f_hat):
    return estimated(q, rows_of(f), rows_of(f_hat)).view(len(f), *f.shape[2:], -1).movedim(-1, 1)


@pytest.mark.parametrize("name", FAMILY)
def test_value_loss_and_gradients_equal_the_formulas(name):
    """The gradients of loss and quantized, with respect to the input and to every parameter."""
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
    close = tolerance(name)
    torch.testing.assert_close(out.quantized, quantized, **close)
    torch.testing.assert_close(out.loss, loss, **close)

    weight = rand(*z.shape, seed=6).double()
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


# --- what is differentiable for real, by finite differences -------------------------------------------------------


# --- blocks --------------------------------------------------------------------------------------------------------

BLOCKED = ["ibq", "gumbel", "gumbel-mixture", "lookup-free-groups", "binary-spherical", "residual-gumbel"]


@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_change_no_gradient(name, monkeypatch):
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
