"""Cost of a training step of JSA, compared with a step of VQ-VAE and with the sampler of the published code.

    python benchmarks/jsa_step.py --batch 32 --steps 10

All have the same encoder and decoder. "JSA" has the kernel mis. "sequential" is JSA with proposals that are drawn,
encoded and decoded one at a time, and a gradient through every state of the chain. Contestants take turns in one
process on one thread; the values are medians of CPU time.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import CPU, peak_memory, race
from ratios import Ratio, processor, table
from torch import Tensor

from vqlab.models.categorical.jsa import JSA
from vqlab.models.categorical.posterior_sampler import PosteriorSampler
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.base import Decoder, Encoder
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.samplers.independence import log_prob, propose


def main() -> None:
    """Print one table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    args = parse()
    seconds = race(contestants(args), args.rounds)
    rows = [[name, f"{value / seconds['VQ-VAE']:.2f}"] for name, value in seconds.items()]
    print(f"{processor()}, torch {torch.__version__}, 1 thread, {vars(args)}\n")
    print(table(["step", "CPU time, VQ-VAE's = 1"], rows))


def parse(options: list[str] | None = None) -> argparse.Namespace:
    """Return the options, those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="proposals per batch")
    parser.add_argument("--num-embeddings", type=int, default=512)
    parser.add_argument("--networks", choices=["conv", "small"], default="conv")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(options)


def ratios(quick: bool) -> list[Ratio]:
    """Return what the published sampler takes, as multiples of JSA's step."""
    args = parse(["--batch=4", "--steps=3", "--networks=small", "--rounds=1"] if quick else [])
    steps = contestants(args)
    ours, theirs = "JSA", "JSA, sequential"
    seconds = race({name: steps[name] for name in (ours, theirs)}, args.rounds)
    peaks = {name: peak_memory(steps[name], CPU) for name in (ours, theirs)}
    what, peer = f"`JSA`, a step with {args.steps} proposals", "proposals one by one, as published"
    return [
        Ratio(what, peer, "time", seconds[theirs] / seconds[ours]),
        Ratio(what, peer, "memory", peaks[theirs] / peaks[ours]),
    ]


def contestants(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return the steps of all on the same images."""
    torch.manual_seed(0)
    x = torch.rand(args.batch, 3, 32, 32) * 2 - 1
    return {
        "VQ-VAE": vqvae_step(args, x),
        "JSA": jsa_step(args, x),
        **{f"JSA, {kernel}": jsa_step(args, x, kernel) for kernel in ("mis_rb", "isir", "block_mis", "ncg")},
        "JSA, sequential": sequential_step(args, x),
    }


def networks(args: argparse.Namespace) -> tuple[Encoder, Decoder]:
    """Return a new encoder and decoder."""
    if args.networks == "small":
        return SmallEncoder(), SmallDecoder()
    return ConvEncoder(base_channels=32, z_channels=64), ConvDecoder(base_channels=32, z_channels=64)


def stepper(parameters: list, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a function that takes one step of Adam."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def vqvae_step(args: argparse.Namespace, x: Tensor) -> Callable[[], None]:
    """A whole training step of a VQ-VAE."""
    encoder, decoder = networks(args)
    model = VQVAE(encoder, decoder, VectorQuantizer(args.num_embeddings, 64))
    model.quantizer.auto_update = True

    def loss() -> Tensor:
        x_hat, code = model(x)
        return F.mse_loss(x_hat, x) + code.loss

    return stepper(list(model.parameters()), loss)


def jsa_step(args: argparse.Namespace, x: Tensor, kernel: Any = "mis") -> Callable[[], None]:
    """A whole training step of JSA, without the cache, which takes no time."""
    encoder, decoder = networks(args)
    sampler = PosteriorSampler(args.steps, kernel, cache=False)
    model = JSA(encoder, decoder, num_embeddings=args.num_embeddings, sampler=sampler)
    return stepper(list(model.parameters()), lambda: model.compute_loss(x, None).loss)


def sequential_step(args: argparse.Namespace, x: Tensor) -> Callable[[], None]:
    """The same, one proposal after the other."""
    encoder, decoder = networks(args)
    model = JSA(encoder, decoder, num_embeddings=args.num_embeddings, sampler=PosteriorSampler(cache=False))
    everyone = torch.arange(len(x))

    def weight(codes: Tensor, log_q: Tensor) -> Tensor:
        return model.latent.joint(x, codes, everyone)[0] - log_prob(log_q, codes[:, None])[:, 0]

    def loss() -> Tensor:
        total: Tensor | float = 0.0
        with torch.no_grad():
            state = propose(model.latent.log_q(x), torch.rand(len(x), 1, model.latent.positions))[:, 0]
        for _ in range(args.steps):
            with torch.no_grad():
                log_q = model.latent.log_q(x)
                proposal = propose(log_q, torch.rand(len(x), 1, model.latent.positions))[:, 0]
                accept = torch.rand(len(x)).log() < weight(proposal, log_q) - weight(state, log_q)
                state = torch.where(accept[:, None], proposal, state)
            total = total - model.latent.joint(x, state, everyone)[0].mean()
        log_q = model.latent.log_q(x)
        return total / args.steps - log_prob(log_q, state[:, None]).mean()

    return stepper(list(model.parameters()), loss)


if __name__ == "__main__":
    main()
