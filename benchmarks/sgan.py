"""SGAN with few labels, compared with its classifier alone and with the training loop of a popular tutorial.

    python benchmarks/sgan.py digits                                       # scikit-learn's, 5 seeds, MLP networks
    python benchmarks/sgan.py mnist --path data --steps 6000 --seeds 1     # convolutional networks
    python benchmarks/sgan.py mnist --path data --labels-per-class 0 ...   # all labels
    ... --only SGAN "SGAN, feature matching" "tutorial's loop"             # some of the contestants
    python benchmarks/sgan.py mnist --path data --networks mlp ...         # fully connected, feature matching
    python benchmarks/sgan.py fashion --path data --only "label spreading" "logistic regression"

The tutorial's loop has a softmax before the cross-entropy, a sigmoid before the binary cross-entropy, batch norm with
eps 0.8 (meant as a momentum), and no term for unlabelled images, so it is trained on labelled images only. Its accuracy
is the argmax over the K real classes on held-out images. ``d_acc`` is the accuracy that the tutorial reports: the
argmax over K + 1 classes on real and generated training images, mean of the last tenth of the steps. Label spreading
over the graph of all images (7 neighbours) and logistic regression on the labelled ones are the baselines without a
network.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from ratios import Ratio, medians, processor, table
from torch import Tensor, nn

from vqlab.callbacks.ema import EMA
from vqlab.data.images.arrays import ImageArrays
from vqlab.data.images.base import ImageDataModule
from vqlab.data.images.digits import Digits
from vqlab.data.images.torchvision import CIFAR10, MNIST, FashionMNIST
from vqlab.models.sgan import SGAN
from vqlab.nn.base import FeatureNet, Generator
from vqlab.nn.gan.networks import ConvFeatures, ConvGenerator, MLPFeatures, MLPGenerator
from vqlab.nn.image_format import ImageFormat
from vqlab.training.learning_rate import Schedule
from vqlab.training.optimization import GANOptimization

EPS = 0.8
DATA: dict[str, Any] = {"mnist": MNIST, "fashion": FashionMNIST, "cifar10": CIFAR10}


def main() -> None:
    """Run each contestant on each seed, print one table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["digits", *DATA])
    parser.add_argument("--path", default="data", help="folder of the data, or .npz file of images and labels")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels-per-class", type=int, default=10, help="0: all")
    parser.add_argument("--networks", choices=["conv", "mlp"], default="conv", help="of all but digits")
    parser.add_argument("--only", nargs="+", help="names of contestants")
    options = parser.parse_args()
    torch.set_num_threads(1)
    contestants = {
        "SGAN": lambda data, seed: ours(data, seed, options),
        "classifier alone": lambda data, seed: ours(data, seed, options, unlabelled_weight=0.0),
        "SGAN, spectral norm": lambda data, seed: ours(data, seed, options, spectral_norm=True),
        "tutorial's loop": lambda data, seed: tutorial(data, seed, options),
    }
    if options.labels_per_class:
        contestants["label spreading"] = lambda data, seed: label_spreading(data)
        contestants["logistic regression"] = lambda data, seed: logistic_regression(data)
    if options.data == "digits":
        game: dict[str, Any] = {"head": "kplus1", "objective": "non_saturating"}
        contestants["SGAN, non-saturating"] = lambda data, seed: ours(data, seed, options, **game)
        bounded = game | {"spectral_norm": True}
        contestants["SGAN, non-saturating, spectral norm"] = lambda data, seed: ours(data, seed, options, **bounded)
    elif options.networks == "conv":  # fully connected ones have it anyway
        matching = {"objective": "feature_matching"}
        contestants["SGAN, feature matching"] = lambda data, seed: ours(data, seed, options, **matching)
    rows = []
    for name in options.only or contestants:
        runs = []
        for seed in range(options.seeds):
            data, start = make_data(options, seed), time.process_time()
            runs.append((*contestants[name](data, seed), time.process_time() - start))
            print(name, seed, *(f"{value:.4f}" for value in runs[-1]), flush=True)
        accuracies, d_accs, seconds = zip(*runs, strict=True)
        spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
        rows.append(
            [
                name,
                f"{statistics.fmean(accuracies):.4f} ± {spread:.4f}",
                f"{statistics.fmean(d_accs):.3f}",
                f"{statistics.fmean(seconds):.0f}",
            ]
        )
    print(processor())
    print(table(["", "held-out accuracy", "d_acc", "CPU seconds"], rows))


def ratios(quick: bool) -> list[Ratio]:
    """Return what the tutorial's loop takes, as multiples of SGAN's, on digits that all have labels."""
    size, steps, repeats = (8, 1, 1) if quick else (32, 5, 5)
    nets = argparse.Namespace(data="digits" if quick else "mnist", networks="conv")
    data = Digits(image_size=size, batch_size=64, val_size=1, test_size=359)
    warm = 2  # batches before the clock runs

    def ours() -> float:
        model = SGAN(*networks(nets), lr=2e-4, images=ImageFormat(channels=1, size=size, num_classes=10))
        clock = Clock(warm)
        lightning.Trainer(max_steps=warm + steps, max_epochs=-1, limit_val_batches=0, callbacks=[clock], **QUIET).fit(
            model, data
        )
        return clock.seconds

    def tutorials() -> float:
        loop = tutorial_steps(data, *tutorial_networks(data, nets))
        list(islice(loop, warm))
        start = time.process_time()
        list(islice(loop, steps))
        return time.process_time() - start

    seconds = medians({"ours": ours, "tutorial's": tutorials}, repeats)
    value = seconds["tutorial's"] / seconds["ours"]
    return [Ratio(f"`SGAN`, a step, batch 64, {size} x {size}", "a tutorial's loop", "time", value)]


def make_data(options: argparse.Namespace, seed: int) -> ImageDataModule:
    """Return the data; validation and test images together are held out."""
    few: dict[str, Any] = {"labels_per_class": options.labels_per_class or None, "seed": seed}
    if options.data == "digits":
        few |= {"value_range": "unit", "val_size": 1, "test_size": 359}  # 1,437 to train
        return Digits(image_size=8, batch_size=100, **few)
    if options.path.endswith(".npz"):
        return ImageArrays(options.path, batch_size=64, **few)
    return DATA[options.data](options.path, image_size=32, batch_size=64, download=False, **few)


def networks(options: argparse.Namespace) -> tuple[Generator, FeatureNet]:
    """Return fresh networks, the same for all contestants."""
    if options.data == "digits":
        return MLPGenerator(50, 1, 8, (128, 128)), MLPFeatures(1, 8, (256, 256, 128), input_noise=0.15)
    if options.networks == "mlp":
        return MLPGenerator(100, 1, 32), MLPFeatures(1, 32)
    return ConvGenerator(), ConvFeatures()


def ours(data: ImageDataModule, seed: int, options: argparse.Namespace, **more: Any) -> tuple[float, float]:
    """Return held-out accuracy and d_acc of an SGAN."""
    lightning.seed_everything(seed, verbose=False)
    digits = options.data == "digits"
    settings: dict[str, Any] = {"lr": 2e-4}
    if digits or options.networks == "mlp":
        settings |= {"head": "logsumexp", "objective": "feature_matching"}
    if digits:
        settings |= few_labels(options.steps)
    if "spectral_norm" in more:
        settings["weight_norm"] = False
    model = SGAN(*networks(options), images=data.image_format, **settings | more)
    seen = DAcc()
    trainer = lightning.Trainer(
        max_steps=options.steps,
        max_epochs=-1,
        limit_val_batches=0,
        log_every_n_steps=1,
        callbacks=[EMA(0.99 if digits else 0.999), seen],
        **QUIET,
    )
    trainer.fit(model, data)
    (test,) = lightning.Trainer(**QUIET).test(model, data, verbose=False)
    print(*(f"{name} {value:.3f}" for name, value in test.items()))
    return test["test/acc"], seen.late(options.steps)


def few_labels(steps: int) -> dict[str, Any]:
    """Return the model's settings in configs/sgan_mlp.yaml, with rates for smaller networks and shorter training."""
    return {
        "weight_norm": True,
        "unlabelled_weight": 4.0,
        "consistency_weight": 1.0,
        "self_training_start": steps * 3 // 20,
        "lr": 3e-3,
        "optimization": GANOptimization(disc_lr=1e-3, betas=(0.5, 0.9), schedule=Schedule("linear", final_factor=0.0)),
    }


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Clock(lightning.Callback):
    """The CPU seconds of all batches but the first ``start``, which make Adam's moments."""

    def __init__(self, start: int) -> None:
        self.start = start

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Start the clock, or look at it."""
        if trainer.global_step == self.start:
            self.started = time.process_time()
        self.seconds = time.process_time() - self.started if trainer.global_step > self.start else 0.0


class DAcc(lightning.Callback):
    """Collect ``train/d_acc``."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Read this step's."""
        self.values.append(float(trainer.callback_metrics.get("train/d_acc", float("nan"))))

    def late(self, steps: int) -> float:
        """Return the mean of the last tenth."""
        return statistics.fmean(self.values[-(steps // 10) :])


def tutorial(data: ImageDataModule, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return held-out accuracy and d_acc of the tutorial's loop."""
    lightning.seed_everything(seed, verbose=False)
    generator, discriminator = tutorial_networks(data, options)
    d_accs = list(islice(tutorial_steps(data, generator, discriminator), options.steps))
    features, auxiliary, _ = discriminator.eval()
    right = total = 0
    with torch.no_grad():
        for batch in data.test_dataloader():
            classes = auxiliary(features(batch["image"]))[:, : data.num_classes]
            right += int((classes.argmax(1) == batch["label"]).sum())
            total += len(batch["label"])
    return right / total, statistics.fmean(d_accs[-(options.steps // 10) :])


def tutorial_networks(data: ImageDataModule, options: argparse.Namespace) -> tuple[Any, nn.ModuleList]:
    """Return the generator, and features, class head and adversarial head of the discriminator."""
    generator, features = networks(options)
    for part in (*generator.modules(), *features.modules()):
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eps = EPS
    return generator, nn.ModuleList(
        [features, *(nn.Linear(features.out_features, n) for n in (data.num_classes + 1, 1))]
    )


def tutorial_steps(data: ImageDataModule, generator: Any, discriminator: nn.ModuleList) -> Iterator[float]:
    """Train, and yield the d_acc of each batch."""
    features, auxiliary, adversarial = discriminator
    classes = data.num_classes
    optimizers = [torch.optim.Adam(part.parameters(), 2e-4, (0.5, 0.999)) for part in (generator, discriminator)]

    def discriminate(x: Tensor) -> tuple[Tensor, Tensor]:
        seen = features(x)
        return adversarial(seen).sigmoid(), auxiliary(seen).softmax(1)

    for images, labels in endless(data):
        real, fake = torch.ones(len(images), 1), torch.zeros(len(images), 1)
        made = data.pixel_range.encode((generator(torch.randn(len(images), generator.latent_dim)) + 1) / 2)
        optimizers[0].zero_grad()
        F.binary_cross_entropy(discriminate(made)[0], real).backward()
        optimizers[0].step()

        optimizers[1].zero_grad()
        real_score, real_class = discriminate(images)
        fake_score, fake_class = discriminate(made.detach())
        no_class = torch.full_like(labels, classes)
        of_real = (F.binary_cross_entropy(real_score, real) + F.cross_entropy(real_class, labels)) / 2
        of_fake = (F.binary_cross_entropy(fake_score, fake) + F.cross_entropy(fake_class, no_class)) / 2
        ((of_real + of_fake) / 2).backward()
        optimizers[1].step()
        guesses, truth = torch.cat([real_class, fake_class]).argmax(1), torch.cat([labels, no_class])
        yield float((guesses == truth).float().mean())


def endless(data: ImageDataModule) -> Any:
    """Yield labelled images and their labels, epoch after epoch."""
    data.setup("fit")
    while True:
        for batch in data.train_dataloader():
            yield batch.get("labelled_image", batch["image"]), batch.get("labelled_label", batch["label"])


def label_spreading(data: ImageDataModule) -> tuple[float, float]:
    """Return the accuracy of scikit-learn's label spreading over all images, on the held-out ones."""
    from sklearn.semi_supervised import LabelSpreading

    images, labels, chosen, test_images, test_labels = pixels(data)
    told = torch.full((len(images) + len(test_images),), -1)
    told[chosen] = labels[chosen]
    spread = LabelSpreading(kernel="knn", n_neighbors=7).fit(torch.cat([images, test_images]).numpy(), told.numpy())
    guesses = torch.from_numpy(spread.transduction_[len(images) :])
    return float((guesses == test_labels).double().mean()), float("nan")


def logistic_regression(data: ImageDataModule) -> tuple[float, float]:
    """Return the accuracy of scikit-learn's logistic regression on the labelled images, on the held-out ones."""
    from sklearn.linear_model import LogisticRegression

    images, labels, chosen, test_images, test_labels = pixels(data)
    classifier = LogisticRegression(max_iter=2000).fit(images[chosen].numpy(), labels[chosen].numpy())
    guesses = torch.from_numpy(classifier.predict(test_images.numpy()))
    return float((guesses == test_labels).double().mean()), float("nan")


def pixels(data: ImageDataModule) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return training images (N, P) in [0, 1], their labels, positions of those with a label, and the test set."""
    data.setup()
    part, test = data._train_val[0], data._test
    train = part.data  # type: ignore[attr-defined]
    flat = [some.images.flatten(1).double() / 255 for some in (train, test)]  # type: ignore[union-attr]
    return flat[0], train.labels, part.chosen, flat[1], test.labels  # type: ignore[attr-defined, union-attr]


if __name__ == "__main__":
    main()
