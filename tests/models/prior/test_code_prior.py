"""CodePrior: learning of known sources, metrics against independent computations, and checkpoints."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import vqlab
from tests.helpers.bare import trainer, validate
from tests.helpers.models import build
from tests.helpers.small_models import parts
from tests.helpers.toy_codes import Pixels, as_images, loader, markov, walks
from vqlab.models import VQVAE, CodePrior
from vqlab.quantizers import MultiScaleQuantizer, ProductQuantizer, ResidualQuantizer, VectorQuantizer

SMALL = {"dim": 32, "depth": 1, "heads": 2, "dropout": 0.0}


def vqvae(quantizer=None):
    torch.manual_seed(7)
    return build(VQVAE, **parts(), quantizer=quantizer or VectorQuantizer(32, 8))


def digits(**options):
    return vqlab.Digits(**{"image_size": 16, "batch_size": 32, **options})


def test_bits_per_token_of_markov_source_approach_entropy():
    torch.manual_seed(0)
    chain, entropy = markov()
    model = build(CodePrior, Pixels(16, 4), **{**SMALL, "dim": 64, "depth": 2}, lr=5e-3)
    run = trainer(max_steps=250, gradient_clip_val=1.0)
    run.fit(model, loader(walks(chain, 4000), 16, batch_size=64))
    found = validate(model, loader(walks(chain, 1000), 16, batch_size=250))
    assert found["val/bits_per_token"] == pytest.approx(entropy, rel=0.05)
    assert found["val/bits_per_token"] < 0.6 * found["val/unigram_bits"]
    samples = model.sample_codes(200).flatten(1)
    allowed = chain[samples[:, :-1], samples[:, 1:]] > 0
    assert allowed.double().mean() > 0.97


class Pairs(Pixels):
    """A tokenizer with two codes of 4 for each of 16 values of a pixel."""

    def __init__(self):
        super().__init__(16, 4)
        self.quantizer = SimpleNamespace(num_embeddings=4, num_codebooks=2)

    def encode(self, x):
        values = (x[:, 0] * 16).long().clamp_max(15)
        return torch.stack([values // 4, values % 4], -1)


def test_bits_per_code_of_a_depth_transformer_approach_entropy():
    torch.manual_seed(0)
    chain, entropy = markov()
    model = build(CodePrior, Pairs(), **{**SMALL, "dim": 64, "depth": 2}, depth_blocks=1, lr=5e-3)
    trainer(max_steps=400, gradient_clip_val=1.0).fit(model, loader(walks(chain, 8000), 16, batch_size=64))
    found = validate(model, loader(walks(chain, 1000), 16, batch_size=250))
    assert found["val/bits_per_token"] == pytest.approx(entropy / 2, rel=0.03)
    samples = model.sample_codes(200)
    states = (4 * samples[..., 0] + samples[..., 1]).flatten(1)
    assert (chain[states[:, :-1], states[:, 1:]] > 0).double().mean() > 0.97


def test_labels_determine_codes():
    """The NLL is 0 given the label, and ln 4 without it."""
    torch.manual_seed(0)
    of_class = torch.randint(8, (4, 2, 2))
    labels = torch.arange(256) % 4
    data = loader(of_class[labels], 8, labels)
    model = build(CodePrior, Pixels(8, 2), **SMALL, conditional=True, num_classes=4, lr=1e-2, label_dropout=0.3)
    trainer(max_steps=80).fit(model, data)
    model.eval()
    x = as_images(of_class, 8)
    assert model.nll(x, torch.arange(4)).max() < 0.1
    without = model.nll(x)
    assert without.mean().item() == pytest.approx(math.log(4), rel=0.15)
    assert 0.9 < (-without).exp().sum() <= 1.001
    torch.testing.assert_close(model.nll(x, torch.full((4,), -1)), without)  # -1: unknown label
    for label in range(4):
        assert torch.equal(model.sample_codes(3, label), of_class[label].expand(3, -1, -1))
    each = torch.tensor([2, 0, 3])
    assert torch.equal(model.sample_codes(3, each, guidance=2.0), of_class[each])
    assert validate(model, data)["val/nll"] < 0.1 / 4


@pytest.mark.parametrize(
    ("quantizer", "shape"),
    [
        (VectorQuantizer(32, 8), (4, 4)),
        (ResidualQuantizer(VectorQuantizer(16, 8), 3), (4, 4, 3)),
        (ResidualQuantizer(ProductQuantizer(VectorQuantizer(16, 4), 2), 2), (4, 4, 2, 2)),
        (MultiScaleQuantizer(VectorQuantizer(16, 8), [1, 2, 4]), (21,)),
    ],
    ids=["vector", "residual", "residual of products", "pyramid"],
)
def test_all_code_shapes_are_learned_and_sampled(quantizer, shape):
    tokenizer, data = vqvae(quantizer), digits()
    trainer(max_steps=3).fit(tokenizer, data)
    model = build(CodePrior, tokenizer, **SMALL, lr=3e-3)
    before = validate(model, data)["val/nll"]
    trainer(max_steps=30).fit(model, data)
    after = validate(model, data)["val/nll"]
    assert before == pytest.approx(math.log(quantizer.num_embeddings), rel=0.05)
    assert after < before - 0.1
    codes = model.sample_codes(2, generator=torch.Generator().manual_seed(0))
    assert codes.shape == (2, *shape)
    images = model.sample(2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 16, 16)
    assert torch.equal(images, tokenizer.decode(codes))


def test_only_network_is_trained_and_only_matrices_decay():
    tokenizer = vqvae()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    model, run = build(CodePrior, tokenizer, **SMALL, weight_decay=0.1), trainer(max_steps=5)
    run.fit(model, digits())
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    groups = run.optimizers[0].param_groups
    assert {p for group in groups for p in group["params"]} == set(model.network.parameters())
    decayed = {p for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.network.named_parameters() if p in decayed}
    matrices = {"attention_out.weight", "mlp_in.weight", "mlp_out.weight", "qkv.weight"}
    assert names == {"head.weight"} | {f"blocks.0.{name}" for name in matrices}


@pytest.mark.parametrize(("augment", "words"), [(False, "once"), (True, "again")])
def test_images_are_encoded_once_without_augmentation(augment, words, caplog):
    tokenizer, data = vqvae(), digits(batch_size=64, augment=augment)
    seen, encode = [], tokenizer.encode
    tokenizer.encode = lambda x: seen.append(len(x)) or encode(x)
    model = build(CodePrior, tokenizer, **SMALL)
    seen.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(max_epochs=3, max_steps=-1, limit_val_batches=0).fit(model, data)
    batches = data.train_size // 64
    # An incomplete batch is dropped in each epoch; its images are new in later epochs.
    assert len(seen) == 3 * batches if augment else batches <= len(seen) <= 2 * batches
    assert words in caplog.text


def test_metrics_equal_independent_computation():
    torch.manual_seed(0)
    train, val = torch.randint(5, (96, 2, 3)), torch.randint(5, (40, 2, 3))
    model = build(CodePrior, Wide(), **SMALL)
    run = trainer(max_epochs=2, max_steps=-1)
    run.fit(model, loader(train, 5))
    found = validate(model, loader(val, 5, batch_size=16))  # batches of 16, 16 and 8
    tokens = val.flatten(1)
    with torch.no_grad():
        logits = model.network(tokens[:, :-1]).double()
    nll = -(logits.log_softmax(-1).gather(2, tokens[..., None])).mean().item()
    seen = np.stack([np.bincount(column, minlength=5) for column in train.flatten(1).T.numpy()]) * 2  # epochs
    unigram_probs = (seen + 1) / (seen.sum(1, keepdims=True) + 5)
    unigram = -np.mean([np.log2(unigram_probs[np.arange(6), row]) for row in tokens.numpy()])
    expected = {
        "val/loss": nll,
        "val/nll": nll,
        "val/bits_per_token": nll / math.log(2),
        "val/bits_per_dim": nll / math.log(2) * 6 / 4,
        "val/unigram_bits": unigram,
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert model.counts.tolist() == seen.tolist()
    (tested,) = run.test(model, loader(val, 5), verbose=False)
    assert tested == pytest.approx({name.replace("val/", "test/"): value for name, value in expected.items()}, rel=1e-5)


class Wide(Pixels):
    """2 x 3 codes of images that are declared as 2 x 2."""

    def __init__(self):
        super().__init__(5, 2)

    def encode(self, x):
        return super().encode(x) if x.shape[-1] == 3 else torch.zeros(len(x), 2, 3, dtype=torch.int64)


def test_probabilities_of_all_codes_sum_to_one():
    model = build(CodePrior, Pixels(3, 2), **SMALL, conditional=True, num_classes=2).eval()
    for weight in model.network.parameters():
        nn.init.normal_(weight, std=0.4)
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    for label in (0, 1, -1):
        nll = model.nll(as_images(every, 3), torch.full((81,), label))
        assert (-nll.double()).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert model.nll(as_images(every, 3)).std() > 0.1


def test_example_images_do_not_change_the_training():
    model = build(CodePrior, vqvae(), **SMALL, conditional=True, num_classes=3).train()
    batch, state = {"image": torch.zeros(7, 1, 16, 16)}, torch.get_rng_state()
    first = model.example_images(batch)["sample"]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    expected = model.sample(7, torch.tensor([0, 1, 2, 0, 1, 2, 0]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, model.value_range.decode(expected))


def test_checkpoint_contains_tokenizer(tmp_path):
    first = tmp_path / "first.ckpt"
    run = trainer(max_steps=3)
    run.fit(vqvae(), digits())
    run.save_checkpoint(first)
    model = build(CodePrior, first, **SMALL, conditional=True, num_classes=10)
    run = trainer(max_steps=3)
    run.fit(model, digits())
    run.save_checkpoint(tmp_path / "prior.ckpt")
    first.unlink()

    again = vqlab.load(tmp_path / "prior.ckpt")
    same = CodePrior.load_from_checkpoint(tmp_path / "prior.ckpt")
    assert torch.equal(again.counts, model.counts)
    models = (model.eval(), again, same.eval())
    samples = [m.sample(4, 2, generator=torch.Generator().manual_seed(3)) for m in models]
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(again.nll(x), model.nll(x))
    other = build(CodePrior, tmp_path / "prior.ckpt", **SMALL)  # a new prior with the same tokenizer
    assert torch.equal(other.encode(x), model.encode(x))
