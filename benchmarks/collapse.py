r"""Codebook usage and PSNR of quantizers at several learning rates.

A VQ-VAE (8x8 codes) is trained on CIFAR-10 with every contestant, learning rate and seed: ``--network small``, the
paper's with 32 channels and Adam at a constant rate, or ``patches``, as in ``configs/vqvae.yaml``. Usage and
perplexity are those of all test tokens; initial weights and batches of a seed are the same for all contestants.
Each run adds a line to ``results.jsonl``, so a stopped suite can resume; a failed run writes the error and is repeated.
The baseline, a PCA with levels of Lloyd and Max at as many bits, fitted to the same images, goes to ``pca.json``.

    python benchmarks/collapse.py --train cifar10_train.npz --test cifar10_test.npz --out runs/collapse --jobs 2
    python benchmarks/collapse.py --train cifar10_train.npz --test cifar10_test.npz --out runs/equal_bits \
        --network patches --num-embeddings 512 --lrs 3e-3 --seeds 0 --contestants default FSQ BSQ
    python benchmarks/collapse.py --report --out runs/collapse

The arrays are ``x``, (N, 32, 32, 3) uint8.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from collapse_contestants import CONTESTANTS, STEPS, build
from collapse_report import report
from torch import Tensor, nn

from vqlab.metrics import PCA, PCALloydMax, psnr
from vqlab.metrics.codes import CodebookUsage
from vqlab.models.vq.autoencoder import parameter_groups
from vqlab.nn.autoencoders.patch_conv import PatchConvDecoder, PatchConvEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.training.learning_rate import Schedule, reset_moments
from vqlab.training.muon import Muon
from vqlab.training.optimization import muon_groups

BATCH = {"small": 64, "patches": 32}
EVAL_BATCH = 100  # larger N x K arrays of the peers leave the cache
TRAIN_IMAGES, TEST_IMAGES = 20_000, 2_000
HIDDEN, EMBEDDING_DIM, POSITIONS = 32, 64, 64
KEY = ("contestant", "num_embeddings", "lr", "seed", "steps", "precision", "network")  # what makes two runs the same


class Model(nn.Module):
    """Encoder, quantizer, decoder; 1x1 convolutions fit any quantizer. Only the convolutions see autocast."""

    def __init__(self, quantizer: nn.Module, seed: int, precision: str, network: str) -> None:
        super().__init__()
        torch.manual_seed(seed)  # encoder and decoder first: equal whatever the quantizer's dimension
        if network == "small":
            self.encoder, self.decoder = SmallEncoder(hidden_channels=HIDDEN), SmallDecoder(hidden_channels=HIDDEN)
        else:
            self.encoder, self.decoder = PatchConvEncoder(), PatchConvDecoder()
        self.to_code = nn.Conv2d(self.encoder.out_channels, quantizer.embedding_dim, 1)
        self.from_code = nn.Conv2d(quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.quantizer, self.precision = quantizer, precision
        self.to(memory_format=torch.channels_last)  # a few per cent faster

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the reconstruction (B, 3, 32, 32) and the quantizer's output."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            z = self.to_code(self.encoder(x))
        code = self.quantizer(z.float())  # peers do not guard themselves against autocast, so all get float32
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            x_hat = self.decoder(self.from_code(code.quantized))
        return x_hat.float(), code


def train(model: Model, images: Tensor, key: dict[str, Any]) -> int:
    """Train on ``images`` (N, 3, 32, 32) uint8 and return the number of steps until the loss was no longer finite."""
    steps, seed, patches, size = key["steps"], key["seed"], key["network"] == "patches", BATCH[key["network"]]
    if patches:
        optimizer: torch.optim.Optimizer = Muon(muon_groups(parameter_groups(model)), lr=key["lr"], betas=(0.9, 0.99))
        schedule = Schedule("cosine", warmup_steps=steps // 10)
    else:
        optimizer, schedule = torch.optim.Adam(model.parameters(), lr=key["lr"], fused=True), Schedule()
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, steps))
    quantizer, order = model.quantizer, torch.Generator().manual_seed(seed)
    quantizer.auto_update = False
    torch.manual_seed(seed)  # for quantizers that draw from the global generator
    model.train()
    indices = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(indices) < size:
            indices = torch.randperm(len(images), generator=order)
        batch, indices = indices[:size], indices[size:]
        quantizer.sample_index = batch
        x = to_signed(images[batch])
        x_hat, code = model(x)
        loss = F.mse_loss(x_hat, x) + code.loss
        if not loss.isfinite():
            return step
        optimizer.zero_grad()
        loss.backward()
        if patches:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
        if code.stats is not None:
            for codebook, rows in quantizer.update(code.stats):
                reset_moments(optimizer, codebook, rows)
    return steps


@torch.no_grad()
def evaluate(model: Model, images: Tensor) -> dict[str, float]:
    """Return the mean PSNR of ``images`` in dB, and usage and perplexity of all their codes."""
    model.eval()
    codebooks = getattr(model.quantizer, "num_codebooks", 1)  # peers have one
    psnrs, usage = [], CodebookUsage(model.quantizer.num_embeddings, codebooks)
    for chunk in images.split(EVAL_BATCH):
        x = to_signed(chunk)
        x_hat, code = model(x)
        mse = ((x_hat.clamp(-1, 1) - x) / 2).square().flatten(1).mean(1)
        psnrs.append(-10 * mse.clamp_min(1e-10).log10())
        usage.update(code.indices)
    figures = {name: value.item() for name, value in usage.compute().items()}
    return {
        "psnr": torch.cat(psnrs).mean().item(),
        "usage": figures["codebook_usage"],
        "perplexity": figures["perplexity"],
    }


def to_signed(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


DATA: dict[str, Tensor] = {}  # of a worker process, loaded once


def load(train_path: str, test_path: str) -> None:
    """Read the images in a worker."""
    torch.set_num_threads(1)
    for name, path, number in (("train", train_path, TRAIN_IMAGES), ("test", test_path, TEST_IMAGES)):
        with np.load(path) as arrays:
            DATA[name] = torch.from_numpy(arrays["x"][:number]).permute(0, 3, 1, 2).contiguous()


def run(key: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one contestant in a worker; an exception becomes the line's ``error``."""
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        quantizer = build(key["contestant"], key["num_embeddings"], EMBEDDING_DIM, key["seed"])
        model = Model(quantizer, key["seed"], key["precision"], key["network"])
        steps = train(model, DATA["train"], key)
        finite = steps == key["steps"]
        result = {"loss_finite": finite, "steps_done": steps, **(evaluate(model, DATA["test"]) if finite else {})}
    except Exception:
        result = {"error": traceback.format_exc()}
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {**key, **result, "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the finished runs; a line cut short by a kill is left out, and so run again."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"left out of {path}: {line[:60]}")
    return lines


def main() -> None:
    """Run what is missing, then report."""
    args = parse()
    path = args.out / "results.jsonl"
    if not args.report:
        args.out.mkdir(parents=True, exist_ok=True)
        done = {tuple(line[name] for name in KEY) for line in read_lines(path) if "error" not in line}
        grid = product(args.seeds, args.num_embeddings, args.lrs, args.contestants)
        runs = [(name, k, lr, seed, args.steps, args.precision, args.network) for seed, k, lr, name in grid]
        run_all([dict(zip(KEY, key, strict=True)) for key in runs if key not in done], path, args)
        write_pca(args)
    report(read_lines(path), read_pca(args.out), args.out)


def write_pca(args: argparse.Namespace) -> None:
    """Add the PSNR of the PCA at the bits of each K to ``pca.json``, unless it is there."""
    psnrs = read_pca(args.out)
    if missing := [k for k in args.num_embeddings if k not in psnrs]:
        load(args.train, args.test)
        coder, x = PCALloydMax(PCA(DATA["train"] / 255)), DATA["test"] / 255
        psnrs |= {k: psnr(coder.code(x, POSITIONS * math.log2(k)).x_hat, x).item() for k in missing}
        (args.out / "pca.json").write_text(json.dumps(psnrs))


def read_pca(folder: Path) -> dict[int, float]:
    """Return the PSNR of the PCA by K."""
    path = folder / "pca.json"
    return {int(k): value for k, value in json.loads(path.read_text()).items()} if path.exists() else {}


def run_all(keys: list[dict[str, Any]], path: Path, args: argparse.Namespace) -> None:
    """Run ``keys`` on ``--jobs`` processes and append each result to ``path`` as it comes."""
    if path.exists() and not path.read_text().endswith("\n"):
        path.write_text(path.read_text() + "\n")  # after a cut line, the next one must not be joined to it
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        # The workers' glibc keeps large arrays instead of faulting them in anew at every step. Quantizers that hold
        # N x K arrays run up to 6 times faster.
        os.environ.setdefault(name, str(2**34))
    workers = ProcessPoolExecutor(
        args.jobs, multiprocessing.get_context("spawn"), initializer=load, initargs=(args.train, args.test)
    )
    with workers, path.open("a") as file:
        futures = [workers.submit(run, key) for key in keys]
        for number, future in enumerate(as_completed(futures), 1):
            line = future.result()
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{number}/{len(keys)}", summary(line), flush=True)


def summary(line: dict[str, Any]) -> str:
    """One run in one line of text."""
    head = f"{line['contestant']}, K={line['num_embeddings']}, lr={line['lr']:g}, seed {line['seed']}"
    if "error" in line:
        return f"{head}: {line['error'].strip().splitlines()[-1]}"
    if not line["loss_finite"]:
        return f"{head}: loss not finite after {line['steps_done']} steps"
    figures = f"{line['psnr']:.2f} dB, usage {line['usage']:.1%}, perplexity {line['perplexity']:.0f}"
    return f"{head}: {figures}, {line['seconds']:.0f} s"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--train", metavar="NPZ", help=f"training images; the first {TRAIN_IMAGES} are used")
    parser.add_argument("--test", metavar="NPZ", help=f"test images; the first {TEST_IMAGES} are used")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--num-embeddings", nargs="+", type=int, default=[512, 8192])
    parser.add_argument("--lrs", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3, 2.3e-3, 3e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the convolutions")
    parser.add_argument("--network", choices=["small", "patches"], default="small")
    parser.add_argument("--report", action="store_true", help="train nothing, only report what is there")
    args = parser.parse_args()
    if not args.report and not (args.train and args.test):
        parser.error("--train and --test are required unless --report is given")
    return args


if __name__ == "__main__":
    main()
