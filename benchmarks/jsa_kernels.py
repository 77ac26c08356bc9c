"""Kernels of JSA's chains on a trained model, at the same number of passes through the decoder.

    python benchmarks/jsa_kernels.py runs/jsa/.../checkpoints/best.ckpt cifar10_test.npz

The chains of all kernels start at the same codes, draws from q after ``--burn-in`` passes of block_mis. A forward pass
counts as one, a backward pass as two. ``effective states`` are the effective sample size of ln p(x, h) along a chain,
by the initial positive sequence of its autocorrelations (Geyer 1992); 1 for a chain that stands still. ``distance`` is
|image - image at the start|^2 / sigma^2 of the decoded images at the end: how far the chains have moved in what the
codes stand for.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ratios import processor, table
from torch import Tensor

import vqlab
from vqlab.metrics import psnr
from vqlab.models.categorical.posterior_sampler import PosteriorSampler
from vqlab.samplers import Chain

ROWS: list[tuple[str, dict[str, Any], float | None]] = [  # name, settings, step size
    ("mis", {"kernel": "mis"}, None),
    *((f"block_mis, {size}", {"kernel": "block_mis", "block_size": size}, None) for size in (1, 2, 4)),
    *(
        (f"ncg, {size}, step {a}", {"kernel": "ncg", "block_size": size}, a)
        for size in (4, 8, 16)
        for a in (0.03, 0.1, 0.3)
    ),
]
STEPS = 10  # per call, as per batch of a training


@torch.no_grad()
def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("images", metavar="NPZ", help="x, (N, 32, 32, 3) uint8")
    parser.add_argument("--num", type=int, default=64, help="images")
    parser.add_argument("--passes", type=int, default=330)
    parser.add_argument("--burn-in", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = vqlab.load(args.checkpoint)
    latent: Any = model.latent
    images = torch.from_numpy(np.load(args.images)["x"][: args.num]).permute(0, 3, 1, 2) / 255
    x = latent.observe(model.value_range.encode(images))

    latent.sampler = PosteriorSampler(kernel="block_mis", whole_steps=0)
    log_q = latent.log_q(x)
    start = latent.sample_posterior(x, init=model.propose(x, 1)[0], steps=args.burn_in).flatten(1)
    rows = [["q's most probable codes", *[""] * 4, *quality(model, x, images, log_q.argmax(-1))]]
    rows.append(["the start", *[""] * 4, *quality(model, x, images, start)])
    for name, settings, step_size in ROWS:
        latent.sampler = PosteriorSampler(num_mis_steps=STEPS, whole_steps=0, **settings)
        if step_size is not None:
            latent.register_buffer("step_size", torch.tensor(step_size))
        passes = 3 * (STEPS + 1) if settings["kernel"] == "ncg" else STEPS + 1  # with that of the state
        chains = list(run(latent, x, log_q, start, args.passes // passes))
        total, end = passes * len(chains), chains[-1].last
        before = [start, *(chain.last for chain in chains)]
        changed = sum((a != b).sum(1).float().mean().item() for a, b in pairwise(before))
        accepted = torch.stack([chain.accepted.float().mean() for chain in chains]).mean().item()
        distance = (latent.output(end) - latent.output(start)).square().flatten(1).sum(1) / latent.likelihood.sigma**2
        effective = effective_size(log_p_of_path(model, x, chains)).mean()
        figures = [
            f"{accepted:.3f}",
            f"{1000 * effective / total:.1f}",
            f"{changed / total:.2f}",
            f"{distance.mean():.0f}",
        ]
        rows.append([name, *figures, *quality(model, x, images, end)])
    print(f"{processor()}, torch {torch.__version__}, 1 thread, {vars(args)}\n")
    header = ["kernel", "accepted", "effective states per 1,000 passes", "changed positions per pass", "distance"]
    print(table([*header, "ln p(x, h)", "PSNR"], rows))


def run(latent: Any, x: Tensor, log_q: Tensor, state: Tensor, calls: int) -> Iterator[Chain]:
    """Yield the chains of ``calls`` calls with ``STEPS`` steps each, one after the other."""
    for _ in range(calls):
        chain = latent.run_chain(x, log_q, state, torch.rand(len(x), latent.sampler.num_draws, latent.positions + 1))
        state = chain.last
        yield chain


def log_p_of_path(model: Any, x: Tensor, chains: list[Chain]) -> Tensor:
    """Return ln p(x, h) after each step of the chains, (B, N)."""
    parts = []
    for chain in chains:
        steps = torch.arange(1, chain.states.shape[1])
        path = torch.where(chain.accepted, steps, 0).cummax(1).values  # the state after each step
        parts.append(model.latent.joint_of_draws(x, chain.states)[0].gather(1, path))
    return torch.cat(parts, 1)


def effective_size(series: Tensor) -> Tensor:
    """Return the effective sample size (B,) of ``series`` (B, N), at least 1."""
    count = series.shape[1]
    centered = (series - series.mean(1, keepdim=True)).double()
    spectrum = torch.fft.rfft(centered, n=2 * count).abs().square()
    covariances = torch.fft.irfft(spectrum)[:, :count]
    correlations = covariances / covariances[:, :1].clamp_min(1e-12)
    pairs = correlations[:, : count // 2 * 2].unflatten(1, (-1, 2)).sum(2)
    positive = (pairs > 0).cummin(1).values
    return (count / (2 * (pairs * positive).sum(1) - 1).clamp_min(1)).where(covariances[:, 0] > 0, 1).clamp_min(1)


def quality(model: Any, x: Tensor, images: Tensor, codes: Tensor) -> list[str]:
    """Return ln p(x, h) and the PSNR of ``codes`` (B, P)."""
    codes = model.latent.to_map(codes)
    decoded = model.value_range.decode(model.decode(codes))
    return [f"{model.log_joint(x, codes).mean():.0f}", f"{psnr(decoded, images).item():.2f}"]


if __name__ == "__main__":
    main()
