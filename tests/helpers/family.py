"""Every quantizer and composite in small sizes, and functions that the tests of quantizers share."""

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vqlab import FSQ, IBQ, BinarySpherical, GaussianQuantizer, GumbelQuantizer, LookupFree, SimVQ, VectorQuantizer
from vqlab.nn import Anneal
from vqlab.quantizers import MultiScaleQuantizer, ProductQuantizer, Quantizer, ResidualQuantizer


def vector(codebook_update: str = "ema", **arguments: object) -> VectorQuantizer:
    return VectorQuantizer(12, 4, codebook_update=codebook_update, **{"revive_after": 2, **arguments})


gumbel = functools.partial(GumbelQuantizer, 12, 4, kl_weight=0.1)
sim_vq = functools.partial(SimVQ, 12, 4)
pyramid = functools.partial(MultiScaleQuantizer, scales=[1, 3], num_phi=2)
SINGLE: dict[str, Callable[[], Quantizer]] = {
    "vector": vector,
    "vector-rotation-cosine-uniform": lambda: vector(estimator="rotation", distance="cosine", init="uniform"),
    "vector-uniform": lambda: vector(init="uniform"),
    "vector-loss-cosine": lambda: vector("loss", distance="cosine"),
    "vector-loss-rotation": lambda: vector("loss", estimator="rotation"),
    "vector-unrevived": lambda: vector(revive_after=None, init="data"),
    "fsq": lambda: FSQ([7, 5, 4, 2]),
    "lookup-free": lambda: LookupFree(5),
    "lookup-free-groups": lambda: LookupFree(7, group_size=3, temperature=0.5, diversity_weight=2.0),
    "binary-spherical": lambda: BinarySpherical(6, group_size=4, commitment_weight=0.1),
    "gaussian": lambda: GaussianQuantizer(12, 4, kl_weight=0.1),
    "gumbel": lambda: gumbel(temperature=Anneal(2.0, 0.5, total_steps=10)),
    "gumbel-mixture": lambda: gumbel(temperature=0.7, straight_through=False),
    "sim-vq": sim_vq,
    "sim-vq-random-rotation": lambda: sim_vq(init="random", estimator="rotation"),
    "ibq": lambda: IBQ(12, 4, temperature=0.5),
    "ibq-no-entropy": lambda: IBQ(12, 4, entropy_weight=0.0),
}
# Covers each line of vqlab.quantizers, for slow tests that compile or export
GRAPHS = ["vector", "vector-loss-cosine", "vector-rotation-cosine-uniform", "fsq", "lookup-free-groups", "gumbel"]
GRAPHS += [
    "binary-spherical",
    "gaussian",
    "gumbel-mixture",
    "sim-vq-random-rotation",
    "ibq",
    "ibq-no-entropy",
    "residual-fsq",
]
GRAPHS += ["residual-vector-dropout", "residual-gumbel", "product-vector", "residual-product-fsq"]
GRAPHS += ["multi-scale-vector-loss", "residual-vector-beam"]
COMPOSITE: dict[str, Callable[[], Quantizer]] = {
    "residual-vector": lambda: ResidualQuantizer(vector(), 3),
    "residual-vector-dropout": lambda: ResidualQuantizer(vector("loss", estimator="rotation"), 2, dropout=0.6),
    "residual-vector-beam": lambda: ResidualQuantizer(vector(), 3, beam=3),
    "residual-fsq": lambda: ResidualQuantizer(FSQ([5, 4, 3]), 2),
    "residual-gumbel": lambda: ResidualQuantizer(gumbel(temperature=Anneal(2.0, 0.5, total_steps=10)), 2, dropout=0.6),
    "residual-sim-vq": lambda: ResidualQuantizer(sim_vq(), 2),
    "product-vector": lambda: ProductQuantizer(vector(), 2),
    "product-fsq": lambda: ProductQuantizer(FSQ([5, 4]), 3),
    "product-gaussian": lambda: ProductQuantizer(GaussianQuantizer(12, 4), 2),
    "product-gumbel": lambda: ProductQuantizer(gumbel(temperature=0.7), 2),
    "residual-product-vector": lambda: ResidualQuantizer(ProductQuantizer(vector(), 2), 2, dropout=0.6),
    "residual-product-fsq": lambda: ResidualQuantizer(ProductQuantizer(FSQ([5, 4]), 2), 2),
}
PYRAMID: dict[str, Callable[[], Quantizer]] = {
    "multi-scale-vector": lambda: pyramid(vector(), scales=[1, 2, 3, 4, 5], num_phi=4),
    "multi-scale-vector-loss": lambda: pyramid(vector("loss", estimator="rotation"), spatial_dims=1, scales=[2, 5]),
    "multi-scale-fsq": lambda: pyramid(FSQ([5, 4, 3])),
    "multi-scale-lookup-free": lambda: pyramid(LookupFree(4), spatial_dims=3),
    "multi-scale-gumbel": lambda: pyramid(gumbel(temperature=0.7)),
}
FAMILY = SINGLE | COMPOSITE | PYRAMID
BATCH = 6


def rand(*shape: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


rand64 = functools.partial(rand, dtype=torch.float64)
assert_same_state = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


def example(quantizer: Quantizer, seed: int, batch: int = BATCH, edge: int = 4) -> Tensor:
    """Return an input (batch, D, ...): maps for multi-scale quantizers, sequences of length ``edge`` otherwise."""
    if isinstance(quantizer, MultiScaleQuantizer):
        return rand(batch, quantizer.embedding_dim, *[quantizer.scales[-1]] * quantizer.spatial_dims, seed=seed)
    return rand(batch, quantizer.embedding_dim, edge, seed=seed)


def rows_of(z: Tensor) -> Tensor:
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def as_set(rows: Tensor) -> list[tuple]:
    """Return rows (N, D) as a sorted list of tuples: equal for the same rows in any order."""
    return sorted(map(tuple, rows.tolist()))


def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """Return the indices of the nearest codes, row by row in float64."""
    return torch.stack([(row - codes.double()).square().sum(1).argmin() for row in rows.double()])


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def set_codebook(quantizer: VectorQuantizer, codes: Tensor) -> None:
    """Set the codebook as if each code had one vector."""
    quantizer.codebook.data.copy_(codes)
    if quantizer.codebook_update == "ema":
        quantizer.ema_sums.copy_(codes)
        quantizer.ema_counts.fill_(1)


class Largest(TorchDispatchMode):
    """Record the largest number of elements in the result of an operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if torch.is_tensor(x):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


def parts_of(quantizer: Quantizer) -> list[Quantizer]:
    """Return the quantizer and all quantizers inside it."""
    return [module for module in quantizer.modules() if isinstance(module, Quantizer)]


@functools.cache
def _trained(name: str, steps: int) -> Quantizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantizer = FAMILY[name]()
        quantizer.auto_update = False
        for step in range(steps):
            train_step(quantizer, example(quantizer, 100 + step), step)
    quantizer.sample_index = None
    return quantizer


def trained(name: str, steps: int = 3) -> Quantizer:
    """Return a quantizer after a few training steps, with codes near the data; it does not update itself."""
    return copy.deepcopy(_trained(name, steps))


def train_step(quantizer: Quantizer, z: Tensor, step: int, lr: float = 0.3) -> Tensor:
    """Update the parameters by gradient descent on loss and reconstruction, and the statistics; return the indices."""
    quantizer.sample_index = step * len(z) + torch.arange(len(z))
    out = quantizer(z)
    if parameters := list(quantizer.parameters()):
        optimizer = torch.optim.SGD(parameters, lr)
        (out.loss + (out.quantized - z).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    if out.stats is not None:
        quantizer.update(out.stats)
    return out.indices
