"""VQ-VAE: losses, learning, and metrics against independent computations."""

import lightning
import numpy as np
import pytest
import torch
import torchvision
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torch.utils.data import DataLoader

import vqlab
from tests.helpers.bare import trainer, validate
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.metrics import FrechetDistance
from vqlab.models import VQGAN, VQVAE
from vqlab.nn import ImageFormat, SmallDecoder, SmallEncoder, ValueRange
from vqlab.quantizers import FSQ, VectorQuantizer
from vqlab.training.steps import NonFiniteError

CODES = 32


def tiny(quantizer=None, size=16, hidden=16, **arguments):
    nets = SmallEncoder(1, hidden, 8, 1), SmallDecoder(1, hidden, 8, 1), quantizer or VectorQuantizer(CODES, 8)
    return build(VQVAE, *nets, channels=1, image_size=size, **{"lr": 3e-3, **arguments})


def loader(count, batch_size=16, size=16):
    generator = torch.Generator().manual_seed(1)
    images = 2 * torch.rand(count, 1, size, size, generator=generator) - 1
    return DataLoader([{"image": image} for image in images], batch_size=batch_size)


def one_batch(images):
    return DataLoader([{"image": image} for image in images], batch_size=len(images))


def digits():
    return vqlab.Digits(image_size=16, batch_size=32)


@pytest.mark.parametrize(
    "quantizer",
    [VectorQuantizer(CODES, 8), FSQ([5, 5, 3]), VectorQuantizer(CODES, 8, codebook_update="loss")],
    ids=["ema", "fsq", "loss"],
)
def test_training_on_digits_reconstructs_them(quantizer):
    torch.manual_seed(0)
    model, data = tiny(quantizer), digits()
    before = validate(model, data)
    trainer(max_steps=150, log_every_n_steps=50).fit(model, data)
    after = validate(model, data)
    assert before["val/rec_loss"] > 0.3
    assert after["val/rec_loss"] < 0.06  # measured: 0.034 to 0.041
    assert after["val/psnr"] > after["val/psnr_patch_mean"] + 3  # measured: at least 20.2, and 15.5
    assert after["val/ssim"] > 0.7
    assert after["val/codebook_usage"] > 0.6


@pytest.mark.parametrize("reconstruction", ["l1", "huber"])
def test_l1_and_huber_equal_their_formulas(reconstruction):
    model = tiny(reconstruction=reconstruction).eval()
    x = next(iter(loader(16)))["image"]
    error = (model(x)[0] - x).abs()
    expected = error.mean() if reconstruction == "l1" else torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert validate(model, one_batch(x))["val/rec_loss"] == pytest.approx(expected.item(), rel=1e-5)


class Record(lightning.Callback):
    """Record what each batch logs, and its codes."""

    def __init__(self):
        self.losses, self.perplexities, self.steps, self.codes = [], [], [], []

    def on_fit_start(self, trainer, pl_module):
        pl_module.quantizer.register_forward_hook(lambda *call: self.codes.append(call[-1].indices.flatten()))

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        if "train/perplexity" in trainer.callback_metrics:
            self.perplexities.append(float(trainer.callback_metrics["train/perplexity"]))
        self.steps.append(trainer.global_step)


def test_two_accumulated_batches_equal_one_twice_as_large():
    """Without k-means initialization and revival, which use single batches."""
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


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_perplexity_covers_all_batches_since_last_log_line(accumulate):
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
    fractions = counts[counts > 0] / counts.sum()
    return np.exp(-(fractions * np.log(fractions)).sum())


class AddNaN(lightning.Callback):
    """Put a NaN into one batch, and record the weights before it."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            batch["image"][1, 0, 3, 3] = float("nan")
            self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_nan_stops_the_run_before_weights_change(codebook_update):
    model, add_nan = tiny(VectorQuantizer(codebook_update=codebook_update)), AddNaN()
    with pytest.raises(NonFiniteError, match=r"rec_loss.* is NaN or infinite at batch 3 \(step 3\)"):
        trainer(add_nan).fit(model, loader(160))
    for name, value in model.state_dict().items():
        assert torch.equal(value, add_nan.before[name]), name


def test_optimizer_state_of_revived_code_is_reset():
    model = tiny(VectorQuantizer(64, 8, codebook_update="loss", revive_after=1))
    update, found = model.quantizer.update, []
    model.quantizer.update = lambda stats: found.append(update(stats)) or found[-1]

    class Check(lightning.Callback):
        revived, nonzero = 0, []

        def on_train_batch_end(self, trainer, pl_module, *args):
            [(codebook, rows)] = found[-1]
            state = trainer.optimizers[0].state[codebook]
            for name in ("exp_avg", "exp_avg_sq"):
                assert state[name][rows].eq(0).all()
                self.nonzero.append(state[name][~rows].ne(0).any(1).sum())
            self.revived += int(rows.sum())

    check = Check()
    trainer(check).fit(model, loader(160, 2))
    assert check.revived > 50
    assert min(check.nonzero[2:]) > 0, "moments of used codes"  # k-means fits the first batch exactly


def test_metrics_equal_independent_computation():
    torch.manual_seed(0)
    model, data, run = tiny(), digits(), trainer(max_steps=40)
    run.fit(model, data)
    ours = validate(model, data)  # batches of 32, the last one of 20

    x = torch.cat([batch["image"] for batch in data.val_dataloader()])
    assert len(x) == 180
    with torch.no_grad():
        x_hat, codes = model(x)[0], model.encode(x)
    image, image_hat = ((y[:, 0].double().numpy() + 1) / 2 for y in (x, x_hat))
    image_hat = image_hat.clip(0, 1)
    patch_means = image.reshape(180, 4, 4, 4, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2)

    def psnr(other):
        return np.mean([peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(image, other, strict=True)])

    expected = {
        "val/bits_per_image": 16 * np.log2(CODES),
        "val/rec_loss": ((x_hat - x) ** 2).mean().item(),
        "val/psnr": psnr(image_hat),
        "val/psnr_patch_mean": psnr(patch_means),
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


class Fixed(nn.Module):
    """A decoder that returns the same image for all codes."""

    def __init__(self, image):
        super().__init__()
        self.image, self.in_channels, self.upsampling = image, 4, 4

    def forward(self, z):
        return self.image.expand(len(z), -1, -1, -1)


def test_metrics_do_not_depend_on_value_range():
    image, wrong = torch.rand(2, 3, 16, 16), torch.rand(3, 16, 16)
    found = []
    standardized = ValueRange("standardized", (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    for value_range in (ValueRange("unit"), ValueRange("signed"), standardized):
        model = VQVAE(decoder=Fixed(value_range.encode(wrong)), images=ImageFormat(value_range=value_range, size=16))
        metrics = validate(model, one_batch(value_range.encode(image)))
        found.append([metrics[f"val/{name}"] for name in ("psnr", "ssim", "psnr_patch_mean")])
        shown = model.eval().example_images({"image": value_range.encode(image)})
        torch.testing.assert_close(shown["input"], image)
        torch.testing.assert_close(shown["reconstruction"], wrong.expand(2, -1, -1, -1))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_code_counts_are_reset_between_validation_test_and_training():
    seen = []

    class Look(lightning.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            seen.append(int(pl_module.code_counts().sum()))

    model, run = tiny(), trainer(Look(), max_epochs=1, max_steps=-1)
    run.validate(model, loader(32), verbose=False)
    run.test(model, loader(32), verbose=False)
    run.fit(model, loader(32), loader(24))
    run.validate(model, loader(32), verbose=False)
    assert seen == [32 * 16, 24 * 16, 32 * 16]


def test_decode_checks_shape_and_range_of_codes():
    model = VQVAE(SmallEncoder(hidden_channels=16), SmallDecoder(hidden_channels=16), VectorQuantizer(16, 8)).eval()
    codes = torch.zeros(1, 8, 8, dtype=torch.int64)
    expected = model.decode(codes)
    assert torch.equal(model.decode(codes.numpy().astype("uint8")), expected)
    with refused("(B, 8, 8)", "(1, 64)", "reshape(-1, 8, 8)"):
        model.decode(codes.flatten(1))
    with refused("code 16 "):
        model.decode(codes + 16)


def with_frechet(cls, backbone="net.pth"):
    torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), "net.pth")
    nets = SmallEncoder(3, 8, 4, 1), SmallDecoder(3, 8, 4, 1), FSQ([5, 5])
    extra = {"disc_weight": 0.0, "perceptual_weight": 0.0} if cls is VQGAN else {}
    return build(cls, *nets, image_size=24, frechet=FrechetDistance("squeezenet1_0", backbone), **extra)


@pytest.mark.parametrize("cls", [VQVAE, VQGAN])
def test_frechet_distance_of_whole_set_is_logged(cls):
    model, x = with_frechet(cls), torch.rand(20, 3, 24, 24) * 2 - 1
    data = DataLoader([{"image": image} for image in x], batch_size=8)
    reference = FrechetDistance("squeezenet1_0", "net.pth")
    with torch.no_grad():
        x_hat = torch.cat([model.eval().reconstruct(part) for part in x.split(8)])
    reference.update(x / 2 + 0.5, real=True)
    reference.update(model.value_range.decode(x_hat), real=False)
    expected = reference.compute().item()
    for stage, verb in (("val", "validate"), ("test", "test"), ("val", "validate")):
        (metrics,) = getattr(trainer(), verb)(model, data, verbose=False)
        assert metrics[f"{stage}/rfid_squeezenet1_0"] == pytest.approx(expected, rel=1e-4)
    assert not [key for key in model.state_dict() if "frechet" in key]


def test_missing_frechet_weights_stop_the_run_at_start():
    model = with_frechet(VQVAE, "nowhere.pth")
    with refused("nowhere.pth", "frechet.backbone=FILE"):
        trainer().fit(model, loader(8, size=24))
