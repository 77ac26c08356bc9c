"""FontGAN: training steps against plain PyTorch, balance, learning and resuming."""

import copy

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from tests.helpers import bare
from tests.helpers.models import assert_same_weights, build
from vqlab.callbacks import EMA
from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.models import FontGAN
from vqlab.nn import GlyphDiscriminator, UNet
from vqlab.training import Schedule

SIZE, STYLES = 16, 2


class Strokes(Dataset):
    """Random strokes; the targets are thinner, and those of the second style are moved down as well."""

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
    networks = {
        "generator": UNet(SIZE, STYLES, base_channels=4, style_dim=4),
        "discriminator": GlyphDiscriminator(STYLES, base_channels=4, num_layers=1),
    }
    return build(FontGAN, **{**networks, "image_size": SIZE, "num_styles": STYLES, **options})


def fit(model, steps, data=None, callbacks=(), ckpt_path=None, **settings):
    trainer = bare.trainer(*callbacks, max_steps=steps, limit_val_batches=0, **settings)
    trainer.fit(model, DataLoader(data or Strokes(), batch_size=8), ckpt_path=ckpt_path)
    return trainer


def plain_steps(model, batches, losses):
    """The same steps in plain PyTorch, with two optimizers and two backward passes."""
    generator, discriminator = model.generator, model.discriminator
    g_optimizer = torch.optim.AdamW(generator.parameters(), 1e-2, (0.5, 0.999), weight_decay=0.0)
    d_optimizer = torch.optim.AdamW(discriminator.parameters(), 1e-3, (0.5, 0.999), weight_decay=0.0)
    for batch in batches:
        a, b, style = batch["source"], batch["target"], batch["style"]
        fake = generator(a, style)
        real_out, fake_out = discriminator(a, b), discriminator(a, fake.detach())
        d_loss = losses.discriminator(real_out.real_logits, fake_out.real_logits)
        style_loss = sum(F.nll_loss(out.styles.log_softmax(1), style) for out in (real_out, fake_out))
        d_optimizer.zero_grad()
        (d_loss + 0.7 * style_loss / 2).backward()
        d_optimizer.step()

        out = discriminator(a, fake)
        loss = 0.5 * losses.generator(out.real_logits) + 100 * (fake - b).abs().mean()
        loss = loss + 15 * (generator.encode(a)[-1] - generator.encode(fake)[-1]).square().mean()
        loss = loss + 0.7 * F.nll_loss(out.styles.log_softmax(1), style)
        g_optimizer.zero_grad()
        loss.backward()
        g_optimizer.step()


@pytest.mark.parametrize("adversarial", ["bce", "hinge", "lsgan"])
def test_three_steps_equal_plain_pytorch(adversarial):
    model = small(adversarial=adversarial, lr=1e-2, disc_lr=1e-3, disc_weight=0.5, category_weight=0.7).double()
    plain, data = copy.deepcopy(model), Strokes(dtype=torch.float64)
    trainer = fit(model, 3, data)
    losses = ADVERSARIAL["non_saturating" if adversarial == "bce" else adversarial]
    plain_steps(plain, list(DataLoader(data, batch_size=8))[:3], losses)
    assert_same_weights(model, plain, atol=1e-8)
    assert trainer.global_step == 3, "steps are batches"


class Confident(GlyphDiscriminator):
    """A discriminator with the real logit ``logit`` for targets, and ``-logit`` for generated glyphs."""

    def forward(self, source, candidate):
        out = super().forward(source, candidate)
        is_target = bool((candidate.sign() == candidate).all())  # targets consist of 1 and -1
        return out._replace(real_logits=0 * out.real_logits + (self.logit if is_target else -self.logit))


@pytest.mark.parametrize(
    ("balance", "logit", "weight", "waits"),
    [("none", 9.0, 1.0, 0), ("adaptive", 9.0, 1 / 3, 0), ("adaptive", 1.0, 1.0, 0), ("skip", 9.0, 1.0, 1)],
)
def test_strong_discriminator_has_lower_weight_or_waits(balance, logit, weight, waits):
    model = small(discriminator=Confident(STYLES, base_channels=4, num_layers=1), balance=balance)
    model.discriminator.logit = logit
    before = copy.deepcopy(model.discriminator.state_dict())
    metrics = fit(model, 2).callback_metrics
    assert metrics["train/disc_weight"] == pytest.approx(weight)
    assert metrics["train/d_waits"] == waits
    same = all(torch.equal(value, before[name]) for name, value in model.discriminator.state_dict().items())
    assert same == bool(waits)


def test_held_out_glyphs_are_closer_to_target_than_source():
    lightning.seed_everything(0, verbose=False)
    model = small(lr=5e-3, disc_weight=0.25)
    data = Strokes(256)
    train, held_out = torch.utils.data.random_split(data, [192, 64], torch.Generator().manual_seed(0))
    fit(model, 100, train)
    metrics = bare.validate(model, DataLoader(held_out, batch_size=24))
    assert metrics["val/l1_gain"] > 0.4
    assert metrics["val/ssim_gain"] > 0.2
    assert metrics["val/loss"] == metrics["val/l1"]
    source, target, style = (torch.stack([row[name] for row in held_out]) for name in ("source", "target", "style"))
    generated = model.translate(source, style)
    assert metrics["val/l1"] == pytest.approx((generated - target).abs().mean().item() / 2, rel=1e-4)
    assert metrics["val/l1_identity"] == pytest.approx((source - target).abs().mean().item() / 2, rel=1e-4)
    assert 0 < metrics["val/p_fake"] < 1
    other_style = model.translate(source, 1 - style)
    assert (other_style - target).abs().mean() > 1.5 * (generated - target).abs().mean()


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    settings = {"lr": 5e-3, "disc_lr": 1e-3, "optimizer": "rmsprop", "balance": "adaptive"}
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
        torch.testing.assert_close(list(one.state.values()), list(other.state.values()), rtol=0, atol=0)
    assert [o.param_groups[0]["lr"] for o in whole.optimizers] == pytest.approx([5e-3 / 4, 1e-3 / 4])
    assert_same_weights(resumed.lightning_module, whole.lightning_module, rtol=0, atol=0)
    assert resumed.callback_metrics == whole.callback_metrics
