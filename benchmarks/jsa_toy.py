"""JSA and other estimators with an exact likelihood: 3 variables of 4 values, binary images of 3 x 3.

    python benchmarks/jsa_toy.py --steps 4000 --seeds 3

200 images are drawn from a model with random weights. All contestants start from the same weights, train on the same
batches of 50 and take ``--samples`` samples per image; the reference ascends the exact gradient of ln p(x). The result
is the exact -ln p(x) of the 200 images after training: it measures the gradient estimator, not generalisation.
"""

import argparse
import itertools
import statistics
import warnings
from typing import Any

import torch
from ratios import processor, table
from torch import Tensor

from vqlab.models.categorical.discrete_vae import DiscreteVAE
from vqlab.models.categorical.jsa import JSA
from vqlab.models.categorical.posterior_sampler import PosteriorSampler
from vqlab.nn.autoencoders.small import MLPDecoder, MLPEncoder
from vqlab.nn.categorical import FactorizedPrior
from vqlab.nn.image_format import ImageFormat, ValueRange
from vqlab.nn.likelihood import Bernoulli
from vqlab.samplers.chain_cache import ChainCache

SIZE, VARIABLES, VALUES, IMAGES, BATCH, LR = 3, 3, 4, 200, 50, 3e-3
GAIN = 3.0  # of the weights of the model that draws the images
CODES = torch.tensor(list(itertools.product(range(VALUES), repeat=VARIABLES))).view(-1, 1, 1, VARIABLES)


def main() -> None:
    """Print one table."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        x = images(seed)
        for name, model in contestants(seed, args.samples):
            nll = train(model, x, args.steps, seed, exact=name == "exact gradient")
            found.setdefault(name, []).append(nll)
            print(f"seed {seed}, {name}: {nll:.3f}", flush=True)
    print(f"\n{processor()}, torch {torch.__version__}, {args.steps} steps, {args.samples} draws, Adam {LR:g}\n")
    rows = [[name, *[f"{nll:.3f}" for nll in nlls], f"{statistics.mean(nlls):.3f}"] for name, nlls in found.items()]
    print(table(["exact NLL, nats", *[f"seed {seed}" for seed in range(args.seeds)], "mean"], rows))


def contestants(seed: int, samples: int) -> list[tuple[str, JSA | DiscreteVAE]]:
    """Return all, with the same weights."""
    samplers = {
        "JSA": PosteriorSampler(num_mis_steps=samples, cache_start_epoch=0),
        "JSA, one proposal": PosteriorSampler(num_mis_steps=1, cache_start_epoch=0),
        "JSA, no cache": PosteriorSampler(num_mis_steps=samples, cache=False),
        "reweighted wake-sleep": PosteriorSampler(num_mis_steps=samples - 1, kernel="isir", cache=False),
    }
    rows: list[tuple[str, type[JSA] | type[DiscreteVAE], dict[str, Any]]] = [
        ("exact gradient", JSA, {}),
        *[(name, JSA, {"sampler": sampler}) for name, sampler in samplers.items()],
        *[(name, DiscreteVAE, {"estimator": name, "num_samples": samples}) for name in ("vimco", "rloo")],
        *[(name, DiscreteVAE, {"estimator": name, "temperature": 0.7}) for name in ("gumbel", "st_gumbel")],
    ]
    return [(name, build(model_class, seed, **options)) for name, model_class, options in rows]


def build(model_class: type[JSA] | type[DiscreteVAE], seed: int, **options: Any) -> JSA | DiscreteVAE:
    """Return a model 9-32-[12], [12]-16-9."""
    torch.manual_seed(seed)
    return model_class(
        encoder=MLPEncoder(1, SIZE, (32,), 12),
        decoder=MLPDecoder(1, SIZE, (16,), 12),
        num_embeddings=VALUES,
        num_latents=VARIABLES,
        likelihood=Bernoulli(),
        prior="factorized",
        images=ImageFormat(channels=1, size=SIZE, value_range=ValueRange("unit")),
        **options,
    )


@torch.no_grad()
def images(seed: int) -> Tensor:
    """Draw images from a model with large weights, so that an image is informative about its code."""
    truth = build(JSA, 100 + seed)
    for weight in (truth.quantizer.codebook, *truth.latent.decoder.parameters()):
        weight.mul_(GAIN)
    prior = truth.latent.prior
    assert isinstance(prior, FactorizedPrior)
    assert prior.logits is not None
    prior.logits.normal_()
    return torch.bernoulli(truth.eval().sample(IMAGES))


def exact_nll(model: JSA | DiscreteVAE, x: Tensor) -> Tensor:
    """Return -ln p(x), mean over the images, summed over all codes."""
    pairs = x.repeat_interleave(len(CODES), 0), CODES.repeat(len(x), 1, 1, 1)
    return -model.latent.log_joint(*pairs).view(len(x), -1).logsumexp(1).mean()


def train(model: JSA | DiscreteVAE, x: Tensor, steps: int, seed: int, exact: bool) -> float:
    """Return the exact NLL after ``steps``."""
    model.latent.decode_chunk = len(x) * len(CODES)
    networks, tables, proposal = model.latent.parameter_groups()
    optimizer = torch.optim.Adam([*networks, *tables, *proposal], lr=LR)
    if isinstance(model, JSA):
        model.chains = ChainCache(len(x), VARIABLES, VALUES)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps // (len(x) // BATCH)):
        for index in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            if exact:
                loss = exact_nll(model, x[index])
            else:
                loss = model.compute_loss(x[index], index).loss
                model.seed += 1  # other draws: outside a Trainer the step stands still
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return exact_nll(model, x).item()


if __name__ == "__main__":
    main()
