"""VQ-VAE: what it computes, that it learns, and that its figures are right."""

import lightning
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import BARE
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.errors import UserError
from vqlab.models.vq.autoencoder import patch_mean
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.image_format import ImageFormat
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.training.finite import NonFiniteError

CODES = 32


def tiny(quantizer=None, size=16, hidden=16, **arguments):
    nets = SmallEncoder(1, hidden, 8, 1), SmallDecoder(1, hidden, 8, 1), quantizer or VectorQuantizer(CODES, 8)
    return build(VQVAE, *nets, channels=1, image_size=size, **{"lr": 3e-3, **arguments})


def trainer(*callbacks, **settings):
    defaults = {"max_steps": 10, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return lightning.Trainer(
        **BARE,
        callbacks=list(callbacks),
        **{**defaults, **settings},
    )


def loader(count, batch_size=16, size=16):
    generator = torch.Generator().manual_seed(1)
    images = 2 * torch.rand(count, 1, size, size, generator=generator) - 1
    return DataLoader([{"image": image} for image in images], batch_size=batch_size)


def one_batch(images):
    return DataLoader([{"image": image} for image in images], batch_size=len(images))


def digits():
    return vqlab.Digits(image_size=16, batch_size=32)


def figures(run, model, data):
    (metrics,) = run.validate(model, data, verbose=False)
    return metrics


# What a user calls


def test_the_defaults_make_a_model():
    model = vqlab.VQVAE().eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    codes = model.encode(x)
    assert codes.shape == (2, 8, 8)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < model.quantizer.num_embeddings
    assert model.decode(codes).shape == x.shape
    x_hat, out = model(x)
    assert torch.equal(out.indices, codes)
    assert torch.equal(model.reconstruct(x), model.decode(codes))
    torch.testing.assert_close(model.reconstruct(x), x_hat)


@pytest.mark.parametrize("quantizer", [FSQ([5, 3]), VectorQuantizer(16, 4, distance="cosine")])
def test_any_quantizer_and_any_size_of_image(quantizer):
    model = VQVAE(
        ConvEncoder(base_channels=8, num_res_blocks=1, z_channels=8), quantizer=quantizer, images=ImageFormat(size=16)
    ).eval()
    x = torch.rand(2, 3, 24, 16)
    assert model.encode(x).shape == (2, 6, 4)
    assert model.reconstruct(x).shape == x.shape


def test_evaluating_changes_nothing():
    model = tiny()
    trainer().fit(model, digits())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    figures(trainer(), model, digits())
    model.eval().reconstruct(torch.rand(2, 1, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"channels": 1, "encoder": SmallEncoder(3)},
            "in_channels of the encoder is 3, channels of the model 1",
        ),
        (
            {"channels": 1, "decoder": SmallDecoder(3)},
            "out_channels of the decoder is 3, channels of the model 1",
        ),
        ({"encoder": SmallEncoder(downsampling=8)}, "shrinks by 8, the decoder grows by 4"),
        ({"image_size": 30}, "image_size 30 is not divisible.*image_size=32"),
        ({"image_size": 2}, "image_size=4"),
        ({"reconstruction": "l3"}, "reconstruction must be one of l2, l1, huber, got 'l3'"),
        ({"lr": 1e-3, "base_lr": 1e-6}, "lr=0.001 and base_lr=1e-06 are both given"),
        ({"value_range": "bytes"}, "kind must be one of unit, signed, standardized, got 'bytes'"),
    ],
)
def test_parts_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        build(VQVAE, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 32, 32), r"must be \(B, 3, H, W\), got \(2, 1, 32, 32\).*channels"),
        ((3, 32, 32), r"must be \(B, 3, H, W\)"),
        ((2, 3, 30, 32), "30"),
    ],
)
def test_images_that_do_not_fit_are_named(shape, message):
    with pytest.raises(UserError, match=message):
        VQVAE().encode(torch.zeros(shape))


# Training


@pytest.mark.parametrize(
    "quantizer",
    [
        VectorQuantizer(CODES, 8),
        FSQ([5, 5, 3]),
        VectorQuantizer(CODES, 8, distance="cosine"),
        VectorQuantizer(CODES, 8, estimator="rotation"),
        VectorQuantizer(CODES, 8, codebook_update="loss"),
    ],
    ids=["ema", "fsq", "cosine", "rotation", "loss"],
)
def test_it_learns_real_digits(quantizer):
    torch.manual_seed(0)
    model, data, run = tiny(quantizer), digits(), trainer(max_steps=150, log_every_n_steps=50)
    before = figures(run, model, data)
    run.fit(model, data)
    after = figures(run, model, data)
    assert before["val/rec_loss"] > 0.3
    assert after["val/rec_loss"] < 0.06  # 0.034 to 0.041 when this was written
    assert after["val/psnr"] > after["val/psnr_patch_mean"] + 3  # 20.2 and more against 15.5
    assert after["val/ssim"] > 0.7
    assert after["val/codebook_usage"] > 0.6


@pytest.mark.parametrize("reconstruction", ["l1", "huber"])
def test_other_reconstruction_losses(reconstruction):
    model, data, run = tiny(reconstruction=reconstruction), digits(), trainer(max_steps=60)
    before = figures(run, model, data)["val/rec_loss"]
    run.fit(model, data)
    x = next(iter(data.val_dataloader()))["image"]
    error = (model.eval()(x)[0] - x).abs()
    expected = error.mean() if reconstruction == "l1" else torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    run.validate(model, one_batch(x), verbose=False)
    assert run.callback_metrics["val/rec_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert expected < 0.6 * before


def test_bf16_on_the_cpu():
    model, data, run = tiny(), digits(), trainer(max_steps=60, precision="bf16-mixed")
    before = figures(run, model, data)["val/rec_loss"]
    run.fit(model, data)
    assert figures(run, model, data)["val/rec_loss"] < 0.5 * before
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}


class Record(lightning.Callback):
    """What each batch logged, and the codes that it used."""

    def __init__(self):
        self.losses, self.perplexities, self.steps, self.codes = [], [], [], []

    def on_fit_start(self, trainer, pl_module):
        pl_module.quantizer.register_forward_hook(lambda *call: self.codes.append(call[-1].indices.flatten()))

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        if "train/perplexity" in trainer.callback_metrics:
            self.perplexities.append(float(trainer.callback_metrics["train/perplexity"]))
        self.steps.append(trainer.global_step)


def test_two_batches_of_16_equal_one_of_32():
    """With a codebook that starts the same and is not revived: both look at single batches."""
    runs = {}
    for batch_size, accumulate in ((32, 1), (16, 2)):
        torch.manual_seed(0)
        model, record = tiny(VectorQuantizer(CODES, 8, init="uniform", revive_after=None)), Record()
        run = trainer(record, max_steps=20, accumulate_grad_batches=accumulate)
        run.fit(model, loader(160, batch_size))
        runs[accumulate] = np.array(record.losses).reshape(20, accumulate).mean(1), model.state_dict()
        assert model.quantizer.steps == run.global_step == 20
    np.testing.assert_allclose(runs[1][0], runs[2][0], rtol=1e-5)
    for name in ("encoder.layers.0.weight", "quantizer.codebook", "quantizer.ema_counts", "quantizer.age"):
        torch.testing.assert_close(runs[1][1][name], runs[2][1][name], rtol=1e-3, atol=1e-5)


def test_statistics_are_committed_once_per_optimizer_step():
    model = tiny()
    run = trainer(max_epochs=2, max_steps=-1, accumulate_grad_batches=2)
    run.fit(model, loader(7 * 4, 4))
    assert run.global_step == 8  # 7 batches: three pairs and one alone, twice
    assert model.quantizer.steps == 8
    assert model.codebook.stats is None


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_perplexity_covers_all_batches_since_the_last_line(accumulate):
    model, record = tiny(), Record()
    run = trainer(record, max_steps=6, log_every_n_steps=2, accumulate_grad_batches=accumulate)
    run.fit(model, loader(18 * 4, 4))
    window = 2 * accumulate
    for line in range(3):
        counts = np.bincount(torch.cat(record.codes[line * window : (line + 1) * window]), minlength=CODES)
        last = (line + 1) * window - 1
        assert record.steps[last] == 2 * (line + 1)
        assert record.perplexities[last - len(record.steps)] == pytest.approx(perplexity(counts), rel=1e-4)


def perplexity(counts):
    shares = counts[counts > 0] / counts.sum()
    return np.exp(-(shares * np.log(shares)).sum())


class Spoil(lightning.Callback):
    """Put a NaN into one batch, and keep the weights from before it."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.at:
            batch["image"][1, 0, 3, 3] = float("nan")
            self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("quantizer", [VectorQuantizer, lambda: VectorQuantizer(codebook_update="loss")])
def test_a_nan_stops_the_run_before_the_weights_change(at, quantizer):
    model, spoil = tiny(quantizer()), Spoil(at)
    with pytest.raises(NonFiniteError, match=rf"rec_loss.* is NaN or infinite at batch {at} \(step {at}\)"):
        trainer(spoil).fit(model, loader(160))
    for name, value in model.state_dict().items():
        assert torch.equal(value, spoil.before[name]), name


def test_a_nan_in_an_accumulated_batch():
    model, spoil = tiny(), Spoil(5)
    with pytest.raises(NonFiniteError, match=r"at batch 5 \(step 2\)"):
        trainer(spoil, accumulate_grad_batches=2).fit(model, loader(160))
    skip = {"train_usage.counts"}
    assert all(torch.equal(v, spoil.before[name]) for name, v in model.state_dict().items() if name not in skip)


def test_the_optimizer_forgets_a_revived_code():
    model = tiny(VectorQuantizer(64, 8, codebook_update="loss", revive_after=1))
    revived, checked, remembered = [], [], []
    update = model.quantizer.update

    def spy(stats):
        revived.append(update(stats))
        return revived[-1]

    model.quantizer.update = spy

    class Check(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            [(codebook, rows)] = revived[-1]
            assert codebook is pl_module.quantizer.codebook
            state = trainer.optimizers[0].state[codebook]
            for name in ("exp_avg", "exp_avg_sq"):
                assert state[name][rows].eq(0).all()
                remembered.append(state[name][~rows].ne(0).any(1).sum())
            checked.append(int(rows.sum()))

    trainer(Check()).fit(model, loader(160, 2))
    assert len(checked) == 10
    assert sum(checked) > 50
    assert min(remembered[2:]) > 0, "the codes in use lost their moments too"  # k-means fits the first batch exactly
    other = [state for p, state in trainer_state(model) if p is not model.quantizer.codebook]
    assert all(state["exp_avg"].ne(0).any() for state in other)


def trainer_state(model):
    return list(model.optimizers().optimizer.state.items())


# The figures


def test_the_figures_are_those_of_an_independent_computation():
    torch.manual_seed(0)
    model, data, run = tiny(), digits(), trainer(max_steps=40)
    run.fit(model, data)
    ours = figures(run, model, data)  # batches of 32, the last one of 20

    x = torch.cat([batch["image"] for batch in data.val_dataloader()])
    assert len(x) == 180
    with torch.no_grad():
        x_hat, codes = model(x)[0], model.encode(x)
    image, image_hat = ((y[:, 0].double().numpy() + 1) / 2 for y in (x, x_hat))
    image_hat = image_hat.clip(0, 1)
    thumbnail = image.reshape(180, 4, 4, 4, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2)
    expected = {
        "val/bits_per_image": 16 * np.log2(CODES),
        "val/rec_loss": ((x_hat - x) ** 2).mean().item(),
        "val/psnr": np.mean(
            [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(image, image_hat, strict=True)]
        ),
        "val/psnr_patch_mean": np.mean(
            [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(image, thumbnail, strict=True)]
        ),
        "val/ssim": np.mean([ssim(a, b) for a, b in zip(image, image_hat, strict=True)]),
    }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-4), name
    counts = np.bincount(codes.flatten().numpy(), minlength=CODES)
    assert ours["val/perplexity"] == pytest.approx(perplexity(counts), rel=1e-5)
    assert ours["val/codebook_usage"] == pytest.approx((counts > 0).mean())
    assert ours["val/loss"] > ours["val/rec_loss"]

    (tested,) = run.test(model, data, verbose=False)
    assert tested.keys() == {name.replace("val/", "test/") for name in ours}
    assert tested["test/psnr"] != ours["val/psnr"], "other images"


def ssim(a, b):
    """Wang et al. 2004 with Gaussian windows.

    skimage drops a border of 5 pixels from the mean where torchmetrics mirrors the image: it cannot be the reference.
    """

    def blur(x):
        return gaussian_filter(x, 1.5, truncate=3.5, mode="mirror")

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()


class Fixed(nn.Module):
    """A decoder that gives back the same picture whatever it is told."""

    def __init__(self, picture):
        super().__init__()
        self.picture, self.in_channels, self.upsampling = picture, 4, 4

    def forward(self, z):
        return self.picture.expand(len(z), -1, -1, -1)


def test_the_same_picture_has_the_same_figures_in_every_value_range():
    image, wrong = torch.rand(2, 3, 16, 16), torch.rand(3, 16, 16)
    ranges = ValueRange("unit"), ValueRange("signed"), ValueRange("standardized", (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    found = []
    for value_range in ranges:
        model = VQVAE(decoder=Fixed(value_range.encode(wrong)), images=ImageFormat(value_range=value_range, size=16))
        metrics = figures(trainer(), model, one_batch(value_range.encode(image)))
        found.append([metrics[f"val/{name}"] for name in ("psnr", "ssim", "psnr_patch_mean")])
        shown = model.eval().example_images({"image": value_range.encode(image)})
        torch.testing.assert_close(shown["input"], image)
        torch.testing.assert_close(shown["reconstruction"], wrong.expand(2, -1, -1, -1))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    expected = [peak_signal_noise_ratio(a.numpy(), wrong.numpy(), data_range=1) for a in image]
    assert found[0][0] == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_reconstruction_outside_the_range_is_clamped_as_on_a_screen():
    image = torch.ones(1, 3, 16, 16)
    model = VQVAE(decoder=Fixed(3 * torch.ones(3, 16, 16)), images=ImageFormat(value_range="signed", size=16))
    assert figures(trainer(), model, one_batch(image))["val/psnr"] == pytest.approx(100)  # its highest


@pytest.mark.parametrize("size", [4, 8])
def test_images_that_are_smaller_than_the_window_of_ssim(size):
    model = tiny(size=size)
    metrics = figures(trainer(), model, loader(8, size=size))
    assert all(np.isfinite(value) for value in metrics.values())
    assert -1 <= metrics["val/ssim"] <= 1
    same = VQVAE(decoder=Fixed(torch.full((3, size, size), 0.5)), images=ImageFormat(value_range="unit", size=size))
    batch = torch.full((2, 3, size, size), 0.5)
    batch[:, 0, 0, 0] = 0.6
    assert 0.5 < figures(trainer(), same, one_batch(batch))["val/ssim"] < 1


def test_patch_means():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    means = [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2
    assert patch_mean(image, 2)[0, 0].tolist() == means


def test_a_model_is_validated_tested_and_trained_in_any_order():
    """Validation and test make tensors that may not be changed in place later."""
    model, run = tiny(), trainer(max_epochs=1, max_steps=-1)
    run.validate(model, loader(32), verbose=False)
    run.test(model, loader(32), verbose=False)
    run.fit(model, loader(32), loader(32))
    run.validate(model, loader(32), verbose=False)
    assert run.callback_metrics["val/codebook_usage"] > 0


def test_code_counts_are_those_of_the_evaluation_that_runs():
    seen = []

    class Look(lightning.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            seen.append(int(pl_module.code_counts().sum()))

    model, run = tiny(), trainer(Look())
    for _ in range(2):
        run.validate(model, loader(24), verbose=False)
    assert seen == [24 * 16] * 2


def test_predict_gives_codes_with_labels_and_positions():
    model, run = tiny(), trainer()
    data = digits()
    batches = run.predict(model, data)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert whole["indices"].shape == (180, 4, 4)
    assert whole["label"].shape == (180,)
    assert sorted(whole["index"].tolist()) == list(range(180))


def test_decode_names_the_shape_of_codes():
    model = VQVAE(SmallEncoder(hidden_channels=16), SmallDecoder(hidden_channels=16), VectorQuantizer(16, 8)).eval()
    codes = torch.zeros(1, 8, 8, dtype=torch.int64)
    expected = model.decode(codes)
    assert torch.equal(model.decode(codes.numpy().astype("uint8")), expected)
    with refused("(B, 8, 8)", "(1, 64)", "reshape(-1, 8, 8)"):
        model.decode(codes.flatten(1))
    assert torch.equal(model.decode(codes.flatten(1).reshape(-1, 8, 8)), expected)
    with refused("(B, 8, 8)"):
        model.decode(codes[..., None])
    with refused("code 16 "):
        model.decode(codes + 16)


@pytest.mark.filterwarnings("ignore")
def test_a_model_within_a_traced_module():
    model = VQVAE(SmallEncoder(hidden_channels=16), SmallDecoder(hidden_channels=16), VectorQuantizer(16, 8)).eval()

    class Reconstruct(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.reconstruct(x)

    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(torch.jit.trace(Reconstruct(), x)(x), model.reconstruct(x), atol=1e-6)
