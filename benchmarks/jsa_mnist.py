"""JSA and other estimators on binarised MNIST: test NLL after equal steps, with the same networks, seeds and batches.

    python benchmarks/jsa_mnist.py --train mnist_train.npz --test mnist_test.npz --out runs/jsa_mnist.jsonl
    python benchmarks/jsa_mnist.py ... --code bernoulli

``categorical`` has 20 variables of 10 values and the networks 784-512-256-[200], [200]-256-512-784; ``bernoulli`` has
200 of 2 and 784-200-200-[200], [200]-200-200-784 (Ou and Song 2020, section 5). The prior is uniform, as in the paper.
JSA caches its chains from the middle of the training; no codes are split. Images are binarised at 0.5; the NLL is
estimated by importance sampling. ``--samples`` is the number of proposals of JSA and of samples of the others per
image; the paper has 20. Each run adds a line to ``--out``, so a stopped suite can resume. The arrays are ``x``,
(N, 28, 28) uint8.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from ratios import processor, table

from vqlab.data.images.base import ImageTensors, to_float
from vqlab.data.resumable import ResumableLoader, ResumableSampler
from vqlab.models.categorical.discrete_vae import DiscreteVAE
from vqlab.models.categorical.jsa import JSA
from vqlab.models.categorical.posterior_sampler import PosteriorSampler
from vqlab.nn.anneal import Anneal
from vqlab.nn.autoencoders.small import MLPDecoder, MLPEncoder
from vqlab.nn.image_format import ImageFormat, ValueRange
from vqlab.nn.likelihood import Bernoulli

CONTESTANTS = ("jsa", "jsa, no cache", "rws", "vimco", "rloo", "gumbel", "st_gumbel")
BATCH, NLL_SAMPLES, LR = 50, 1000, 1e-3
UNIT = ValueRange("unit")


def main() -> None:
    """Train what is missing, print one table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file")
    parser.add_argument("--code", choices=["categorical", "bernoulli"], default="categorical")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = {name: getattr(args, name) for name in ("code", "steps", "train_images", "samples")}
    data, test = load(args.train, args.train_images), load(args.test, args.test_images)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for seed in range(args.seeds):
        for contestant in CONTESTANTS:
            key = {"contestant": contestant, "seed": seed, **setting}
            if not any(key.items() <= line.items() for line in lines):
                started = time.process_time()
                model = fit(build(contestant, args, seed), data, args.steps, seed)
                trained = time.process_time()
                lines.append({**key, **evaluate(model, test), "cpu_seconds": round(trained - started)})
                with args.out.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(lines[-1], flush=True)
    print(f"{processor()}, torch {torch.__version__}, {setting}, {args.seeds} seeds, Adam {LR:g}\n")
    lines = [line for line in lines if setting.items() <= line.items() and line["seed"] < args.seeds]
    print(report(lines))


def build(contestant: str, args: argparse.Namespace, seed: int) -> JSA | DiscreteVAE:
    """Return a contestant; the weights of one seed are the same for all."""
    torch.manual_seed(seed)
    if args.code == "categorical":
        nets: dict[str, Any] = {"encoder": MLPEncoder(), "decoder": MLPDecoder()}
        nets |= {"num_latents": 20, "num_embeddings": 10}
    else:
        widths: Any = {"hidden_channels": (200,)}
        nets = {"encoder": MLPEncoder(**widths, out_channels=200), "decoder": MLPDecoder(**widths, in_channels=200)}
        nets |= {"num_latents": 200, "num_embeddings": 2}
    shared: dict[str, Any] = {**nets, "likelihood": Bernoulli(), "lr": LR, "split_ratio": None}
    shared["images"] = ImageFormat(channels=1, size=28, value_range=UNIT)
    epochs = args.steps * BATCH // args.train_images
    match contestant:
        case "jsa":
            sampler = PosteriorSampler(
                num_mis_steps=args.samples, cache_start_epoch=epochs // 2, train_size=args.train_images
            )
            return JSA(sampler=sampler, **shared)
        case "jsa, no cache":
            return JSA(sampler=PosteriorSampler(num_mis_steps=args.samples, cache=False), **shared)
        case "rws":  # the first candidate is a draw, too
            return JSA(sampler=PosteriorSampler(num_mis_steps=args.samples - 1, kernel="isir", cache=False), **shared)
        case "gumbel" | "st_gumbel":
            return DiscreteVAE(
                estimator=contestant, temperature=Anneal(1.0, 0.5, args.steps, kind="exponential"), **shared
            )
        case _:
            return DiscreteVAE(estimator=contestant, num_samples=args.samples, **shared)


def fit(model: JSA | DiscreteVAE, data: ImageTensors, steps: int, seed: int) -> JSA | DiscreteVAE:
    """Train with batches in an order that depends on the seed alone."""
    lightning.seed_everything(seed, verbose=False)
    sampler = ResumableSampler(data, 1, 0, shuffle=True, seed=seed, drop_last=True)
    collate = lambda batch: to_float(batch, UNIT)  # noqa: E731
    loader = ResumableLoader(data, batch_size=BATCH, sampler=sampler, drop_last=True, collate_fn=collate)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=500,
    )
    trainer.fit(model, loader)
    return model.eval()


@torch.no_grad()
def evaluate(model: JSA | DiscreteVAE, test: ImageTensors) -> dict[str, float]:
    """Return the bounds of -ln p(x) in nats, means over the test images."""
    torch.manual_seed(0)
    x = to_float(test.__getitems__(list(range(len(test)))), UNIT)["image"]
    bounds = [model.bounds(chunk, NLL_SAMPLES) for chunk in x.split(20)]
    names = ("elbo", "importance", "chain")
    return {name: torch.cat([getattr(b, name) for b in bounds]).mean().item() for name in names}


def report(lines: list[dict[str, Any]]) -> str:
    """Return a table: means and standard deviations over the seeds."""
    rows = []
    for contestant in CONTESTANTS:
        mine = [line for line in lines if line["contestant"] == contestant]
        nll = [line["importance"] for line in mine]
        spread = statistics.stdev(nll) if len(nll) > 1 else 0.0
        others = [f"{statistics.mean(line[name] for line in mine):.2f}" for name in ("elbo", "chain")]
        seconds = statistics.mean(line["cpu_seconds"] for line in mine)
        rows.append([contestant, f"{statistics.mean(nll):.2f} ± {spread:.2f}", *others, f"{seconds:.0f}"])
    return table(["", "test NLL, nats", "-ELBO", "chain bound", "CPU seconds"], rows)


def load(path: str, number: int) -> ImageTensors:
    """Read the first images."""
    with np.load(path) as arrays:
        return ImageTensors(torch.from_numpy(arrays["x"][:number])[:, None])


if __name__ == "__main__":
    main()
