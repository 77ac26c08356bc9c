"""SGAN: training steps against plain PyTorch, and learning from unlabelled images."""

import copy

import lightning
import pytest
import torch
import torch.nn.functional as F

from tests.helpers import bare
from tests.helpers.hidden_labels import poison
from tests.helpers.models import assert_same_weights, build
from vqlab.callbacks import EMA
from vqlab.data import Digits
from vqlab.models import SGAN
from vqlab.nn import ConvFeatures, MLPFeatures, MLPGenerator


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


def plain_steps(
    model, batches, head, objective,
    entropy_weight=0.0, pull_away_weight=0.0, consistency_weight=0.0, consistency_temperature=1.0,
):  # fmt: skip
    """The same steps in plain PyTorch: explicit log-probabilities, two optimizers, two backward passes."""
    g_optimizer = torch.optim.AdamW(model.generator.parameters(), 1e-3, (0.5, 0.999), weight_decay=0.0)
    d_optimizer = torch.optim.AdamW(model.discriminator.parameters(), 1e-3, (0.5, 0.999), weight_decay=0.0)

    def discriminate(x):
        features = model.discriminator.net(x)
        logits = model.discriminator.class_head(features)
        if head == "logsumexp":
            logits = torch.cat([logits, torch.zeros(len(x), 1)], 1)
            return features, logits, logits[:, :-1].exp().sum(1).log()
        return features, logits, model.discriminator.adversarial_head(features)[:, 0]

    for batch, z in batches:
        fake = model.generator(z)
        (_, labelled, _), (_, real, real_score), (_, generated, fake_score) = (
            discriminate(x) for x in (batch["labelled_image"], batch["image"], fake.detach())
        )
        among = labelled[:, :-1] if head == "logsumexp" else labelled
        loss = F.nll_loss(among.log_softmax(1), batch["labelled_label"])
        p_real, p_fake = 1 - real.softmax(1)[:, -1], generated.softmax(1)[:, -1]
        unsupervised = -(p_real.log().mean() + p_fake.log().mean()) / 2
        if objective == "hinge":
            adversarial = ((1 - real_score).clamp_min(0).mean() + (1 + fake_score).clamp_min(0).mean()) / 2
        else:
            adversarial = -(real_score.sigmoid().log().mean() + (-fake_score).sigmoid().log().mean()) / 2
        if head == "kplus1":
            loss = loss + unsupervised + adversarial
        else:
            loss = loss + (adversarial if objective == "hinge" else unsupervised)
        p = real[:, :-1].softmax(1)
        loss = loss - entropy_weight * (p * p.log()).sum(1).mean()
        with torch.no_grad():
            q = model.eval().discriminator(batch["image"]).logits[:, :-1]
            q = (q / consistency_temperature).softmax(1)
        model.train()
        loss = loss - consistency_weight * (q * p.log()).sum(1).mean()
        d_optimizer.zero_grad()
        loss.backward()
        d_optimizer.step()

        features, _, score = discriminate(fake)
        if objective == "feature_matching":
            g_loss = ((discriminate(batch["image"])[0].detach().mean(0) - features.mean(0)) ** 2).mean()
        else:
            g_loss = -score.mean() if objective == "hinge" else -score.sigmoid().log().mean()
        cosines = F.cosine_similarity(features[:, None], features[None], dim=2)
        g_loss = g_loss + pull_away_weight * (cosines.square().sum() - 32) / (32 * 31)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()


@pytest.mark.parametrize("objective", ["non_saturating", "hinge", "feature_matching"])
@pytest.mark.parametrize("head", ["kplus1", "logsumexp"])
@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"entropy_weight": 0.3, "pull_away_weight": 0.7},
        {"consistency_weight": 0.6, "consistency_temperature": 0.5},
    ],
    ids=["", "bad GAN", "consistency"],
)
def test_three_steps_equal_plain_pytorch(head, objective, weights, monkeypatch):
    model = small(head=head, objective=objective, lr=1e-3, **weights).double()
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
    plain_steps(plain, list(zip(seen, noise, strict=True)), head, objective, **weights)
    assert_same_weights(model, plain)


@pytest.mark.parametrize("term", ["entropy", "consistency"])
def test_self_training_is_in_the_loss_from_its_step_on(term):
    seen = []

    class Collect(lightning.Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append(f"train/d_{term}" in trainer.callback_metrics)

    fit(small(**{f"{term}_weight": 0.3}, self_training_start=2), 4, callbacks=[Collect()])
    assert seen == [False, False, True, True]


def test_the_target_of_consistency_is_free_of_noise(monkeypatch):
    targets = []

    def keep(logits, target, temperature):
        targets.append(target)
        return target.sum()

    monkeypatch.setattr("vqlab.models.sgan.consistency_loss", keep)
    model = small(discriminator=MLPFeatures(1, 8, (16, 8), noise=1.0), consistency_weight=0.3)
    x, labels = torch.rand(32, 1, 8, 8), torch.zeros(32, dtype=torch.long)
    model._discriminator_loss(x, labels, x, model.generate(*model._noise(32)))
    assert model.discriminator.training
    torch.testing.assert_close(targets[0], model.eval().discriminator(x).logits)


def test_weight_norm_is_initialized_by_the_first_batch_and_not_by_a_resumed_run(tmp_path):
    model = small(weight_norm=True, lr=1e-12)
    trainer = fit(model, 1)
    hidden = model.discriminator.net.layers[:3](next(iter(digits().train_dataloader()))["image"])
    torch.testing.assert_close(hidden.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden.std(0, correction=0), torch.ones(32), atol=1e-3, rtol=0)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = small(weight_norm=True, lr=1e-12)
    trainer = bare.trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(resumed, digits(), ckpt_path=tmp_path / "one.ckpt")
    assert_same_weights(model, resumed)


def test_one_pass_gives_the_outputs_of_separate_passes():
    model = small().eval()
    batches = [torch.randn(size, 1, 8, 8) for size in (3, 5, 2)]
    assert model.batched
    together = model._discriminate(*batches)
    for outputs, x in zip(together, batches, strict=True):
        for found, expected in zip(outputs, model.discriminator(x), strict=True):
            torch.testing.assert_close(found, expected)
    assert not small(discriminator=ConvFeatures(1, 8, (8, 8))).batched, "batch norm must not mix real and generated"


def test_hidden_labels_change_no_weight():
    models = []
    for data in (digits(), poison(digits())):
        lightning.seed_everything(0, verbose=False)
        models.append(small())
        assert fit(models[-1], 5, data).global_step == 5, "steps are batches"
    assert_same_weights(*models, rtol=0, atol=0)


@pytest.mark.slow
def test_unlabelled_images_raise_accuracy():
    """Ten labels per class, 600 steps."""
    accuracies = {}
    for weight in (0.0, 1.0):
        lightning.seed_everything(0, verbose=False)
        networks = {
            "generator": MLPGenerator(50, 1, 8, (128, 128)),
            "discriminator": MLPFeatures(1, 8, (256, 256, 128)),
        }
        losses = {"head": "logsumexp", "objective": "feature_matching", "unlabelled_weight": weight}
        model = small(**networks, **losses, lr=1e-3)
        data = digits(batch_size=100)
        fit(model, 600, data, callbacks=[EMA(0.99)])
        (tested,) = bare.trainer().test(model, data, verbose=False)
        accuracies[weight] = (bare.validate(model, data)["val/acc"] + tested["test/acc"]) / 2
    assert accuracies[1.0] >= 0.92
    assert accuracies[1.0] >= accuracies[0.0] + 0.02


def test_classifier_with_all_labels():
    lightning.seed_everything(0, verbose=False)
    model = small(discriminator=MLPFeatures(1, 8, (128, 64), noise=0.1), lr=2e-3)
    trainer = fit(model, 400, digits(labels_per_class=None))
    assert trainer.callback_metrics["train/d_acc"] > 0.6
    metrics = bare.validate(model, digits())
    assert metrics["val/acc"] > 0.9
    assert {"val/diversity", "val/classes_drawn", "val/reals_passed", "val/fakes_caught"} <= metrics.keys()


@pytest.mark.slow
def test_conditional_generator_draws_given_class():
    lightning.seed_everything(0, verbose=False)
    networks = {
        "generator": MLPGenerator(20, 1, 8, (128, 128)),
        "discriminator": MLPFeatures(1, 8, (128, 64), noise=0.1),
    }
    model = small(**networks, conditional=True, objective="feature_matching", lr=1e-3)
    fit(model, 800, digits(labels_per_class=None))
    model.eval()
    labels = torch.arange(10).repeat(20)
    predicted = model.classify(model.sample(200, labels)).argmax(1)
    assert (predicted == labels).float().mean() > 0.6
    assert model.example_images({"image": torch.zeros(12, 1, 8, 8)})["sample"].shape == (12, 1, 8, 8)
