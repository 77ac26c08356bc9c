"""A training step of VQ-GAN and of taming-transformers: images per second and memory, with the same networks and batch.

    python benchmarks/vqgan_step.py --size 32 --batch 32
    python benchmarks/vqgan_step.py --size 64 --batch 8 --precision bf16-mixed

Ours is the whole ``VQGAN.training_step`` under Lightning's Trainer, with optimizers and codebook. The step of taming is
the published one in plain PyTorch: autoencoder and LPIPS run once for each optimizer, and the adaptive weight needs
separate backward passes through LPIPS and discriminator. "shared" is the same with one autoencoder pass. Contestants
take turns in one process on one thread; the values are medians of CPU time, and the peak memory during a step above the
state before. LPIPS has random VGG weights, which cost the same as trained ones.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from measuring import peak_memory, resident, start_peak
from ratios import Ratio, medians, processor, table
from torch import Tensor

from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.losses.perceptual import Perceptual
from vqlab.models.adversarial import AdversarialSettings
from vqlab.models.vq.vqgan import VQGAN
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.gan.discriminators import PatchGAN
from vqlab.nn.image_format import ImageFormat
from vqlab.quantizers.vector import VectorQuantizer


def main() -> None:
    """Print one table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    args = parse()
    seconds, memory = measure(args)
    rows = [
        [name, f"{args.batch / value:.1f}", f"{value / seconds['vqlab']:.2f}", f"{memory[name] / 2**20:.0f}"]
        for name, value in seconds.items()
    ]
    print(f"{processor()}, torch {torch.__version__}, 1 thread, {vars(args)}\n")
    print(table(["step", "images/s", "vqlab is faster by", "peak memory, MiB"], rows))


def parse(options: list[str] | None = None) -> argparse.Namespace:
    """Return the options, those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--base-channels", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2, help="of the discriminator")
    parser.add_argument("--perceptual-weight", type=float, default=1.0, help="0 leaves LPIPS out")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="of ours")
    return parser.parse_args(options)


def ratios(quick: bool) -> list[Ratio]:
    """Return what taming's steps take, as multiples of ours, at the README's size."""
    args = parse(
        ["--batch=2", "--base-channels=32", "--perceptual-weight=0", "--rounds=1"] if quick else ["--batch=16"]
    )
    seconds, memory = measure(args)
    what = f"`VQGAN`, a step, batch {args.batch}, {args.size} x {args.size}"
    peers = {"taming": "taming-transformers' loop", "taming, shared": "the same, with one autoencoder pass"}
    reason = "autoencoder and LPIPS take nearly all of either's step"
    return [
        Ratio(what, peer, kind, found[name] / found["vqlab"], reason)
        for name, peer in peers.items()
        for kind, found in (("time", seconds), ("memory", memory))
    ]


def measure(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Return the CPU seconds of each step, and the bytes that it holds at most."""
    backbone = Path(tempfile.mkdtemp()) / "vgg.pth"
    if args.perceptual_weight:
        torch.save(torchvision.models.vgg16().state_dict(), backbone)

    images = torch.rand(args.batch, 3, args.size, args.size) * 2 - 1
    contestants: dict[str, Any] = {
        "vqlab": Ours(build(args, str(backbone)), images, args.precision),
        "taming": Taming(build(args, str(backbone)), images, args.precision, shared=False),
        "taming, shared": Taming(build(args, str(backbone)), images, args.precision, shared=True),
    }
    for step in contestants.values():
        step()  # initialisation, compilation
    memory = {name: step.peak() for name, step in contestants.items()}
    return medians(contestants, args.rounds), memory


def build(args: argparse.Namespace, backbone: str) -> VQGAN:
    """Return the same model for all."""
    torch.manual_seed(0)
    return VQGAN(
        ConvEncoder(base_channels=args.base_channels),
        ConvDecoder(base_channels=args.base_channels),
        VectorQuantizer(1024, 256),
        perceptual=Perceptual(backbone=backbone) if args.perceptual_weight else None,
        perceptual_weight=args.perceptual_weight,
        adversarial=AdversarialSettings(PatchGAN(num_layers=args.num_layers), disc_start=0),
        compile=args.compile,
        images=ImageFormat(size=args.size),
    )


class Ours(lightning.Callback):
    """Calls of it train one batch and return its CPU seconds."""

    def __init__(self, model: VQGAN, images: Tensor, precision: Any) -> None:
        self.model, self.images, self.precision = model, images, precision
        self.seconds = self.bytes = 0.0
        self.weighing = False  # which takes time

    def __call__(self) -> float:
        """Train two batches and return the CPU seconds of the second: the first makes Adam's moments."""
        batches = [{"image": self.images, "index": torch.arange(len(self.images))}] * 2
        trainer = lightning.Trainer(
            accelerator="cpu",
            precision=self.precision,
            max_steps=2,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self],
        )
        trainer.fit(self.model, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        return self.seconds

    def peak(self) -> float:
        """Return the peak memory of a batch in bytes above the state before."""
        self.weighing = True
        self()
        self.weighing = False
        return self.bytes

    def on_train_batch_start(self, *args: Any) -> None:
        """Start the clock."""
        self.before = start_peak() if self.weighing else 0
        self.started = time.process_time()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stop it."""
        self.seconds = time.process_time() - self.started
        self.bytes = resident("VmHWM") - self.before


class Taming:
    """taming-transformers' step: main.py's loop over two optimizers, VQModel.training_step and its loss module."""

    def __init__(self, model: VQGAN, images: Tensor, precision: str, shared: bool) -> None:
        self.model, self.images, self.shared = model.train(), images, shared
        self.bf16 = precision == "bf16-mixed"
        model.quantizer.auto_update = True
        assert model.adversarial is not None
        self.discriminator = model.adversarial.discriminator
        self.game = ADVERSARIAL["hinge"]
        discriminator = set(self.discriminator.parameters())
        autoencoder = [p for p in model.parameters() if p not in discriminator]
        self.optimizers = [torch.optim.Adam(p, lr=2e-4, betas=(0.5, 0.9)) for p in (autoencoder, [*discriminator])]

    def __call__(self) -> float:
        """Train one batch and return its CPU seconds."""
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            self.step(self.images)
        return time.process_time() - started

    def peak(self) -> float:
        """Return the peak memory of a batch in bytes above the state before."""
        return peak_memory(self, torch.device("cpu"))

    def step(self, x: Tensor) -> None:
        """Update one network after the other."""
        model, (generator, discriminator) = self.model, self.optimizers
        disc = self.discriminator
        for p in disc.parameters():
            p.requires_grad_(False)  # Lightning toggles
        x_hat, code = model(x)
        distance = self.distance(x_hat, x)
        g_loss = self.game.generator(disc(x_hat))
        last: Any = model.decoder.head
        norms = [torch.autograd.grad(loss, last[0].weight, retain_graph=True)[0].norm() for loss in (distance, g_loss)]
        weight = 0.8 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
        generator.zero_grad()
        (distance + code.loss + weight * g_loss).backward()
        generator.step()

        for p in disc.parameters():
            p.requires_grad_(True)
        if not self.shared:  # the second call of training_step computes all of it again
            with torch.set_grad_enabled(True):
                x_hat, code = model(x)
                self.distance(x_hat, x)
        d_loss = self.game.discriminator(disc(x.detach()), disc(x_hat.detach()))
        discriminator.zero_grad()
        d_loss.backward()
        discriminator.step()

    def distance(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """l1 + LPIPS."""
        distance = (x_hat - x).abs().mean()
        if self.model.perceptual is not None:
            distance = distance + self.model.perceptual(x_hat, x).mean()
        return distance


if __name__ == "__main__":
    main()
