"""SGAN: what a user calls, its steps against plain PyTorch, that it learns from images without labels, and mistakes."""

import copy

import lightning
import pytest
import torch
import torch.nn.functional as F

from tests.helpers import bare
from tests.helpers.models import build
from vqlab.callbacks.ema import EMA
from vqlab.data.images.digits import Digits
from vqlab.models.sgan import SGAN
from vqlab.nn.gan.networks import MLPFeatures, MLPGenerator


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
    trainer = bare.trainer(*callbacks, max_steps=steps, limit_val_batches=0, **settings)
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


def test_hidden_labels_change_no_weight():
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


def test_steps_are_batches_and_optimizers_have_their_own_rates():
    trainer = fit(small(lr=1e-3, disc_lr=5e-4), 7)
    assert trainer.global_step == 7
    assert [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups] == [1e-3, 5e-4]


@pytest.mark.slow
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
        figures = bare.validate(model, data)
        (more,) = bare.trainer().test(model, data, verbose=False)
        accuracies[weight] = (figures["val/acc"] + more["test/acc"]) / 2
    assert accuracies[1.0] >= 0.92
    assert accuracies[1.0] >= accuracies[0.0] + 0.02


def test_with_all_labels_it_classifies_and_one_batch_serves_both_streams():
    lightning.seed_everything(0, verbose=False)
    model = small(discriminator=MLPFeatures(1, 8, (128, 64), noise=0.1), lr=2e-3)
    trainer = fit(model, 400, digits(labels_per_class=None))
    assert trainer.callback_metrics["train/d_acc"] > 0.6
    figures = bare.validate(model, digits())
    assert figures["val/acc"] > 0.9
    assert {"val/diversity", "val/classes_drawn", "val/reals_passed", "val/fakes_caught"} <= figures.keys()


@pytest.mark.slow
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
