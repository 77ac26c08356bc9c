"""SGAN: what a user calls, its steps against plain PyTorch, that it learns from images without labels, and mistakes."""

import copy
import math

import lightning
import pytest
import torch
import torch.nn.functional as F

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.callbacks.ema import EMA
from vqlab.data.images.digits import Digits
from vqlab.models.sgan import SGAN
from vqlab.nn.gan.networks import ConvFeatures, ConvGenerator, MLPFeatures, MLPGenerator


def small(**options):
    torch.manual_seed(0)
    networks = {
        "generator": MLPGenerator(8, 1, 8, (16,)),
        "discriminator": MLPFeatures(1, 8, (32, 16), noise=0.0, input_noise=0.0),
    }
    return build(SGAN, **{**networks, "image_size": 8, **options})


def digits(**options):
    return Digits(**{"image_size": 8, "batch_size": 32, "labels_per_class": 10, **options})


def fit(model, steps, data=None, callbacks=(), **settings):
    options = {"max_steps": steps, "max_epochs": -1, "log_every_n_steps": 1, "limit_val_batches": 0, **settings}
    trainer = lightning.Trainer(**{**BARE, **options}, callbacks=list(callbacks))
    trainer.fit(model, data or digits())
    return trainer


HEADS = [(head, objective) for head in ("kplus1", "logsumexp") for objective in ("non_saturating", "hinge")]
HEADS += [("kplus1", "feature_matching"), ("logsumexp", "feature_matching")]


def by_hand(model, batches, head, objective):
    """The same steps in plain PyTorch: log-probabilities spelt out, two optimizers, two backward passes."""
    players = {
        "g": torch.optim.AdamW(model.generator.parameters(), 1e-3, (0.5, 0.999), weight_decay=0.0),
        "d": torch.optim.AdamW(model.discriminator.parameters(), 1e-3, (0.5, 0.999), weight_decay=0.0),
    }

    def judge(x):
        features = model.discriminator.net(x)
        logits = model.discriminator.class_head(features)
        if head == "logsumexp":
            logits = torch.cat([logits, torch.zeros(len(x), 1)], 1)
            return features, logits, logits[:, :-1].exp().sum(1).log()
        return features, logits, model.discriminator.adversarial_head(features)[:, 0]

    for batch, z in batches:
        fake = model.generator(z)
        (_, told, _), (_, real, real_score), (_, made, fake_score) = (
            judge(x) for x in (batch["labelled_image"], batch["image"], fake.detach())
        )
        among = told[:, :-1] if head == "logsumexp" else told
        loss = F.nll_loss(among.log_softmax(1), batch["labelled_label"])
        p_real, p_fake = 1 - real.softmax(1)[:, -1], made.softmax(1)[:, -1]
        unsupervised = -(p_real.log().mean() + p_fake.log().mean()) / 2
        if objective == "hinge":
            game = ((1 - real_score).clamp_min(0).mean() + (1 + fake_score).clamp_min(0).mean()) / 2
        else:
            game = -(real_score.sigmoid().log().mean() + (-fake_score).sigmoid().log().mean()) / 2
        if head == "kplus1":
            loss = loss + unsupervised + game
        else:
            loss = loss + (game if objective == "hinge" else unsupervised)
        players["d"].zero_grad()
        loss.backward()
        players["d"].step()

        features, _, score = judge(fake)
        if objective == "feature_matching":
            g_loss = ((judge(batch["image"])[0].detach().mean(0) - features.mean(0)) ** 2).mean()
        else:
            g_loss = -score.mean() if objective == "hinge" else -score.sigmoid().log().mean()
        players["g"].zero_grad()
        g_loss.backward()
        players["g"].step()


@pytest.mark.parametrize(("head", "objective"), HEADS)
def test_three_steps_equal_plain_pytorch(head, objective, monkeypatch):
    model = small(head=head, objective=objective, lr=1e-3).double()
    plain = copy.deepcopy(model)
    noise = [torch.randn(32, 8, dtype=torch.float64) for _ in range(3)]
    drawn = iter(noise)
    monkeypatch.setattr(SGAN, "_noise", lambda self, num, *rest: (next(drawn), None))
    seen = []

    class Collect(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for name in ("image", "labelled_image"):
                batch[name] = batch[name].double()
            seen.append({name: value.clone() for name, value in batch.items()})

    fit(model, 3, callbacks=[Collect()])
    by_hand(plain, list(zip(seen, noise, strict=True)), head, objective)
    for (name, value), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9, msg=name)


def test_labels_that_are_not_told_change_no_weight():
    def train(poison):
        data = digits()
        data.setup("fit")
        part = data._train_val[0]
        if poison:
            chosen = part.data.labels[part.chosen]
            part.data.labels = torch.full_like(part.data.labels, 10**6)
            part.data.labels[part.chosen] = chosen
        lightning.seed_everything(0, verbose=False)
        model = small()
        fit(model, 5, data)
        return model.state_dict()

    clean, poisoned = train(False), train(True)
    assert all(torch.equal(value, poisoned[name]) for name, value in clean.items())


def test_the_start_is_that_of_an_even_guess():
    # Softmax before cross-entropy, a well-known mistake, could never get below 1.54 for ten classes.
    lightning.seed_everything(0, verbose=False)
    model = build(SGAN, MLPGenerator(8, 1, 8), ConvFeatures(1, 8), image_size=8, lr=1e-3)
    trainer = fit(model, 1)
    assert float(trainer.callback_metrics["train/d_labelled"]) == pytest.approx(math.log(11), rel=0.05)
    assert fit(model, 300).callback_metrics["train/d_labelled"] < 0.5


def test_steps_are_batches_and_optimizers_have_their_own_rates():
    trainer = fit(small(lr=1e-3, disc_lr=5e-4), 7)
    assert trainer.global_step == 7
    assert [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups] == [1e-3, 5e-4]


def test_images_without_labels_teach_it():
    """Ten labels per class, 600 steps."""
    accuracies = {}
    for weight in (0.0, 1.0):
        lightning.seed_everything(0, verbose=False)
        model = build(
            SGAN,
            MLPGenerator(50, 1, 8, (128, 128)),
            MLPFeatures(1, 8, (256, 256, 128)),
            head="logsumexp",
            objective="feature_matching",
            unlabelled_weight=weight,
            lr=1e-3,
            image_size=8,
        )
        data = digits(batch_size=100)
        fit(model, 600, data, callbacks=[EMA(0.99)])
        (figures,) = lightning.Trainer(**BARE).validate(model, data, verbose=False)
        (more,) = lightning.Trainer(**BARE).test(model, data, verbose=False)
        accuracies[weight] = (figures["val/acc"] + more["test/acc"]) / 2
    assert accuracies[1.0] >= 0.92
    assert accuracies[1.0] >= accuracies[0.0] + 0.02


def test_with_all_labels_it_classifies_and_one_batch_serves_both_streams():
    lightning.seed_everything(0, verbose=False)
    model = small(discriminator=MLPFeatures(1, 8, (128, 64), noise=0.1), lr=2e-3)
    trainer = fit(model, 400, digits(labels_per_class=None))
    assert trainer.callback_metrics["train/d_acc"] > 0.6
    (figures,) = lightning.Trainer(**BARE).validate(model, digits(), verbose=False)
    assert figures["val/acc"] > 0.9
    assert {"val/diversity", "val/classes_drawn", "val/reals_passed", "val/fakes_caught"} <= figures.keys()


def test_for_labels_alone_the_generator_stands_still():
    model = small(unlabelled_weight=0.0)
    before = copy.deepcopy(model.generator.state_dict())
    trainer = fit(model, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())
    assert "train/g_loss" not in trainer.callback_metrics
    assert trainer.global_step == 3


def test_a_conditional_generator_learns_the_class_it_is_told():
    lightning.seed_everything(0, verbose=False)
    model = build(
        SGAN,
        MLPGenerator(20, 1, 8, (128, 128)),
        MLPFeatures(1, 8, (128, 64), noise=0.1),
        conditional=True,
        objective="feature_matching",
        image_size=8,
        lr=1e-3,
    )
    fit(model, 800, digits(labels_per_class=None))
    model.eval()
    wanted = torch.arange(10).repeat(20)
    taken_for = model.classify(model.sample(200, wanted)).argmax(1)
    assert (taken_for == wanted).float().mean() > 0.6
    assert model.example_images({"image": torch.zeros(12, 1, 8, 8)})["sample"].shape == (12, 1, 8, 8)


def test_samples_and_probabilities():
    model = small(value_range="unit").eval()
    images = model.sample(5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(images, model.sample(5, generator=torch.Generator().manual_seed(3)))
    assert 0 <= images.min() <= images.max() <= 1
    torch.testing.assert_close(model.classify(images).sum(1), torch.ones(5))
    model.train()
    model.sample(2)
    assert model.training


@pytest.mark.parametrize("options", [{}, {"spectral_norm": True}])
def test_a_checkpoint_brings_it_back(tmp_path, options):
    model = small(conditional=True, **options)
    fit(model, 3).save_checkpoint(tmp_path / "it.ckpt")
    model.eval()
    loaded = vqlab.load(tmp_path / "it.ckpt")
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(loaded.classify(x), model.classify(x))
    label = torch.arange(4)
    one, other = (m.sample(4, label, torch.Generator().manual_seed(0)) for m in (loaded, model))
    assert torch.equal(one, other)


def test_it_compiles_with_spectral_norm(monkeypatch):
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend="aot_eager"))
    x, said, drawn = torch.randn(8, 1, 8, 8), [], []
    for compiled in (False, True):
        model = small(spectral_norm=True, compile=compiled, lr=1e-3)
        lightning.seed_everything(0, verbose=False)
        fit(model, 3)
        said.append(model.eval().classify(x))
        drawn.append(model.sample(8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*said, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*drawn, rtol=1e-3, atol=1e-4)


def test_mistakes_are_refused():
    with refused("head", "kplus1, logsumexp"):
        build(SGAN, head="k")
    with refused("objective"):
        build(SGAN, objective="wgan")
    with refused("num_classes must be at least 2"):
        build(SGAN, num_classes=0)
    with refused("unlabelled_weight"):
        build(SGAN, unlabelled_weight=-1.0)
    with refused("disc_clip must be above 0"):
        build(SGAN, clip_d=0.0)
    with refused("the generator 1 and 28"):
        build(SGAN, ConvGenerator(image_size=28))
    with refused("the discriminator 3 and 32"):
        build(SGAN, discriminator=ConvFeatures(3))
    with refused("--model.conditional=true"):
        SGAN().sample(2, label=1)
    with refused("labels must lie in 0 .. 9", "--label 0"):
        build(SGAN, conditional=True).sample(2, label=10)
    with refused("num must be at least 1"):
        SGAN().sample(0)
    with refused("labels must lie in 0 .. 4", "--data.labels_per_class"):
        fit(small(num_classes=5), 1)
