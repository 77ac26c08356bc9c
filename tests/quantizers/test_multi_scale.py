"""MultiScaleQuantizer against VAR's algorithms 1 and 2, scale by scale in float64."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.refusal import refused
from tests.helpers.resampling import down, up
from vqlab.quantizers.estimators import rotation_trick
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.quantizers.product import ProductQuantizer
from vqlab.quantizers.residual import ResidualQuantizer
from vqlab.quantizers.vector import VectorQuantizer

K, D, WEIGHT = 12, 3, 0.3


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def refine(h, phi):
    conv = (F.conv1d, F.conv2d, F.conv3d)[h.ndim - 3]
    return h / 2 + conv(h, *phi, padding=1) / 2


def encode(f, codebook, phis, scales):
    """Algorithm 1 with both losses; also the reconstruction after each scale (algorithm 2)."""
    f_hat, sequence, partial, losses = torch.zeros_like(f), [], [], []
    for size, phi in zip(scales, phis, strict=True):
        rest = down(f - f_hat.detach(), size)
        rows = rest.movedim(1, -1).reshape(-1, D)
        index = torch.stack([(row - codebook).square().sum(1).argmin() for row in rows.detach()])
        codes = codebook[index]
        own = WEIGHT * (rows - codes.detach()).square().mean() + (rows.detach() - codes).square().mean()
        grid = codes.reshape(len(f), *[size] * (f.ndim - 2), D).movedim(-1, 1)
        f_hat = f_hat + refine(up(grid, f.shape[-1]), phi)
        losses.append(own + (f_hat - f.detach()).square().mean())
        sequence.append(index.reshape(len(f), -1))
        partial.append(f_hat)
    return torch.cat(sequence, 1), partial, sum(losses) / len(losses)


def make(scales, num_phi=4, spatial_dims=2, rule="loss"):
    """A fixed codebook, in float64."""
    part = VectorQuantizer(K, D, WEIGHT, rule, init="uniform", revive_after=None)
    quantizer = MultiScaleQuantizer(part, scales, num_phi, spatial_dims).double()
    part.codebook.data.copy_(rand(K, D, seed=100))
    quantizer.auto_update = False
    return quantizer


def leaves(quantizer):
    """Copies of the codebook and of (weight, bias) of each phi."""
    copies = [p.detach().clone().requires_grad_() for p in (quantizer.quantizer.codebook, *quantizer.phi.parameters())]
    return copies[0], list(zip(copies[1::2], copies[2::2], strict=True)), copies


@pytest.mark.parametrize(
    ("scales", "spatial_dims", "used"),
    [
        ([1, 2, 4], 2, [0, 1, 2]),
        ([1, 2, 3, 4, 5, 7], 2, [0, 1, 1, 2, 2, 3]),
        ([3, 5], 2, [0, 1]),
        ([4], 2, [0]),
        ([1, 2, 5, 8], 1, [0, 1, 2, 3]),
        ([1, 2, 3], 3, [0, 1, 2]),
    ],
)
def test_algorithms_1_and_2(scales, spatial_dims, used):
    quantizer = make(scales, spatial_dims=spatial_dims)
    f = rand(2, D, *[scales[-1]] * spatial_dims, seed=1).requires_grad_()
    out = quantizer(f)
    codebook, phis, copies = leaves(quantizer)
    indices, partial, loss = encode(f, codebook, [phis[phi] for phi in used], scales)
    assert torch.equal(out.indices, indices)
    torch.testing.assert_close(out.quantized, partial[-1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.loss, loss, rtol=1e-9, atol=1e-9)
    ends = [sum(size**spatial_dims for size in scales[: n + 1]) for n in range(len(scales))]
    for end, f_hat in zip(ends, partial, strict=True):
        torch.testing.assert_close(quantizer.decode(out.indices[:, :end]), f_hat, rtol=1e-9, atol=1e-9)
    ours = torch.autograd.grad(out.loss, [f, quantizer.quantizer.codebook, *quantizer.phi.parameters()])
    for a, b in zip(ours, torch.autograd.grad(loss, [f, *copies]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("num_scales", "num_phi", "used"),
    [(6, 4, [0, 1, 1, 2, 2, 3]), (5, 1, [0] * 5), (3, 9, [0, 1, 2]), (10, 2, [0] * 5 + [1] * 5), (1, 4, [0])],
)
def test_which_scale_uses_which_phi(num_scales, num_phi, used):
    quantizer, calls = make(list(range(1, num_scales + 1)), num_phi), []
    assert len(quantizer.phi) == max(used) + 1
    for number, phi in enumerate(quantizer.phi):
        phi.register_forward_hook(lambda *_, number=number: calls.append(number))
    quantizer(rand(1, D, num_scales, num_scales, seed=2))
    assert calls == used


def test_terms_are_means_over_the_scales():
    quantizer, f = make([1, 2, 4]).eval(), rand(2, D, 4, 4, seed=3)
    out = quantizer(f)
    _, partial, _ = encode(f, *leaves(quantizer)[:2], [1, 2, 4])
    refinement = sum((f_hat.detach() - f).square().mean() for f_hat in partial) / 3
    torch.testing.assert_close(out.terms["refinement_loss"], refinement)
    assert out.terms.keys() == {"commitment_loss", "codebook_loss", "refinement_loss"}
    parts = WEIGHT * out.terms["commitment_loss"] + out.terms["codebook_loss"] + out.terms["refinement_loss"]
    torch.testing.assert_close(out.loss, parts)
    assert not any(term.requires_grad for term in out.terms.values())


def test_the_output_passes_the_gradient_once_and_reaches_nothing_else():
    quantizer = make([1, 2, 4])
    f, g = rand(2, D, 4, 4, seed=4).requires_grad_(), rand(2, D, 4, 4, seed=5)
    quantizer(f).quantized.backward(g)
    assert torch.equal(f.grad, g)
    assert all(p.grad is None for p in quantizer.parameters())  # phi learns from the refinement loss alone


def test_the_rotation_is_that_of_the_whole():
    part = VectorQuantizer(K, D, init="uniform", estimator="rotation")
    f, g = rand(2, D, 4, 4, seed=16).requires_grad_(), rand(2, D, 4, 4, seed=17)
    out = MultiScaleQuantizer(part, [1, 2, 4]).double().eval()(f)
    (ours,) = torch.autograd.grad(out.quantized, f, g)
    rows, codes = (x.movedim(1, -1).reshape(-1, D) for x in (f, out.quantized.detach()))
    turned = rotation_trick(rows, codes).reshape(2, 4, 4, D).movedim(-1, 1)
    torch.testing.assert_close(ours, torch.autograd.grad(turned, f, g)[0])


def test_the_map_is_bounded_once_before_the_pyramid():
    quantizer = MultiScaleQuantizer(FSQ([5, 3, 7]), [1, 3])
    f, g = rand(2, D, 3, 3, seed=14).float().requires_grad_(), rand(2, D, 3, 3, seed=15).float()
    out = quantizer(f)
    bounded = quantizer.quantizer.bound(f.movedim(1, -1)).movedim(-1, 1)
    errors = [(quantizer.decode(out.indices[:, :end]) - bounded).square().mean() for end in (1, 10)]
    torch.testing.assert_close(out.terms["refinement_loss"], sum(errors) / 2)
    (ours,), (theirs,) = torch.autograd.grad(out.quantized, f, g), torch.autograd.grad(bounded, f, g)
    torch.testing.assert_close(ours, theirs)


def test_a_soft_quantizer_passes_its_gradient_through_phi():
    quantizer = MultiScaleQuantizer(IBQ(K, D), [1, 3]).double()
    f, g = rand(2, D, 3, 3, seed=6).requires_grad_(), rand(2, D, 3, 3, seed=7)
    out = quantizer(f)
    f_hat, losses = torch.zeros_like(f), []
    for size, phi in zip([1, 3], quantizer.phi, strict=True):
        own = quantizer.quantizer(down(f - f_hat, size))
        f_hat = f_hat + refine(up(own.quantized, 3), (phi.weight, phi.bias))
        losses.append(own.loss + (f_hat - f.detach()).square().mean())
    torch.testing.assert_close(out.quantized, f_hat)
    torch.testing.assert_close(out.loss, sum(losses) / 2)
    inputs = [f, *quantizer.parameters()]
    ours = torch.autograd.grad((out.quantized * g).sum() + out.loss, inputs)
    for a, b in zip(ours, torch.autograd.grad((f_hat * g).sum() + sum(losses) / 2, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_statistics_of_all_scales_add_up():
    quantizer = make([1, 2, 4], rule="ema")
    f = rand(5, D, 4, 4, seed=8)
    out = quantizer(f)
    assert torch.equal(out.stats.counts, torch.bincount(out.indices.flatten(), minlength=K).double())
    assert out.stats.counts.sum() == 5 * 21
    before = [torch.zeros_like(f), quantizer.decode(out.indices[:, :1]), quantizer.decode(out.indices[:, :5])]
    rests = [down(f - f_hat.detach(), size).flatten(2) for f_hat, size in zip(before, [1, 2, 4], strict=True)]
    rows = torch.cat(rests, 2).movedim(1, 2).reshape(-1, D)
    expected = torch.zeros(K, D).double().index_add_(0, out.indices.flatten(), rows)
    torch.testing.assert_close(out.stats.sums, expected)
    quantizer.update(out.stats)
    assert quantizer.quantizer.steps == 1


def smooth_maps(num, dim, seed):
    coarse = rand(num, dim, 4, 4, seed=seed).float()
    return F.interpolate(coarse, size=(8, 8), mode="bicubic") + 0.3 * rand(num, dim, 8, 8, seed=seed + 1).float()


def test_the_codebook_is_set_up_from_the_bands_of_a_laplacian_pyramid(monkeypatch):
    quantizer, seen = make([1, 2, 4]), []
    quantizer.quantizer.first_batch.awaited = True
    monkeypatch.setattr(quantizer.quantizer, "initialize", seen.append)
    f = rand(5, D, 4, 4, seed=9)
    quantizer(f)
    rest, bands = f, []
    for size in [1, 2, 4]:
        bands.append(down(rest, size))
        rest = rest - up(bands[-1], 4)
    rows = torch.cat([band.movedim(1, -1).reshape(-1, D) for band in bands])
    torch.testing.assert_close(seen[0], rows)
    seen.clear()
    quantizer.eval()(f)
    assert not seen


@pytest.mark.parametrize("init", ["kmeans", "data"])
def test_after_the_first_batch_the_finest_scale_has_codes(init):
    quantizer = MultiScaleQuantizer(VectorQuantizer(64, 4, init=init), [1, 2, 4, 8])
    finest = quantizer(smooth_maps(16, 4, seed=10)).indices[:, 21:]
    assert len(finest.unique()) > 48


@pytest.mark.parametrize("composite", [ProductQuantizer, ResidualQuantizer])
def test_after_the_first_batch_a_composite_has_codes_too(composite):
    quantizer = MultiScaleQuantizer(composite(VectorQuantizer(64, 4), 2), [1, 2, 4, 8])
    finest = quantizer(smooth_maps(16, quantizer.embedding_dim, seed=11)).indices[:, 21:]
    assert min(len(finest[..., part].unique()) for part in range(2)) > 48


@pytest.mark.parametrize(
    ("part", "dim"),
    [
        (ProductQuantizer(VectorQuantizer(K, 3), 2), 6),
        (ResidualQuantizer(VectorQuantizer(K, D), 2), D),
        (ResidualQuantizer(VectorQuantizer(K, D), 2, dropout=0.8), D),
    ],
)
def test_a_composite_at_every_scale(part, dim):
    quantizer = MultiScaleQuantizer(part, [1, 2, 4])
    quantizer.auto_update = False
    for step in range(6):
        out = quantizer(rand(5, dim, 4, 4, seed=step).float())
        assert out.indices.shape == (5, 21, 2)
        assert torch.equal(quantizer.decode(out.indices), out.quantized)
        counted = [torch.bincount(part[part >= 0], minlength=K) for part in out.indices.flatten(0, 1).unbind(1)]
        for counts, ours in zip(out.stats.counts, counted, strict=True):
            assert torch.equal(counts, ours) or not ours.any()
        quantizer.update(out.stats)
        assert (out.indices[..., 1] < 0).float().mean() in (0, 1)  # one depth for all scales
    assert [p.steps.item() for p in part.quantizers] == [6, 6]


def test_each_scale_has_its_own_noise():
    quantizer, noise = MultiScaleQuantizer(GumbelQuantizer(K, D), [1, 2, 4]), []
    draw = quantizer.quantizer._noise
    quantizer.quantizer._noise = lambda *args: (noise.append(draw(*args)), noise[-1])[1]
    quantizer.sample_index = torch.arange(5)
    quantizer(rand(5, D, 4, 4, seed=12).float())
    assert len(torch.cat(noise).unique(dim=0)) == 5 * 21


def test_a_batch_without_sample_index_does_not_inherit_the_last_one():
    quantizer = MultiScaleQuantizer(VectorQuantizer(8, 4), [1, 2])
    quantizer.sample_index = torch.arange(5)
    quantizer(rand(5, 4, 2, 2, seed=14).float())
    quantizer.sample_index = None
    quantizer(rand(3, 4, 2, 2, seed=15).float())
    assert quantizer.quantizer.sample_index is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scales": []}, ("scales must ascend from at least 1, got []", "--model.quantizer.scales=[1,2,4,8]")),
        ({"scales": [0, 2]}, ("scales must ascend from at least 1, got [0, 2]",)),
        ({"scales": [2, 2]}, ("scales must ascend", "[2, 2]")),
        ({"num_phi": 0}, ("num_phi must be at least 1, got 0", "--model.quantizer.num_phi=")),
        ({"spatial_dims": 4}, ("spatial_dims must be one of 1, 2, 3, got 4",)),
        ({"quantizer": VectorQuantizer(8, 2, distance="cosine")}, ("leaves no remainder", "distance=euclidean")),
    ],
)
def test_refusals(arguments, words):
    with refused(*words):
        MultiScaleQuantizer(**arguments)


@pytest.mark.parametrize("shape", [(8, 8), (2, 2), (4, 3), (4,), (4, 4, 4)])
def test_maps_of_another_size_are_refused(shape):
    with refused("the last of scales [1, 2, 4]", str(shape), "set --model.quantizer.scales and spatial_dims"):
        make([1, 2, 4])(torch.zeros(2, D, *shape))


@pytest.mark.parametrize("num", [0, 2, 4, 6, 20, 22])
def test_sequences_that_fill_no_scales_are_refused(num):
    with refused(f"{num} indices do not fill the scales [1, 2, 4]", "decode takes 21"):
        make([1, 2, 4]).decode(torch.zeros(2, num, dtype=torch.int64))


def test_the_codebook_and_the_convolutions_are_enough_to_decode():
    quantizer = make([1, 2, 4])
    tables = quantizer.codebooks()
    assert list(tables) == ["codebook", *(f"phi.{n}.{name}" for n in range(3) for name in ("weight", "bias"))]
    out, f_hat = quantizer(rand(2, D, 4, 4, seed=13)), 0.0
    for scale, index in enumerate(out.indices.split([1, 4, 16], 1)):
        codes = tables["codebook"][index].movedim(-1, 1).unflatten(2, [2**scale] * 2)
        f_hat = f_hat + refine(up(codes, 4), (tables[f"phi.{scale}.weight"], tables[f"phi.{scale}.bias"]))
    torch.testing.assert_close(f_hat, out.quantized.detach())


def test_it_must_be_outside_of_other_quantizers():
    for composite in (ResidualQuantizer, ProductQuantizer):
        with refused("MultiScaleQuantizer quantizes maps", "put it outside"):
            composite(make([1, 2]), 1)
    with refused("MultiScaleQuantizer cannot be wrapped", "a quantizer of vectors"):
        MultiScaleQuantizer(make([1, 2]), [1, 2])
