"""FontGAN: its steps against plain PyTorch, that each option acts, what it learns, what resumes, and mistakes."""

import copy
from functools import partial

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.callbacks.ema import EMA
from vqlab.losses.perceptual import Perceptual
from vqlab.models.font_gan import FontGAN
from vqlab.nn.gan.glyph_discriminator import GlyphDiscriminator
from vqlab.nn.unet import UNet
from vqlab.training.learning_rate import Schedule

SIZE, STYLES = 16, 2


class Strokes(Dataset):
    """Random strokes; a target has them thinner, that of the second style moved down as well."""

    def __init__(self, count=32, dtype=torch.float32):
        generator = torch.Generator().manual_seed(1)
        coarse = (torch.rand(count, 1, SIZE // 4, SIZE // 4, generator=generator) < 0.3).to(dtype)
        ink = F.interpolate(coarse, scale_factor=4.0)
        thin = 1 - F.max_pool2d(1 - ink, 3, stride=1, padding=1)
        style = torch.arange(count) % STYLES
        thin = torch.where((style == 1)[:, None, None, None], thin.roll(2, 2), thin)
        self.batch = {
            "source": 1 - 2 * ink,
            "target": 1 - 2 * thin,
            "style": style,
            "char": torch.arange(count),
            "density": ink.mean((1, 2, 3)).float(),
        }

    def __len__(self):
        return len(self.batch["style"])

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.batch.items()}


def small(**options):
    torch.manual_seed(0)
    players = {
        "generator": UNet(SIZE, STYLES, base_channels=4, style_dim=4),
        "discriminator": GlyphDiscriminator(STYLES, base_channels=4, num_layers=1),
    }
    return build(FontGAN, **{**players, "image_size": SIZE, "num_styles": STYLES, **options})


def fit(model, steps, data=None, callbacks=(), ckpt_path=None, **settings):
    options = {"max_steps": steps, "max_epochs": -1, "log_every_n_steps": 1, "limit_val_batches": 0, **settings}
    trainer = lightning.Trainer(**{**BARE, **options}, callbacks=list(callbacks))
    trainer.fit(model, DataLoader(data or Strokes(), batch_size=8), ckpt_path=ckpt_path)
    return trainer


def gradient(x):
    """Mean absolute differences along both axes, by slices."""
    return (x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean()


def players_losses(adversarial, real, made):
    """Return the discriminator's loss, and the generator's as a function of the logits it meets."""
    if adversarial == "bce":
        one, zero = torch.ones_like(real), torch.zeros_like(real)
        bce = F.binary_cross_entropy_with_logits
        return bce(real, one) + bce(made, zero), lambda logits: bce(logits, one)
    if adversarial == "hinge":
        return ((1 - real).clamp_min(0).mean() + (1 + made).clamp_min(0).mean()) / 2, lambda logits: -logits.mean()
    return (
        F.mse_loss(real, 0 * real + 1) + F.mse_loss(made, 0 * made - 1)
    ) / 2, lambda logits: F.mse_loss(logits, 0 * logits + 1) / 2


def by_hand(model, batches, adversarial):
    """The same steps in plain PyTorch, two optimizers and two backward passes."""
    generator, judge = model.generator, model.discriminator
    players = [
        torch.optim.AdamW(part.parameters(), lr, (0.5, 0.999), weight_decay=0.0)
        for part, lr in ((generator, 1e-2), (judge, 1e-3))
    ]
    for batch in batches:
        a, b, style = batch["source"], batch["target"], batch["style"]
        fake = generator(a, style)
        real_said, made_said = judge(a, b), judge(a, fake.detach())
        game, answer = players_losses(adversarial, real_said.real_logits, made_said.real_logits)
        told = F.nll_loss(real_said.styles.log_softmax(1), style) + F.nll_loss(made_said.styles.log_softmax(1), style)
        players[1].zero_grad()
        (game + 0.7 * told / 2).backward()
        players[1].step()

        said = judge(a, fake)
        loss = 0.5 * answer(said.real_logits) + 100 * (fake - b).abs().mean() + 0.3 * gradient(fake)
        loss = loss + 15 * (generator.encode(a)[-1] - generator.encode(fake)[-1]).square().mean()
        loss = loss + 0.7 * F.nll_loss(said.styles.log_softmax(1), style) + 2 * gradient(fake - b)
        players[0].zero_grad()
        loss.backward()
        players[0].step()


@pytest.mark.parametrize("adversarial", ["bce", "hinge", "lsgan"])
def test_three_steps_equal_plain_pytorch(adversarial):
    weights = {"disc_weight": 0.5, "category_weight": 0.7, "tv_weight": 0.3, "edge_weight": 2.0}
    model = small(adversarial=adversarial, lr=1e-2, disc_lr=1e-3, **weights).double()
    plain, data = copy.deepcopy(model), Strokes(dtype=torch.float64)
    trainer = fit(model, 3, data)
    by_hand(plain, list(DataLoader(data, batch_size=8))[:3], adversarial)
    for (name, value), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8, msg=name)
    assert trainer.global_step == 3, "steps are batches"


class Brightness(Perceptual):
    """A perceptual distance that needs no weights."""

    def load(self):
        pass

    def forward(self, x_hat, x):
        return (x_hat - x).mean((1, 2, 3)).square()

    def check_size(self, height, width):
        pass


def trained(**options):
    """Return what a model draws, and how it judges, after three steps."""
    model = small(**{"lr": 5e-3, **options})
    torch.manual_seed(0)  # of dropout
    fit(model, 3)
    batch = Strokes().batch
    drawn = model.translate(batch["source"], batch["style"])
    judge = model.discriminator
    judged = torch.zeros(1) if judge is None else judge(batch["source"], batch["target"]).real_logits.detach()
    return torch.cat([drawn.flatten(), judged.flatten()])


OPTIONS = [
    {"adversarial": "hinge"},
    {"adversarial": "lsgan"},
    {"disc_weight": 0.0},
    {"disc_weight": 3.0},
    {"disc_start": 2},
    {"l1_weight": 10.0},
    {"constancy_weight": 0.0},
    {"category_weight": 0.0},
    {"tv_weight": 5.0},
    {"edge_weight": 5.0},
    {"perceptual_weight": 50.0, "perceptual": Brightness()},
    {"optimizer": "rmsprop"},
    {"lr": 1e-3},
    {"lr": None, "base_lr": 1e-3},
    {"disc_lr": 1e-4},
    {"betas": (0.9, 0.99)},
    {"schedule": Schedule("step", decay_steps=1)},
    {"clip_g": 1e-6},
    {"clip_d": 1e-6},
    {"generator": UNet(SIZE, STYLES, base_channels=6, style_dim=4)},
    {"generator": UNet(SIZE, STYLES, base_channels=4, style_dim=6)},
    {"generator": UNet(SIZE, STYLES, base_channels=4, style_dim=4, norm="none")},
    {"generator": UNet(SIZE, STYLES, base_channels=4, style_dim=4, norm="batch")},
    {"generator": UNet(SIZE, STYLES, base_channels=4, style_dim=4, dropout=0.5)},
    {"discriminator": GlyphDiscriminator(STYLES, base_channels=8, num_layers=1)},
    {"discriminator": GlyphDiscriminator(STYLES, base_channels=4, num_layers=2)},
    {"discriminator": GlyphDiscriminator(STYLES, base_channels=4, num_layers=1, norm="spectral")},
]


@pytest.fixture(scope="module")
def usual():
    return trained()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: str(o)[:60])
def test_each_option_changes_what_is_drawn_or_judged(options, usual):
    changed = trained(**options)
    assert changed.shape != usual.shape or (changed - usual).abs().max() > 1e-6


def test_spectral_norm_is_of_the_judge_that_null_takes():
    plain, spectral = (build(FontGAN, spectral_norm=on, image_size=32).discriminator for on in (False, True))
    assert plain is not None
    assert spectral is not None
    assert plain.state_dict().keys() != spectral.state_dict().keys()


def planted(logit):
    """A judge that is as sure as told, and right."""

    class Sure(GlyphDiscriminator):
        def forward(self, source, candidate):
            said = super().forward(source, candidate)
            is_target = bool((candidate.sign() == candidate).all())  # what is generated is not all of 1 and -1
            return said._replace(real_logits=0 * said.real_logits + (logit if is_target else -logit))

    return Sure(STYLES, base_channels=4, num_layers=1)


def test_a_discriminator_that_is_ahead_is_felt_less_or_waits():
    def metrics(balance, logit):
        return fit(small(discriminator=planted(logit), balance=balance), 2).callback_metrics

    assert metrics("none", 9.0)["train/disc_weight"] == 1.0
    assert metrics("adaptive", 9.0)["train/disc_weight"] == pytest.approx(1 / 3)
    assert metrics("adaptive", 1.0)["train/disc_weight"] == 1.0
    assert metrics("none", 9.0)["train/d_waits"] == 0
    assert metrics("skip", 9.0)["train/d_waits"] == 1
    model = small(discriminator=planted(9.0), balance="skip")
    before = copy.deepcopy(model.discriminator.state_dict())
    fit(model, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.discriminator.state_dict().items())


def test_the_discriminator_is_logged_for_targets_and_for_what_is_generated():
    model = small(discriminator=planted(3.0))
    (figures,) = lightning.Trainer(**BARE).validate(model, DataLoader(Strokes(), batch_size=8), verbose=False)
    sure = torch.tensor(3.0).sigmoid().item()
    assert figures["val/p_real"] == pytest.approx(sure)
    assert figures["val/p_fake"] == pytest.approx(1 - sure)


def test_it_comes_nearer_to_targets_it_has_not_seen_than_the_source_is():
    lightning.seed_everything(0, verbose=False)
    model = small(lr=5e-3, disc_weight=0.25)
    data = Strokes(256)
    train, held_out = torch.utils.data.random_split(data, [192, 64], torch.Generator().manual_seed(0))
    fit(model, 100, train)
    (figures,) = lightning.Trainer(**BARE).validate(model, DataLoader(held_out, batch_size=24), verbose=False)
    assert figures["val/l1_gain"] > 0.4
    assert figures["val/ssim_gain"] > 0.2
    assert figures["val/loss"] == figures["val/l1"]
    source, target, style = (torch.stack([row[name] for row in held_out]) for name in ("source", "target", "style"))
    drawn = model.translate(source, style)
    assert figures["val/l1"] == pytest.approx((drawn - target).abs().mean().item() / 2, rel=1e-4)
    assert figures["val/l1_identity"] == pytest.approx((source - target).abs().mean().item() / 2, rel=1e-4)
    assert 0 < figures["val/p_fake"] < 1
    wrong = model.translate(source, 1 - style)
    assert (wrong - target).abs().mean() > 1.5 * (drawn - target).abs().mean(), "the style is heeded"


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_stopped_and_resumed_it_ends_where_an_uninterrupted_run_ends(tmp_path, optimizer):
    settings = {"lr": 5e-3, "disc_lr": 1e-3, "optimizer": optimizer, "balance": "adaptive"}
    settings["schedule"] = Schedule("step", warmup_steps=2, decay_steps=3, final_factor=0.2)

    class SaveHalf(lightning.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    def run(ckpt_path=None):
        return fit(small(**settings), 8, Strokes(8), [EMA(0.5), SaveHalf()], ckpt_path)

    whole = run()
    resumed = run(tmp_path / "half.ckpt")
    for one, other in zip(resumed.optimizers, whole.optimizers, strict=True):
        assert one.param_groups[0]["lr"] == other.param_groups[0]["lr"]
        for a, b in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    assert [o.param_groups[0]["lr"] for o in whole.optimizers] == pytest.approx([5e-3 / 4, 1e-3 / 4])
    for (name, value), expected in zip(
        resumed.lightning_module.named_parameters(), whole.lightning_module.parameters(), strict=True
    ):
        assert torch.equal(value, expected), name
    assert resumed.callback_metrics.keys() == whole.callback_metrics.keys()
    assert all(resumed.callback_metrics[name] == value for name, value in whole.callback_metrics.items())


def test_a_checkpoint_brings_it_back(tmp_path):
    model = small(schedule=Schedule("cosine"))
    fit(model, 2).save_checkpoint(tmp_path / "it.ckpt")
    loaded, batch = vqlab.load(tmp_path / "it.ckpt"), Strokes().batch
    drawn = model.translate(batch["source"], batch["style"])
    same = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)  # the model trained in another layout of memory
    same(loaded.translate(batch["source"], batch["style"]), drawn)
    same(loaded.translate(batch["source"][::2], 0), drawn[::2])
    rows = loaded.example_images(batch)
    assert list(rows) == ["source", "generated", "target"]
    same(rows["generated"], (drawn + 1) / 2)
    del batch["target"]
    predicted = loaded.predict_step(batch, 0)["glyph"]
    assert predicted.dtype == torch.uint8
    torch.testing.assert_close(predicted[:, None] / 127.5 - 1, drawn, rtol=0, atol=1 / 127)


def test_mistakes_are_refused():
    with refused("adversarial", "bce, hinge, lsgan"):
        build(FontGAN, adversarial="wgan")
    with refused("balance", "none, adaptive, skip"):
        build(FontGAN, balance="ladder")
    with refused("kind", "adam, rmsprop"):
        build(FontGAN, optimizer="sgd")
    with refused("l1_weight must be at least 0"):
        build(FontGAN, l1_weight=-1.0)
    with refused("disc_weight must be at least 0, got nan"):
        build(FontGAN, disc_weight=float("nan"))
    with refused("disc_start must be at least 0, got -1"):
        build(FontGAN, disc_start=-1)
    with refused("spectral_norm", "discriminator.norm=spectral"):
        build(FontGAN, discriminator=GlyphDiscriminator(), spectral_norm=True)
    with refused("size 64, the generator 32"):
        build(FontGAN, UNet(32))
    with refused("lr must be above 0"):
        build(FontGAN, lr=0.0)
    with refused("16x16"):
        build(FontGAN, image_size=16)
    with refused("styles must lie in 0 .. 1, got 2 to 2"):
        small().translate(torch.ones(1, 1, SIZE, SIZE), 2)
    with refused("(B, 1, 16, 16)"):
        small().translate(torch.ones(1, 1, 8, 8), 0)
