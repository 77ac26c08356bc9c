"""Memory and time of a training step for growing images, codebooks, topics, signals and data sets, and their scaling.

    python benchmarks/scale.py                          # the table of docs/scale.md, about 10 minutes on one core
    python benchmarks/scale.py --only "VQGAN" "JSA"     # some rows

Each value is measured in a new process: three steps under the Lightning Trainer, one thread. Memory is the peak
resident size above that before the model was built; time is the CPU time of the last step. ``law`` is a + b f(x),
fitted to the first two values; the row compares it with the last measured value, and extrapolates to larger ones.
"""

import argparse
import logging
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from measuring import resident, start_peak
from ratios import processor, table
from sgan import QUIET, Clock
from torch.utils.data import DataLoader

import vqlab
from vqlab import AdversarialSettings, ImageFormat, PosteriorSampler

MIB = 2**20
STEPS = 3


@dataclass(frozen=True)
class Case:
    """What grows, the values to measure, one to speak of, the law's f and its name, and what runs at a value."""

    axis: str
    values: list[int]
    beyond: int
    law: str
    f: Callable[[float], float]
    run: Callable[[int], float]  # returns the CPU seconds of a step


def step(model: lightning.LightningModule, batch: dict[str, torch.Tensor]) -> float:
    """Train on one batch three times and return the CPU seconds of the last."""
    clock = Clock(STEPS - 1)
    data: Any = DataLoader([batch] * STEPS, batch_size=None)  # type: ignore[arg-type]
    lightning.Trainer(max_steps=STEPS, callbacks=[clock], **QUIET).fit(model, data)
    return clock.seconds


def images(count: int, channels: int, size: int) -> dict[str, torch.Tensor]:
    """Return a batch of noise."""
    index = torch.arange(count)
    return {"image": torch.rand(count, channels, size, size) * 2 - 1, "label": index % 10, "index": index}


def vqvae(size: int) -> float:
    """A VQ-VAE as in its paper."""
    return step(vqlab.VQVAE(lr=1e-4, images=ImageFormat(size=size)), images(16, 3, size))


def codes(count: int) -> float:
    """The same with more codes."""
    quantizer = vqlab.VectorQuantizer(num_embeddings=count, embedding_dim=64, init="data")
    return step(vqlab.VQVAE(quantizer=quantizer, lr=1e-4), images(16, 3, 32))


def vqgan(size: int) -> float:
    """A VQ-GAN with an active discriminator."""
    levels: Any = {"base_channels": 32, "z_channels": 64}
    model = vqlab.VQGAN(
        vqlab.ConvEncoder(**levels),
        vqlab.ConvDecoder(**levels),
        vqlab.VectorQuantizer(num_embeddings=1024, embedding_dim=64),
        perceptual_weight=0,
        adversarial=AdversarialSettings(disc_start=0),
        lr=1e-4,
        images=ImageFormat(size=size),
    )
    return step(model, images(4, 3, size))


def prior(size: int) -> float:
    """A transformer over the codes of an untrained VQ-VAE."""
    tokenizer = vqlab.VQVAE(images=ImageFormat(size=size))
    return step(vqlab.CodePrior(tokenizer, dim=256, depth=4, heads=4, lr=1e-4), images(4, 3, size))


def jsa(count: int) -> float:
    """JSA with a cached chain of 64 codes for each of ``count`` images."""
    nets = vqlab.SmallEncoder(hidden_channels=16), vqlab.SmallDecoder(hidden_channels=16)
    model = vqlab.JSA(
        *nets,
        num_embeddings=64,
        sampler=PosteriorSampler(num_mis_steps=2, train_size=count, cache_start_epoch=0),
        lr=1e-4,
    )
    return step(model, images(16, 3, 32))


def sgan(size: int) -> float:
    """SGAN with convolutions."""
    model = vqlab.SGAN(
        vqlab.ConvGenerator(image_size=size),
        vqlab.ConvFeatures(image_size=size),
        images=ImageFormat(channels=1, size=size, num_classes=10),
    )
    return step(model, images(16, 1, size))


def s4dvq(length: int) -> float:
    """S4D-VQ with its defaults."""
    return step(vqlab.S4DVQ(length=length, lr=1e-4), {"signal": torch.randn(4, 1, length), "index": torch.arange(4)})


def words(count: int) -> float:
    """Twenty topics."""
    return topic_model(20, count)


def topics(count: int) -> float:
    """Two thousand words."""
    return topic_model(count, 2000)


def topic_model(num_topics: int, vocab_size: int) -> float:
    """BAT on 256 documents."""
    model = vqlab.GANTopicModel(num_topics, init="random", n_critic=1, lr=1e-3, vocab_size=vocab_size)
    return step(model, {"bow": torch.rand(256, vocab_size), "label": torch.zeros(256, dtype=torch.long)})


def fonts(size: int) -> float:
    """FontGAN with its defaults."""
    glyphs = torch.rand(8, 1, size, size) * 2 - 1
    number = torch.zeros(8, dtype=torch.long)
    model = vqlab.FontGAN(image_size=size, lr=1e-4)
    return step(model, {"source": glyphs, "target": glyphs.flip(0), "char": number, "style": number})


def shards(count: int) -> float:
    """Draw the order of an epoch of images in shards of 5,000, and the first batch of it."""
    import numpy as np

    from vqlab.data.images.shards import ShardImages, ShardIndex, mixed_order

    shard = (np.arange(count) // 5000).astype(np.int32)
    where = (np.zeros(count, np.int64), np.zeros(count, np.int32), np.zeros(count, np.int32))
    index = ShardIndex(np.array(["0.tar"]), np.array([1]), np.array([""]), shard, *where)
    data = ShardImages(index, "", 256, 3)
    start = time.process_time()
    order = mixed_order(torch.from_numpy(shard), 8, seed=0, epoch=0)
    assert len(order) == len(data)
    return time.process_time() - start


def square(x: float) -> float:
    """Return x²."""
    return x * x


def same(x: float) -> float:
    """Return x."""
    return x


CASES = {
    "VQVAE, 16 images": Case("image size", [32, 64, 128], 256, "S²", square, vqvae),
    "VQVAE, codes of 64 numbers": Case("K", [1024, 16384, 65536], 2**20, "K", same, codes),
    "VQGAN, 4 images, 32 channels": Case("image size", [32, 64, 128], 256, "S²", square, vqgan),
    "CodePrior, 4 images of (S/4)² codes": Case("image size", [32, 64, 128], 256, "S²", square, prior),
    "JSA, cache of chains": Case("images", [10**5, 10**6, 4 * 10**6], 14_197_122, "N", same, jsa),
    "SGAN, 16 images": Case("image size", [32, 64, 128], 256, "S²", square, sgan),
    "S4DVQ, 4 signals": Case("length", [1024, 4096, 16384], 2**17, "L", same, s4dvq),
    "GANTopicModel, vocabulary": Case("words", [2000, 10000, 50000], 200_000, "V", same, words),
    "GANTopicModel, topics": Case("topics", [20, 100, 400], 1000, "K", same, topics),
    "FontGAN, 8 glyphs": Case("image size", [64, 128, 256], 512, "S²", square, fonts),
    "ImageShards, index and order": Case("images", [10**6, 3 * 10**6, 14_197_122], 4 * 10**8, "N", same, shards),
}


def measure(name: str, value: int) -> tuple[float, float]:
    """Return MiB and CPU seconds of a case at a value; runs in a new process."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    vqlab.VQVAE()  # imports the lazily imported modules
    before = start_peak()
    seconds = CASES[name].run(value)
    return (resident("VmHWM") - before) / MIB, seconds


def fit(xs: list[float], ys: list[float]) -> Callable[[float], float]:
    """Return a + b f through two points."""
    slope = (ys[1] - ys[0]) / (xs[1] - xs[0])
    return lambda x: ys[0] + slope * (x - xs[0])


def row(name: str, case: Case, processes: ProcessPoolExecutor) -> list[str]:
    """Measure a case at all its values and return its row of the table."""
    memory, seconds = zip(*(processes.submit(measure, name, value).result() for value in case.values), strict=True)
    xs = [case.f(value) for value in case.values]
    law = fit(xs[:2], list(memory))
    best = fit([xs[0], xs[-1]], [memory[0], memory[-1]])
    return [
        name,
        case.axis,
        ", ".join(f"{value:,}" for value in case.values),
        ", ".join(f"{mib:,.0f}" for mib in memory),
        f"{case.law}: {law(xs[-1]):,.0f}",
        f"{case.beyond:,}: {best(case.f(case.beyond)) / 1024:,.1f} GiB",
        ", ".join(f"{s / seconds[0]:.1f}" for s in seconds),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose names begin so")
    options = parser.parse_args()
    rows = []
    # spawn: a fork would begin with the memory of this process.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        for name, case in CASES.items():
            if name.startswith(tuple(options.only)):
                rows.append(row(name, case, processes))
                print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    print(processor())
    head = ["", "grows", "values", "MiB", "law of the first two at the last", "beyond, by the law", "time of a step"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
