"""The order in which VQ-GAN's networks are updated: quality after equal batches, paired by seed.

    python benchmarks/vqgan_updates.py --train cifar10_train.npz --test cifar10_test.npz --seeds 8 \
        --out runs/updates.jsonl

The Frechet distance is on EfficientNet-Lite0 (``vqlab[features]``); that of the published table was made with
``--net squeezenet1_0 --backbone FILE``.

``simultaneous`` is the step of ``VQGAN`` with ``alternate=false``: the gradients of both networks at the same weights.
``generator_first`` is the order of taming-transformers: the discriminator is trained on images of the updated
autoencoder (a second forward pass). ``discriminator_first`` is the default of ``VQGAN``: the generator loss is that of
the updated discriminator. All are written in plain PyTorch with the networks, losses and learning rates of
configs/vqgan_small.yaml; initial weights and batches of a seed are the same for all three.
Each run adds a line to ``--out``, so a stopped suite can resume. The arrays are ``x``, (N, 32, 32, 3) uint8.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ratios import processor, table
from torch import Tensor

from vqlab.losses.adversarial import ADVERSARIAL, adaptive_weight
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.adversarial import AdversarialSettings
from vqlab.models.vq.vqgan import VQGAN
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.gan.discriminators import PatchGAN
from vqlab.quantizers.vector import VectorQuantizer

ORDERS = ("simultaneous", "generator_first", "discriminator_first")
BATCH, TRAIN_IMAGES, TEST_IMAGES = 64, 20_000, 2_000
DISC_START, DISC_WARMUP = 300, 100
GAME = ADVERSARIAL["hinge"]


def main() -> None:
    """Train what is missing, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument(
        "--net", default="efficientnet_lite0", help="network of the Frechet distance, as FrechetDistance"
    )
    parser.add_argument("--backbone", help="its weights, as FrechetDistance")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the autoencoder; the discriminator's is 2e-4")
    parser.add_argument("--adaptive", action="store_true", help="the paper's weight of 0.8 lambda in place of 0.02")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = load(args.train, TRAIN_IMAGES), load(args.test, TEST_IMAGES)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    setting = {"steps": args.steps, "lr": args.lr, "adaptive": args.adaptive}
    network = {"net": args.net}
    for seed in range(args.seeds):
        for order in ORDERS:
            key = {"order": order, "seed": seed, **setting}
            if not any((key | network).items() <= line.items() for line in lines):
                model = fit(train, **key)
                lines.append({**key, **network, **evaluate(model, test, FrechetDistance(args.net, args.backbone))})
                with args.out.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(lines[-1], flush=True)
    lines = [line for line in lines if (setting | network).items() <= line.items() and line["seed"] < args.seeds]
    print(f"{processor()}, torch {torch.__version__}, {args.seeds} seeds, {setting}\n")
    print(report(lines))


def fit(images: Tensor, order: str, seed: int, steps: int, lr: float, adaptive: bool) -> VQGAN:
    """Train on ``images`` (N, 3, 32, 32) uint8."""
    torch.manual_seed(seed)
    model = VQGAN(
        SmallEncoder(hidden_channels=64),
        SmallDecoder(hidden_channels=64),
        VectorQuantizer(512, 64),
        perceptual_weight=0.0,
        adversarial=AdversarialSettings(PatchGAN(base_channels=32, num_layers=2)),
    ).train()
    assert model.adversarial is not None
    disc = model.adversarial.discriminator
    theirs = set(disc.parameters())
    generator = torch.optim.Adam([p for p in model.parameters() if p not in theirs], lr=lr, betas=(0.5, 0.9))
    discriminator = torch.optim.Adam(disc.parameters(), lr=2e-4, betas=(0.5, 0.9))
    batches = torch.Generator().manual_seed(seed)

    def step_discriminator(x: Tensor, fake: Tensor) -> None:
        discriminator.zero_grad()
        GAME.discriminator(disc(x), disc(fake)).backward()
        discriminator.step()

    for step in range(steps):
        index = torch.randint(len(images), (BATCH,), generator=batches)
        x, model.quantizer.sample_index = to_signed(images[index]), index
        x_hat, code = model(x)
        plays, felt = step >= DISC_START - DISC_WARMUP, step >= DISC_START
        if plays and order == "discriminator_first":
            step_discriminator(x, x_hat.detach())
        loss = (x_hat - x).abs().mean()
        if felt:
            push = GAME.generator(disc(x_hat))
            loss = loss + (0.8 * taming_weight(model, loss, push) if adaptive else 0.02) * push
        generator.zero_grad()
        (loss + code.loss).backward()
        if plays and order == "simultaneous":
            step_discriminator(x, x_hat.detach())
        generator.step()
        model.quantizer.update(code.stats)
        if plays and order == "generator_first":
            model.quantizer.eval()  # no second count of the codes
            with torch.no_grad():
                fake = model(x)[0]
            model.quantizer.train()
            step_discriminator(x, fake)
    return model


def taming_weight(model: VQGAN, loss: Tensor, push: Tensor) -> Tensor:
    """Return lambda of the paper's equation 7."""
    last: Any = model.decoder.head
    return adaptive_weight(loss, push, last[0].weight)


@torch.no_grad()
def evaluate(model: VQGAN, images: Tensor, distance: FrechetDistance) -> dict[str, float]:
    """Return PSNR in dB and the Frechet distance."""
    model.eval()
    psnrs = []
    for chunk in images.split(100):
        x = to_signed(chunk)
        real, fake = model.value_range.decode(x), model.value_range.decode(model(x)[0])
        distance.update(real, real=True)
        distance.update(fake, real=False)
        psnrs.append(-10 * (fake - real).square().flatten(1).mean(1).log10())
    return {"psnr": torch.cat(psnrs).mean().item(), "rfid": distance.compute().item()}


def report(lines: list[dict[str, Any]]) -> str:
    """Return a table: means, and each order's mean difference from ``simultaneous`` with its standard error."""
    rows = []
    for order in ORDERS:
        cells = [order]
        for metric, scale in (("psnr", lambda value: value), ("rfid", lambda value: 100 * np.log(value))):
            values, base = (
                [scale(line[metric]) for line in lines if line["order"] == name] for name in (order, ORDERS[0])
            )
            mean = statistics.mean(line[metric] for line in lines if line["order"] == order)
            gaps = [a - b for a, b in zip(values, base, strict=True)]
            error = statistics.stdev(gaps) / len(gaps) ** 0.5
            cells += [f"{mean:.5g}", "" if order == ORDERS[0] else f"{statistics.mean(gaps):+.2f} ± {error:.2f}"]
        rows.append(cells)
    return table(["order", "PSNR, dB", "less simultaneous", "Frechet distance", "log ratio to simultaneous, %"], rows)


def load(path: str, number: int) -> Tensor:
    """Read the first images, (N, 3, 32, 32) uint8."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["x"][:number]).permute(0, 3, 1, 2).contiguous()


def to_signed(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


if __name__ == "__main__":
    main()
