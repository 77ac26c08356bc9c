"""LookupFree and BinarySpherical against a softmax over all 2^D codes, in float64."""

import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.quantizers import lookup_free
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree

CLASSES = [LookupFree, BinarySpherical]


def rand(*shape, seed, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_codes(dim, scale=1.0):
    """Code k has the sign of channel i in its bit i, (2^D, D)."""
    codes = [[scale if k >> i & 1 else -scale for i in range(dim)] for k in range(2**dim)]
    return torch.tensor(codes, dtype=torch.float64)


def posterior(rows, codes, temperature):
    """q(c|z), (N, K), from the distances."""
    distances = torch.stack([(row - codes).square().sum(1) for row in rows])
    return (-distances / temperature).softmax(1)


def entropy(probs):
    return torch.special.entr(probs).sum(-1)


def marginals(probs, widths):
    """The distributions of consecutive groups of bits, each by adding up all codes that agree in them."""
    start, groups = 0, []
    for width in widths:
        of_code = torch.arange(probs.shape[-1]) >> start & (2**width - 1)
        groups.append(torch.stack([probs[:, of_code == g].sum(1) for g in range(2**width)], 1))
        start += width
    return groups


def restated(cls, z, dim, temperature, weights, widths=None):
    """(loss, terms) from equations 5 and 6 with probabilities of all codes, written out."""
    spherical = cls is BinarySpherical
    rows = z / z.norm(dim=1, keepdim=True) if spherical else z
    codes = all_codes(dim, 1 / math.sqrt(dim) if spherical else 1.0)
    probs = posterior(rows, codes, temperature)
    sample = entropy(probs).mean()
    batch = sum(entropy(group.mean(0)) for group in marginals(probs, widths or [dim]))
    nearest = codes[(probs.detach()).argmax(1)]
    commitment = (rows - nearest).square().sum() / rows.numel()
    entropy_weight, diversity_weight, commitment_weight = weights
    loss = entropy_weight * (sample - diversity_weight * batch) + commitment_weight * commitment
    return loss, {"sample_entropy": sample, "batch_entropy": batch, "commitment_loss": commitment}


def assert_terms(out, loss, terms):
    torch.testing.assert_close(out.loss, loss, rtol=1e-7, atol=1e-9)  # 1 / sqrt(D) is rounded to float32 in the codes
    assert out.terms.keys() == terms.keys()
    for name, term in terms.items():
        torch.testing.assert_close(out.terms[name], term.detach(), rtol=1e-7, atol=1e-9)
        assert not out.terms[name].requires_grad


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_indices_are_the_bits_and_codes_the_signs(cls, dim):
    quantizer = cls(dim)
    codes = all_codes(dim, quantizer.scale)
    decoded = quantizer.decode(torch.arange(2**dim))
    assert quantizer.num_embeddings == 2**dim
    torch.testing.assert_close(decoded.double(), codes, rtol=1e-6, atol=0)
    z = rand(50, dim, seed=1)
    out = quantizer(z)
    by_hand = [sum(2**i for i in range(dim) if row[i] > 0) for row in z]
    assert out.indices.tolist() == by_hand
    assert torch.equal(out.quantized.sign(), z.sign())
    nearest = torch.stack([(row - codes).square().sum(1).argmin() for row in quantizer.bound(z)])
    assert torch.equal(out.indices, nearest)
    assert quantizer(decoded).indices.tolist() == list(range(2**dim))
    assert out.stats is None


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 20.0])
@pytest.mark.parametrize(
    ("dim", "group_size", "widths"), [(6, 8, [6]), (6, 6, [6]), (7, 3, [3, 2, 2]), (6, 1, [1] * 6), (8, 4, [4, 4])]
)
def test_loss_terms_and_gradient(cls, temperature, dim, group_size, widths):
    weights = (0.3, 0.6, 0.9)
    quantizer = cls(dim, *weights, temperature=temperature, group_size=group_size)
    z = rand(40, dim, seed=2, scale=0.7).requires_grad_()
    out = quantizer(z)
    loss, terms = restated(cls, z, dim, temperature, weights, widths)
    assert_terms(out, loss, terms)
    (ours,), (theirs,) = torch.autograd.grad(out.loss, z), torch.autograd.grad(loss, z)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    assert_terms(quantizer.eval()(z.detach()), loss, terms)


@pytest.mark.parametrize("weights", [(0.5, 1.0, 0.0), (0.0, 1.0, 2.0), (1.0, 0.0, 0.0)])
@pytest.mark.parametrize("cls", CLASSES)
def test_each_weight_weighs_its_term(cls, weights):
    z = rand(30, 4, seed=3)
    out = cls(4, *weights)(z)
    assert_terms(out, *restated(cls, z, 4, 1.0, weights))


@pytest.mark.parametrize("seed", range(3))
def test_groups_bound_the_joint_entropy_from_above(seed):
    z = rand(60, 6, seed=seed, scale=2) @ rand(6, 6, seed=seed + 10)  # channels that depend on each other
    joint = LookupFree(6, group_size=6)(z).terms["batch_entropy"]
    bounds = [LookupFree(6, group_size=size)(z).terms["batch_entropy"] for size in (3, 2, 1)]
    assert joint < bounds[0] < bounds[2]
    assert joint < bounds[1] < bounds[2]
    assert bounds[2] <= 6 * math.log(2)


def test_one_vector_has_one_entropy():
    terms = LookupFree(9, group_size=4)(rand(1, 9, seed=4)).terms
    torch.testing.assert_close(terms["sample_entropy"], terms["batch_entropy"])


@pytest.mark.parametrize("cls", CLASSES)
def test_temperature_limits(cls):
    z = rand(200, 3, seed=5)
    cold, hot = cls(3, temperature=1e-5)(z), cls(3, temperature=1e6)(z)
    shares = torch.bincount(cold.indices, minlength=8).double() / 200
    assert cold.terms["sample_entropy"] < 1e-3
    torch.testing.assert_close(cold.terms["batch_entropy"], entropy(shares), rtol=0, atol=1e-3)
    for term in ("sample_entropy", "batch_entropy"):
        assert hot.terms[term].item() == pytest.approx(3 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_gradient_of_the_output(cls):
    quantizer = cls(5, commitment_weight=0.0)
    z, g = rand(20, 5, seed=6).requires_grad_(), rand(20, 5, seed=7)
    quantizer(z).quantized.backward(g)
    expected = g
    if cls is BinarySpherical:  # that of the projection onto the sphere, (I - z^ z^T) / |z|
        unit = z.detach() / z.detach().norm(dim=1, keepdim=True)
        expected = (g - unit * (unit * g).sum(1, keepdim=True)) / z.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(z.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cls", CLASSES)
def test_62_channels_and_the_memory_of_their_groups(cls, monkeypatch):
    widths, joint = [], lookup_free._joint
    monkeypatch.setattr(lookup_free, "_joint", lambda logits: (widths.append(joint(logits).shape[1]), joint(logits))[1])
    quantizer = cls(62, group_size=5).eval()
    z = torch.cat([rand(9, 62, seed=8), torch.ones(1, 62).double(), -torch.ones(1, 62).double()])
    with torch.no_grad():
        out = quantizer(z)
    assert sorted(set(widths)) == [16, 32]
    assert len(widths) == 13
    assert out.indices[-2:].tolist() == [2**62 - 1, 0]
    assert out.indices.tolist() == [sum(2**i for i in range(62) if row[i] > 0) for row in z]
    assert torch.equal(quantizer.decode(out.indices).sign().double(), z.sign())
    assert all(term.isfinite() for term in out.terms.values())


@pytest.mark.parametrize("elements", [1, 16 * 7])
def test_blocks_of_the_batch_entropy_give_the_same(monkeypatch, elements):
    z = rand(30, 7, seed=9).requires_grad_()
    quantizer = LookupFree(7, group_size=4)
    whole = quantizer(z)
    (expected,) = torch.autograd.grad(whole.loss, z)
    monkeypatch.setattr("vqlab.quantizers.chunks.CHUNK_ELEMENTS", elements)
    out = quantizer(z)
    assert_terms(out, whole.loss, whole.terms)
    torch.testing.assert_close(torch.autograd.grad(out.loss, z)[0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cls", CLASSES)
def test_extreme_inputs(cls, dtype):
    for scale in (1e4, 1e-30):
        z = (scale * rand(20, 6, seed=10)).to(dtype).requires_grad_()
        out = cls(6, temperature=0.01)(z)
        out.loss.backward()
        assert out.loss.isfinite()
        assert z.grad.isfinite().all()
        assert torch.equal(out.quantized.sign(), z.sign())
    certain = LookupFree(6)(torch.full((8, 6), 1e4, dtype=dtype))
    assert certain.terms["sample_entropy"] == 0
    assert certain.terms["batch_entropy"] == 0


def test_spherical_codes_and_bound():
    quantizer = BinarySpherical(7)
    z = rand(40, 7, seed=11, scale=9)
    torch.testing.assert_close(quantizer.bound(z), z / z.norm(dim=1, keepdim=True))
    out = quantizer(z)
    torch.testing.assert_close(out.quantized.norm(dim=1), torch.ones(40).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(quantizer(100 * z).loss, out.loss)
    distance = (quantizer.bound(z) - out.quantized).norm(dim=1)
    assert distance.max() < math.sqrt(2 - 2 / math.sqrt(7))  # for sum |z_i| >= |z|


@pytest.mark.parametrize("cls", CLASSES)
def test_zero_vectors(cls):
    z = torch.cat([torch.zeros(3, 5), torch.randn(3, 5)]).requires_grad_()
    out = cls(5)(z)
    (out.quantized.sum() + out.loss).backward()
    assert out.indices[:3].tolist() == [0, 0, 0]  # zero is not positive
    assert out.quantized.isfinite().all()
    assert out.loss.isfinite()
    assert z.grad.isfinite().all()


def test_defaults_of_the_papers():
    assert LookupFree().commitment_weight == 0.25
    assert BinarySpherical().commitment_weight == 0
    z = rand(10, 10, seed=12)
    out = BinarySpherical()(z)
    torch.testing.assert_close(out.loss, 0.1 * (out.terms["sample_entropy"] - out.terms["batch_entropy"]))


def test_nothing_to_learn_and_no_state():
    for cls in CLASSES:
        assert not cls(4).state_dict()
        assert not list(cls(4).parameters())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding_dim": 0}, ("embedding_dim must be at least 1, got 0", "--model.quantizer.embedding_dim=")),
        ({"embedding_dim": 63}, ("embedding_dim 63", "int64", "at most 62", "ProductQuantizer")),
        ({"group_size": 0}, ("group_size must be at least 1, got 0", "--model.quantizer.group_size=")),
        ({"group_size": 17}, ("group_size 17", "2^17", "at most 16")),
        ({"entropy_weight": -0.1}, ("entropy_weight must be finite and not negative, got -0.1", "0.1 is usual")),
        ({"diversity_weight": math.nan}, ("diversity_weight must be finite and not negative, got nan", "1 is usual")),
        ({"commitment_weight": -1.0}, ("commitment_weight must be finite and not negative, got -1.0", "0.25 is usual")),
        ({"temperature": 0.0}, ("temperature must be finite and above 0, got 0.0", "1 is usual")),
        ({"temperature": math.nan}, ("temperature must be finite and above 0, got nan", "1 is usual")),
    ],
)
def test_refusals(cls, change, words):
    with refused(*words):
        cls(**change)


def test_a_table_of_all_codes():
    torch.testing.assert_close(LookupFree(6).codebooks()["codebook"].double(), all_codes(6))
    with refused("codes are too many", "quantizer.decode"):
        LookupFree(23).codebooks()


def test_limits_that_are_allowed():
    LookupFree(1, 0.0, 0.0, 0.0, 1e-6, 1)
    LookupFree(62, group_size=16)
