"""A depth transformer beside one long sequence, for several codes per position: speed, and bits at equal CPU time.

    python benchmarks/depth_transformer.py                                # speed, random codes
    python benchmarks/depth_transformer.py --codes codes.npz --seconds 600    # bits per image on held-out codes

Speed: CPU seconds of a training step and of sampling 8 images with a cache, one thread, in turns. Bits: each network is
trained for the same CPU seconds, with a cosine schedule over them. ``codes.npz`` is the output of ``vqlab predict``;
its last tenth is held out.
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from measuring import race
from ratios import processor, table
from torch import Tensor

from vqlab.nn import DepthTransformer, Transformer
from vqlab.samplers import generate

SAMPLES = 8
Network = Transformer | DepthTransformer


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--num-codebooks", type=int, default=4)
    parser.add_argument("--num-tokens", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--depth-blocks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--codes", help="npz file with indices (N, h, w, Q)")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of each training")
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codes = None
    if options.codes:
        codes = torch.from_numpy(np.load(options.codes)["indices"]).long()
        options.num_codebooks, options.num_tokens = codes.shape[-1], int(codes.max()) + 1
        options.positions = codes[0].numel() // options.num_codebooks
        codes = codes.flatten(1)
    length, books = options.positions * options.num_codebooks, options.num_codebooks
    sizes = (options.num_tokens, length, 0, books, options.dim, options.depth, 4)
    nets: dict[str, Network] = {"one sequence": Transformer(*sizes)}
    nets |= {f"depth_blocks={n}": DepthTransformer(*sizes, depth_blocks=n) for n in options.depth_blocks}
    print(f"{vars(options)}, {processor()}")
    print(speeds(nets, options) if codes is None else bits(nets, codes, options))


def speeds(nets: dict[str, Network], options: argparse.Namespace) -> str:
    """Return the table of CPU seconds, and how many times as fast as one sequence."""
    tokens = torch.randint(options.num_tokens, (options.batch_size, nets["one sequence"].length))
    optimizers = {name: torch.optim.AdamW(net.parameters()) for name, net in nets.items()}

    def step(name: str) -> None:
        train_step(nets[name].train(), optimizers[name], tokens)

    def sample(name: str) -> None:
        generate(nets[name].eval(), torch.zeros(SAMPLES, dtype=torch.int64))

    columns = [
        race({name: lambda run=run, name=name: run(name) for name in nets}, options.repeats) for run in (step, sample)
    ]  # type: ignore[misc]
    rows = [
        [name, *(f"{column[name]:.3f} s ({column['one sequence'] / column[name]:.2f}x)" for column in columns)]
        for name in nets
    ]
    return table(["network", f"training step, batch {options.batch_size}", f"sampling {SAMPLES} images"], rows)


def bits(nets: dict[str, Network], codes: Tensor, options: argparse.Namespace) -> str:
    """Return the table of bits per image on held-out codes."""
    train, held_out = codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :]
    rows = []
    for name, net in nets.items():
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(net.parameters(), options.lr, betas=(0.9, 0.95), weight_decay=0.05)
        start, steps = time.process_time(), 0
        while (done := (time.process_time() - start) / options.seconds) < 1:
            optimizer.param_groups[0]["lr"] = options.lr * min(1, (steps + 1) / 20) * (1 + math.cos(math.pi * done)) / 2
            train_step(net, optimizer, train[torch.randint(len(train), (options.batch_size,))])
            steps += 1
        with torch.no_grad():
            nats = sum(loss_of(net.eval(), part).item() * part.numel() for part in held_out.split(100))
        rows.append([name, str(steps), f"{nats / math.log(2) / len(held_out):.1f}"])
    return table(["network", "steps", "bits per image"], rows)


def train_step(net: Network, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    """Update ``net`` on tokens (B, L)."""
    optimizer.zero_grad()
    loss_of(net, tokens).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def loss_of(net: Network, tokens: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of tokens (B, L) in nats per token."""
    return F.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens.flatten())


if __name__ == "__main__":
    main()
