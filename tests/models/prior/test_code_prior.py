"""CodePrior: it learns known sources to their entropy, its figures are right, and it stands on its own."""

import itertools
import math
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.models.prior.code_prior import CodePrior
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.image_format import ImageFormat
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqlab.quantizers.multi_scale import MultiScaleQuantizer
from vqlab.quantizers.vector import VectorQuantizer

SMALL = {"dim": 32, "depth": 1, "heads": 2, "dropout": 0.0}


class Pixels(nn.Module):
    """A tokenizer whose codes are the pixels: they can be handed to a prior as images."""

    def __init__(self, codes, size):
        super().__init__()
        self.quantizer = SimpleNamespace(num_embeddings=codes, num_codebooks=1)
        self.images = ImageFormat(channels=1, size=size, value_range="unit")
        self.encoded = 0

    def encode(self, x):
        self.encoded += len(x)
        return (x[:, 0] * self.quantizer.num_embeddings).long().clamp_max(self.quantizer.num_embeddings - 1)

    def decode(self, codes):
        return as_images(codes, self.quantizer.num_embeddings)


def as_images(codes, num):
    return (codes[:, None] + 0.5) / num


def loader(codes, num, labels=None, batch_size=32, shuffle=False):
    """Codes (N, h, w) as a loader of images."""
    labels = torch.zeros(len(codes), dtype=torch.int64) if labels is None else labels
    rows = [
        {"image": image, "label": label, "index": torch.tensor(i)}
        for i, (image, label) in enumerate(zip(as_images(codes, num), labels, strict=True))
    ]
    return DataLoader(rows, batch_size=batch_size, shuffle=shuffle)


def trainer(*callbacks, **settings):
    defaults = {"max_steps": 10, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return lightning.Trainer(**BARE, callbacks=list(callbacks), **{**defaults, **settings})


def figures(run, model, data):
    (metrics,) = run.validate(model, data, verbose=False)
    return metrics


def vqvae(quantizer=None, size=16):
    torch.manual_seed(7)
    quantizer = quantizer or VectorQuantizer(32, 8)
    return build(VQVAE, SmallEncoder(1, 16, 8, 1), SmallDecoder(1, 16, 8, 1), quantizer, channels=1, image_size=size)


def digits(**options):
    return vqlab.Digits(**{"image_size": 16, "batch_size": 32, **options})


# Learning


def markov(codes=16, branches=3, seed=0):
    """A chain with few successors per code: its transition matrix, and its entropy per token over 16 tokens."""
    generator = np.random.default_rng(seed)
    chain = np.zeros((codes, codes))
    for row in chain:
        row[generator.permutation(codes)[:branches]] = generator.dirichlet(np.ones(branches))
    marginal, bits = np.full(codes, 1 / codes), math.log2(codes)
    row_bits = np.array([-(row[row > 0] * np.log2(row[row > 0])).sum() for row in chain])
    for _ in range(15):
        bits += marginal @ row_bits
        marginal = marginal @ chain
    return torch.tensor(chain), bits / 16


def walks(chain, number):
    tokens = torch.randint(len(chain), (number, 1))
    for _ in range(15):
        tokens = torch.cat([tokens, torch.multinomial(chain[tokens[:, -1]], 1)], 1)
    return tokens.view(number, 4, 4)


def test_a_markov_source_is_learnt_to_its_entropy():
    torch.manual_seed(0)
    chain, entropy = markov()
    model = build(CodePrior, Pixels(16, 4), **{**SMALL, "dim": 64, "depth": 2}, lr=5e-3)
    run = trainer(max_steps=250, gradient_clip_val=1.0)
    run.fit(model, loader(walks(chain, 4000), 16, batch_size=64))
    found = figures(run, model, loader(walks(chain, 1000), 16, batch_size=250))
    assert found["val/bits_per_token"] == pytest.approx(entropy, rel=0.05)
    assert found["val/bits_per_token"] < 0.6 * found["val/unigram_bits"]
    # And its samples follow the chain: no step that the source cannot make, bar a few.
    drawn = model.sample_codes(200).flatten(1)
    allowed = chain[drawn[:, :-1], drawn[:, 1:]] > 0
    assert allowed.double().mean() > 0.97


def test_labels_tell_what_they_can():
    """The label fixes all codes: given it nothing is left to say, without it one choice of four."""
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
    assert 0.9 < (-without).exp().sum() <= 1.001  # the four are all that is ever seen
    torch.testing.assert_close(model.nll(x, torch.full((4,), -1)), without)  # -1 in the data is no label
    for label in range(4):
        assert torch.equal(model.sample_codes(3, label), of_class[label].expand(3, -1, -1))
    each = torch.tensor([2, 0, 3])
    assert torch.equal(model.sample_codes(3, each, guidance=2.0), of_class[each])
    assert figures(trainer(), model, data)["val/nll"] < 0.1 / 4


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
def test_codes_of_every_shape(quantizer, shape):
    tokenizer, data = vqvae(quantizer), digits()
    trainer(max_steps=3).fit(tokenizer, data)
    model = build(CodePrior, tokenizer, **SMALL, lr=3e-3)
    before = figures(trainer(), model, data)["val/nll"]
    trainer(max_steps=30).fit(model, data)
    after = figures(trainer(), model, data)["val/nll"]
    assert before == pytest.approx(math.log(quantizer.num_embeddings), rel=0.05)
    assert after < before - 0.1
    codes = model.sample_codes(2, generator=torch.Generator().manual_seed(0))
    assert codes.shape == (2, *shape)
    images = model.sample(2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 16, 16)
    assert torch.equal(images, tokenizer.decode(codes))


def test_the_tokenizer_is_left_alone():
    tokenizer = vqvae()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    model = build(CodePrior, tokenizer, **SMALL)
    run = trainer(max_steps=5)
    run.fit(model, digits())
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert not tokenizer.training
    trained = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.network.parameters()}


def test_weight_decay_leaves_embeddings_and_norms_alone():
    model = build(CodePrior, vqvae(), **SMALL, weight_decay=0.1)
    run = trainer(max_steps=1)
    run.fit(model, digits())
    decayed = {id(p) for group in run.optimizers[0].param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.network.named_parameters() if id(p) in decayed}
    matrices = {"attention_out.weight", "mlp_in.weight", "mlp_out.weight", "qkv.weight"}
    assert names == {"head.weight"} | {f"blocks.0.{name}" for name in matrices}


# Codes are computed once


@pytest.mark.parametrize(("augment", "said"), [(False, "once"), (True, "anew")])
def test_each_image_is_encoded_once_unless_the_data_augment(augment, said, caplog):
    tokenizer, data = vqvae(), digits(batch_size=64, augment=augment)
    seen, encode = [], tokenizer.encode
    tokenizer.encode = lambda x: seen.append(len(x)) or encode(x)
    model = build(CodePrior, tokenizer, **SMALL)
    seen.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(max_epochs=3, max_steps=-1, limit_val_batches=0).fit(model, data)
    batches = data.train_size // 64
    # 29 images of an epoch fill no batch; those may meet later, in up to as many batches.
    assert len(seen) == 3 * batches if augment else batches <= len(seen) <= 2 * batches
    assert said in caplog.text
    if not augment:
        images = data._train_val[0]
        x = data.pixel_range.encode(images.images.float() / 255)
        known = (model._cache.codes >= 0).all(1)
        assert known.float().mean() > 0.95
        rows = known.nonzero()[:, 0]
        assert torch.equal(model._cache.codes[rows].long(), model.encode(x[rows]).flatten(1))


def test_half_precision_trains_on_the_same_codes():
    tokenizer = vqvae()
    x = next(iter(digits().val_dataloader()))["image"]
    expected, found = tokenizer.eval().encode(x), []
    model = build(CodePrior, tokenizer, **SMALL)
    evaluate = model._losses
    model._losses = lambda tokens, condition: found.append(tokens) or evaluate(tokens, condition)
    run = trainer(precision="bf16-mixed")
    run.validate(model, DataLoader([{"image": image} for image in x], batch_size=len(x)), verbose=False)
    assert torch.equal(found[0], expected.flatten(1))
    run.fit(model, digits())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# The figures


def test_the_figures_are_those_of_an_independent_computation():
    torch.manual_seed(0)
    train, val = torch.randint(5, (96, 2, 3)), torch.randint(5, (40, 2, 3))
    model = build(CodePrior, Wide(), **SMALL)
    run = trainer(max_epochs=2, max_steps=-1)
    run.fit(model, loader(train, 5))
    found = figures(run, model, loader(val, 5, batch_size=16))  # batches of 16, 16 and 8
    tokens = val.flatten(1)
    with torch.no_grad():
        logits = model.network(tokens[:, :-1]).double()
    nll = -(logits.log_softmax(-1).gather(2, tokens[..., None])).mean().item()
    seen = np.stack([np.bincount(column, minlength=5) for column in train.flatten(1).T.numpy()]) * 2  # epochs
    shares = (seen + 1) / (seen.sum(1, keepdims=True) + 5)
    unigram = -np.mean([np.log2(shares[np.arange(6), row]) for row in tokens.numpy()])
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
    """2 x 3 codes of images that are 2 x 2 as far as anyone asks."""

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


def test_predict_gives_the_likelihood_of_each_image():
    model, data = build(CodePrior, vqvae(), **SMALL, conditional=True, num_classes=10), digits()
    batches = trainer().predict(model, data)
    nll = torch.cat([batch["nll"] for batch in batches])
    data.setup("test")
    parts = [model.eval().nll(batch["image"], batch["label"]) for batch in data.test_dataloader()]
    torch.testing.assert_close(nll, torch.cat(parts))
    assert nll.shape == (180,)


# Samples and checkpoints


def test_looking_does_not_change_the_training():
    model = build(CodePrior, vqvae(), **SMALL, conditional=True, num_classes=3).train()
    batch = {"image": torch.zeros(7, 1, 16, 16)}
    state = torch.get_rng_state()
    first, second = model.example_images(batch)["sample"], model.example_images(batch)["sample"]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert torch.equal(first, second)
    assert first.shape == (7, 1, 16, 16)
    assert first.min() >= 0
    assert first.max() <= 1
    generator = torch.Generator().manual_seed(0)
    expected = model.sample(7, torch.tensor([0, 1, 2, 0, 1, 2, 0]), generator=generator)
    assert torch.equal(first, model.value_range.decode(expected))


@pytest.mark.parametrize("num_classes", [None, 10])
def test_the_cache_changes_no_sample(num_classes):
    model = build(CodePrior, vqvae(), **SMALL, conditional=num_classes is not None, num_classes=num_classes)
    trainer(max_steps=5).fit(model, digits())
    options = {"top_p": 0.9} if num_classes is None else {"label": 3, "guidance": 2.0}
    cached, plain = (
        model.sample_codes(20, **options, use_cache=use, generator=torch.Generator().manual_seed(1))
        for use in (True, False)
    )
    assert torch.equal(cached, plain)
    assert len(cached.flatten(1).unique(dim=0)) == 20


def test_a_checkpoint_stands_on_its_own(tmp_path):
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
    assert isinstance(again, CodePrior)
    assert not again.training
    assert torch.equal(again.counts, model.counts)
    drawn = [m.sample(4, 2, generator=torch.Generator().manual_seed(3)) for m in (model.eval(), again)]
    assert torch.equal(*drawn)
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(again.encode(x), model.encode(x))
    torch.testing.assert_close(again.nll(x), model.nll(x))
    # Lightning's own way, and a second prior over the tokenizer of the first.
    same = CodePrior.load_from_checkpoint(tmp_path / "prior.ckpt").eval()
    assert torch.equal(same.sample(4, 2, generator=torch.Generator().manual_seed(3)), drawn[0])
    other = build(CodePrior, tmp_path / "prior.ckpt", **SMALL)
    assert torch.equal(other.encode(x), model.encode(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokenizer": None}, ["tokenizer must be a trained model", "None"]),
        ({"tokenizer": "nope.ckpt"}, ["nope.ckpt", "does not exist"]),
        ({"tokenizer": nn.Linear(1, 1)}, ["Linear is no tokenizer", "encode"]),
        ({"image_size": 32}, ["image_size is 32, the tokenizer's 16", "image_size=16"]),
        ({"channels": 3}, ["3 channel", "tokenizer 1"]),
        ({"value_range": "unit"}, ["unit", "signed", "value_range=signed"]),
        ({"value_range": ValueRange("standardized", (0.5,), (0.2,))}, ["value_range=signed"]),
        ({"conditional": True}, ["conditional must be false", "labels"]),
        ({"conditional": True, "num_classes": 0}, ["labels"]),
        ({"label_dropout": 1.0}, ["label_dropout must be in [0, 1)"]),
        ({"heads": 5}, ["heads 5"]),
        ({"lr": 1e-3, "base_lr": 1e-6}, ["base_lr"]),
    ],
)
def test_what_does_not_fit_is_named(arguments, words):
    with refused(*words):
        build(CodePrior, **{"tokenizer": vqvae(), **SMALL, **arguments})


def test_other_statistics_are_another_value_range():
    tokenizer = vqvae()
    tokenizer.images = ImageFormat(1, 16, ValueRange("standardized", (0.5,), (0.2,)))
    with refused("use the data that the tokenizer was trained on"):
        build(CodePrior, tokenizer, **SMALL, value_range=ValueRange("standardized", (0.4,), (0.2,)))
    build(CodePrior, tokenizer, **SMALL, value_range=ValueRange("standardized", (0.5,), (0.2,)))


def test_too_many_codes():
    with refused("codes", "ProductQuantizer"):
        build(CodePrior, Pixels(2**21, 2), **SMALL)


@pytest.mark.parametrize(
    ("conditional", "options", "words"),
    [
        (False, {"num": 0}, ["num", "at least 1"]),
        (False, {"label": 1}, ["without labels", "--label", "--model.conditional=true"]),
        (False, {"guidance": 2.0}, ["guidance", "label"]),
        (True, {"label": 10}, ["0 .. 9", "10"]),
        (True, {"label": -1}, ["0 .. 9"]),
        (True, {"label": torch.arange(3)}, ["label", "(3,)"]),
        (True, {"guidance": 2.0}, ["guidance", "--label"]),
        (True, {"label": 1, "temperature": 0}, ["temperature"]),
    ],
)
def test_samples_that_cannot_be_drawn(conditional, options, words):
    model = build(CodePrior, vqvae(), **SMALL, conditional=conditional, num_classes=10).train()
    with refused(*words):
        model.sample(**{"num": 2, **options})
    assert model.training
