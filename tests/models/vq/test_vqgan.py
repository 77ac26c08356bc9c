"""VQ-GAN: training steps against plain PyTorch, and the counting of steps."""

import copy

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import trainer
from tests.helpers.models import build
from vqlab.callbacks import EMA
from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.models import VQGAN
from vqlab.models.adversarial import R1_EVERY
from vqlab.nn import PatchGAN, SmallDecoder, SmallEncoder
from vqlab.quantizers import FSQ, VectorQuantizer


def tiny(quantizer=None, activation=None, seed=0, **arguments):
    torch.manual_seed(seed)
    usual = {
        "discriminator": PatchGAN(1, 8, num_layers=2, norm="none"),
        "perceptual_weight": 0.0,
        "disc_start": 0,
        "lr": 2e-3,
        "channels": 1,
        "image_size": 16,
    }
    encoder, decoder = SmallEncoder(1, 16, 8, 1), SmallDecoder(1, 16, 8, 1, out_activation=activation)
    return build(VQGAN, encoder, decoder, quantizer or VectorQuantizer(32, 8), **{**usual, **arguments})


def images(count, seed=1):
    coarse = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=16, mode="bicubic").clamp(0, 1) * 2 - 1


def loader(count, batch_size=16):
    return DataLoader(
        [{"image": image, "index": torch.tensor(i)} for i, image in enumerate(images(count))], batch_size=batch_size
    )


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_state(model, other, rtol=1e-4, atol=1e-5):
    """Compare all but the log's counters and LeCam."""
    expected = other.state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith("codebook.") and "lecam" not in name:
            torch.testing.assert_close(value, expected[name], rtol=rtol, atol=atol, msg=name)


def parameter_groups(model):
    """Return the parameters of the autoencoder and those of the discriminator."""
    return [[p for name, p in model.named_parameters() if ("discriminator" in name) == second] for second in (0, 1)]


def taming_weight(model, rec_loss, g_loss):
    """Equation 7 with the gradients of both losses at the last layer."""
    last = model.decoder.head[0].weight
    rec, adv = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rec_loss, g_loss))
    return (rec.norm() / (adv.norm() + 1e-4)).clamp(0, 1e4).detach()


def plain_step(
    model, optimizers, x, index, step, adversarial="hinge", adaptive=True, r1_weight=0.0, lecam=None, alternate=True
):
    """Do one step of ``model`` in plain PyTorch."""
    disc, losses, groups = model.adversarial.discriminator, ADVERSARIAL[adversarial], parameter_groups(model)

    def descend(group, loss):
        gradients = torch.autograd.grad(loss, groups[group], retain_graph=True)
        for p, g in zip(groups[group], gradients, strict=True):
            p.grad = g
        optimizers[group].step()
        optimizers[group].zero_grad()

    model.quantizer.sample_index = index
    code = model.quantizer(model.to_code(model.encoder(x)))
    x_hat = model.decoder(model.from_code(code.quantized))
    real = x.clone().requires_grad_()
    real_logits, fake_logits = disc(real), disc(x_hat.detach())
    d_loss = losses.discriminator(real_logits, fake_logits)
    if lecam is not None:
        d_loss = d_loss + 0.1 * ((real_logits - lecam["fake"]) ** 2).mean()
        d_loss = d_loss + 0.1 * ((fake_logits - lecam["real"]) ** 2).mean()
        lecam["real"] = 0.99 * lecam["real"] + 0.01 * real_logits.detach().mean()
        lecam["fake"] = 0.99 * lecam["fake"] + 0.01 * fake_logits.detach().mean()
    if r1_weight and step % R1_EVERY == 0:
        (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        d_loss = d_loss + R1_EVERY * r1_weight * slope.square().sum((1, 2, 3)).mean() / 2
    if alternate:
        descend(1, d_loss)
    rec_loss, g_loss = (x_hat - x).abs().mean(), losses.generator(disc(x_hat))
    weight = 0.8 * (taming_weight(model, rec_loss, g_loss) if adaptive else 1.0)
    loss = rec_loss + code.loss + weight * g_loss
    if alternate:
        descend(0, loss)
    else:  # both gradients before either step
        own = [p for group in groups for p in group]
        split = torch.autograd.grad(loss, groups[0], retain_graph=True) + torch.autograd.grad(d_loss, groups[1])
        for p, g in zip(own, split, strict=True):
            p.grad = g
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    model.quantizer.update(code.stats)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"adversarial": "non_saturating", "activation": "tanh"},
        {"adversarial": "wgan", "adaptive": False},
        {"r1_weight": 0.1},
        {"lecam_weight": 0.1},
        {"quantizer": VectorQuantizer(32, 8, codebook_update="loss")},
        {"alternate": False},
    ],
)
def test_three_steps_equal_plain_pytorch(arguments):
    model = tiny(**arguments).double()  # in single precision Adam amplifies rounding errors of gradients near 0
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
    plain.train()
    settings = {"lr": 2e-3, "betas": (0.5, 0.9), "weight_decay": 0.0}
    optimizers = [torch.optim.AdamW(group, **settings) for group in parameter_groups(plain)]
    options = {k: v for k, v in arguments.items() if k in ("adversarial", "adaptive", "r1_weight", "alternate")}
    lecam = {"real": torch.tensor(0.0), "fake": torch.tensor(0.0)} if "lecam_weight" in arguments else None
    for step, batch in enumerate(loader(48)):
        plain_step(plain, optimizers, batch["image"].double(), batch["index"], step, lecam=lecam, **options)
    trainer(max_steps=3, precision="64-true").fit(model, loader(48))
    assert_same_state(model, plain, rtol=1e-6, atol=1e-7)
    if lecam is not None:
        torch.testing.assert_close(model.adversarial.lecam.real_mean, lecam["real"], rtol=1e-5, atol=1e-6)


def test_global_step_counts_batches_and_discriminator_starts_at_disc_start():
    steps, logged, trained = [], [], []

    class Record(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.before = weights(pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            moved = {n.split(".")[0] for n, value in weights(pl_module).items() if not value.equal(self.before[n])}
            trained.append(moved & {"encoder", "decoder", "adversarial"})
            steps.append(trainer.global_step)
            logged.append(set(trainer.logged_metrics))

    trainer(Record(), max_steps=8).fit(tiny(disc_start=5, disc_warmup=2), loader(64))
    assert steps == list(range(1, 9))
    assert trained == [{"encoder", "decoder"}] * 3 + [{"encoder", "decoder", "adversarial"}] * 5
    assert ["train/disc_weight" in row for row in logged] == [False] * 5 + [True] * 3
    assert ["train/d_loss" in row for row in logged] == [False] * 3 + [True] * 5


@pytest.mark.parametrize("clip", [{"clip_g": 1e-6}, {"clip_d": 1e-6}])
def test_clipping_applies_to_one_network(clip):
    norms = {}

    model = tiny(**clip)
    steps = type(model).on_before_optimizer_step

    def spy(self, optimizer):
        steps(self, optimizer)
        for name, part in (("decoder", self.decoder), ("discriminator", self.adversarial.discriminator)):
            norms[name] = float(nn.utils.get_total_norm([p.grad for p in part.parameters()]))

    model.on_before_optimizer_step = spy.__get__(model)
    trainer(max_steps=1).fit(model, loader(16))
    small, large = ("decoder", "discriminator") if "clip_g" in clip else ("discriminator", "decoder")
    assert norms[small] <= 1.01e-6
    assert norms[large] > 1e-4


def test_two_accumulated_batches_equal_one_twice_as_large():
    first, second = (tiny(FSQ([5, 5]), adaptive=False, alternate=False, **extra) for extra in ({}, {"accumulate": 2}))
    trainer(max_steps=4).fit(first, loader(128, 32))
    run = trainer(max_steps=8)
    run.fit(second, loader(128, 16))
    assert run.global_step == 8
    assert_same_state(second, first)


def test_accumulation_scales_base_lr_and_ema_counts_optimizer_steps():
    average = EMA(0.5)
    run = trainer(average, max_steps=6)
    run.fit(tiny(lr=None, base_lr=1e-5, accumulate=3, alternate=False), loader(96, 16))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5 * 16 * 3)
    assert average._average_model.n_averaged == 2


def test_codebook_update_uses_all_accumulated_batches():
    first, second = (
        tiny(VectorQuantizer(8, 8), adaptive=False, alternate=False, **extra) for extra in ({}, {"accumulate": 2})
    )
    for model in (first, second):
        torch.manual_seed(5)
        codes = torch.randn(8, 8)
        model.quantizer.codebook.copy_(codes)
        model.quantizer.ema_sums.copy_(codes)
        model.quantizer.first_batch.done()
    trainer(max_steps=1).fit(first, loader(32, 32))
    trainer(max_steps=2).fit(second, loader(32, 16))
    torch.testing.assert_close(second.quantizer.codebook, first.quantizer.codebook, rtol=1e-4, atol=1e-5)
    assert second.quantizer.steps == 1


def test_compiled_networks_give_same_steps(monkeypatch):
    compiled = []

    def compile_eagerly(self, *args, **kwargs):
        compiled.append(type(self).__name__)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    plain, fast = tiny(), tiny(compile=True)
    for model in (plain, fast):
        trainer(max_steps=2).fit(model, loader(32))
    assert compiled == ["SmallEncoder", "Sequential", "PatchGAN"]
    assert_same_state(fast, plain)


@pytest.mark.parametrize("value_range", ["unit", "signed"])
def test_perceptual_loss_gets_signed_images(value_range):
    class Seen(nn.Module):
        name = "lpips"

        def forward(self, *images):
            self.images = images
            return torch.zeros(2)

    model = tiny(value_range=value_range)
    model.perceptual, (black, white) = Seen(), (torch.zeros(2, 1, 16, 16), torch.ones(2, 1, 16, 16))
    model.reconstruction_loss(model.value_range.encode(black), model.value_range.encode(white))
    assert [image.unique().tolist() for image in model.perceptual.images] == [[-1.0], [1.0]]
