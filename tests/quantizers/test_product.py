"""ProductQuantizer: each group is what its quantizer alone makes of that slice of channels."""

import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.gumbel import GumbelQuantizer
from vqlab.quantizers.ibq import IBQ
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree
from vqlab.quantizers.product import ProductQuantizer
from vqlab.quantizers.residual import ResidualQuantizer
from vqlab.quantizers.sim_vq import SimVQ
from vqlab.quantizers.vector import VectorQuantizer

G, D = 3, 4
PARTS = {
    "vector": lambda: VectorQuantizer(9, D, 0.3, codebook_update="loss"),
    "rotation": lambda: VectorQuantizer(9, D, 0.3, estimator="rotation"),
    "cosine": lambda: VectorQuantizer(9, D, distance="cosine"),
    "fsq": lambda: FSQ([5, 4, 3, 2]),
    "lookup_free": lambda: LookupFree(D, temperature=0.3),
    "binary_spherical": lambda: BinarySpherical(D),
    "gumbel": lambda: GumbelQuantizer(9, D),
    "sim_vq": lambda: SimVQ(9, D),
    "ibq": lambda: IBQ(9, D),
    "residual": lambda: ResidualQuantizer(VectorQuantizer(9, D), 2),
}


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(part):
    """Trained for one batch, so that the codebooks lie among the vectors."""
    quantizer = ProductQuantizer(PARTS[part](), G)
    quantizer(rand(20, G * D, 5, seed=1))
    return quantizer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_each_group_is_the_quantizer_alone(part, training):
    quantizer = make(part).train(training)
    quantizer.auto_update = False
    quantizer.sample_index = torch.arange(6)  # the noise of a Gumbel quantizer is then the same alone
    z, g = rand(6, G * D, 5, seed=2).requires_grad_(), rand(6, G * D, 5, seed=3)
    out = quantizer(z)
    learnt = [p for p in quantizer.parameters() if p.requires_grad]
    ours = torch.autograd.grad((out.quantized * g).sum() + out.loss, [z, *learnt], allow_unused=True)

    slices = [z[:, group * D : (group + 1) * D] for group in range(G)]
    alone = [quantizer.quantizers[group](slices[group]) for group in range(G)]
    for group in range(G):
        assert torch.equal(out.quantized[:, group * D : (group + 1) * D], alone[group].quantized)
        assert torch.equal(out.indices[:, :, group], alone[group].indices)
    loss = sum(one.loss for one in alone) / G
    torch.testing.assert_close(out.loss, loss)
    for name, term in out.terms.items():
        torch.testing.assert_close(term, sum(one.terms[name] for one in alone) / G)
    value = (torch.cat([one.quantized for one in alone], 1) * g).sum() + loss
    for a, b in zip(ours, torch.autograd.grad(value, [z, *learnt], allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 3, 4), (2, 3, 2, 2)])
def test_indices_have_an_axis_of_groups_and_decode_joins_them(shape):
    quantizer = ProductQuantizer(FSQ([5, 3]), 4)
    z = rand(shape[0], 8, *shape[1:], seed=4)
    out = quantizer(z)
    assert out.indices.shape == (*shape, 4)
    assert out.quantized.shape == z.shape
    decoded = quantizer.decode(out.indices)
    assert torch.equal(decoded, out.quantized)
    for group in range(4):
        alone = quantizer.quantizers[group].decode(out.indices[..., group])
        assert torch.equal(decoded[:, 2 * group : 2 * group + 2], alone)


def test_groups_do_not_see_each_other():
    quantizer = make("vector").eval()
    z = rand(6, G * D, seed=5)
    changed = z.clone()
    changed[:, D : 2 * D] += 3
    first, second = quantizer(z), quantizer(changed)
    assert torch.equal(first.indices[:, [0, 2]], second.indices[:, [0, 2]])
    assert not torch.equal(first.indices[:, 1], second.indices[:, 1])


def test_statistics_are_those_of_each_group():
    quantizer = make("rotation")
    quantizer.auto_update = False
    z = rand(30, G * D, seed=6)
    out = quantizer(z)
    for group, stats in enumerate(out.stats.unbind()):
        rows, indices = z[:, group * D : (group + 1) * D], out.indices[:, group]
        assert stats.counts.tolist() == [(indices == code).sum() for code in range(9)]
        sums = torch.stack([rows[indices == code].sum(0) for code in range(9)])
        torch.testing.assert_close(stats.sums, sums, rtol=1e-5, atol=1e-5)


def test_the_noise_of_a_group_is_its_own():
    quantizer = ProductQuantizer(GumbelQuantizer(9, D), G)
    for part in quantizer.quantizers[1:]:
        part.load_state_dict(quantizer.quantizers[0].state_dict())
    quantizer.sample_index = torch.arange(200)
    indices = quantizer(torch.ones(200, G * D)).indices
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (indices[:, a] == indices[:, b]).float().mean() < 0.6


@pytest.mark.parametrize(
    ("part", "gain"),
    [
        (VectorQuantizer(9, 2), 1.0),
        (VectorQuantizer(9, 2, distance="cosine"), None),
        (LookupFree(2), 2.0),
        (FSQ([5, 3]), [4.0, 2.0] * G),
    ],
)
def test_what_is_left_over_is_what_the_groups_leave_over(part, gain):
    ours = ProductQuantizer(part, G).residual_gain
    assert (ours.tolist() if isinstance(ours, torch.Tensor) else ours) == gain


def test_sizes():
    quantizer = ProductQuantizer(LookupFree(5), 4)
    assert (quantizer.num_embeddings, quantizer.embedding_dim, quantizer.num_codebooks) == (32, 20, 4)
    null = ProductQuantizer()
    assert (null.num_embeddings, null.embedding_dim, null.num_codebooks) == (512, 64, 2)
    one = ProductQuantizer(FSQ([5, 3]), 1)
    z = rand(6, 2, seed=7)
    assert torch.equal(one(z).quantized, FSQ([5, 3])(z).quantized)
    assert one(z).indices.shape == (6, 1)


@pytest.mark.parametrize("num_groups", [0, -1])
def test_refusals(num_groups):
    with refused(f"num_groups must be at least 1, got {num_groups}", "--model.quantizer.num_groups="):
        ProductQuantizer(num_groups=num_groups)


def test_a_wrong_number_of_channels_is_refused():
    with refused("(B, 12, ...)", "(2, 13)", "embedding_dim"):
        ProductQuantizer(VectorQuantizer(9, D), G)(torch.zeros(2, 13))


def test_the_mean_does_not_depend_on_the_number_of_equal_groups():
    z = rand(20, D, seed=8)
    one, many = ProductQuantizer(LookupFree(D), 1)(z), ProductQuantizer(LookupFree(D), 5)(z.repeat(1, 5))
    assert many.loss.item() == pytest.approx(one.loss.item(), rel=1e-5)
    assert math.isfinite(one.loss.item())
