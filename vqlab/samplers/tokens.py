"""Draw tokens from an autoregressive network: temperature, top-k, top-p, classifier-free guidance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn import DepthTransformer, Transformer
from vqlab.validation import Range

LIMITS = {
    "temperature": Range(0, open="low"),
    "top_k": Range(1),
    "top_p": Range(0, 1, open="low"),
    "guidance": Range(0),
    "steps": Range(1),
    "choice_temperature": Range(0),
}


@torch.no_grad()
def generate(
    network: Transformer | DepthTransformer,
    condition: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one sequence per label, tokens (B, L) int64, token by token.

    Args:
        network: Network in eval mode.
        condition: Labels (B,) int64; ``network.no_label`` for none.
        temperature: Divisor of the logits; below 1 sharpens.
        top_k: Sample from the k most probable tokens.
        top_p: Sample from the smallest set with total probability p (Holtzman et al. 2019, arXiv:1904.09751).
        guidance: Scale g of classifier-free guidance, see :func:`guide`; 1 is none.
        generator: Generator of the random numbers; one on the CPU gives the same numbers for every device.

    Example:
        >>> net = Transformer(num_tokens=8, length=4, num_classes=3, dim=16, depth=1, heads=2).eval()
        >>> generate(net, torch.tensor([0, 2]), top_k=1, guidance=2.0).shape
        torch.Size([2, 4])
    """
    check_options(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
    count, guided = len(condition), guidance != 1
    if guided:
        condition = torch.cat([condition, torch.full_like(condition, network.no_label)])

    def choose(_: int, logits: Tensor) -> Tensor:
        logits = logits.float()
        if guided:
            logits = guide(logits[:count], logits[count:], guidance)
        drawn = draw(restrict(logits, temperature, top_k, top_p), generator)
        return drawn.repeat(2) if guided else drawn

    return roll_out(network, condition, choose)[:count]


@torch.no_grad()
def roll_out(
    network: Transformer | DepthTransformer, condition: Tensor, choose: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """Return tokens (B, L) int64, one after the other: token i is ``choose(i, logits)`` (B,) of its logits (B, K)."""
    cache: Any = network.new_cache(len(condition))
    tokens = condition.new_empty(len(condition), network.length)
    for i in range(network.length):
        tokens[:, i] = choose(i, network(tokens[:, max(0, i - 1) : i], condition, cache)[:, -1])
    return tokens


def check_options(**options: float | None) -> None:
    """Raise UserError if one of the ``options`` of sampling is out of its range."""
    for name, value in options.items():
        if value is not None and value not in LIMITS[name]:
            raise UserError(f"{name} must be {LIMITS[name]}, got {value}")


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return the logits u + g (c - u): 0 ignores the label, 1 is the model (Ho and Salimans 2022, g = w + 1)."""
    return unconditional + guidance * (conditional - unconditional)


def restrict(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Return the logits (..., K) divided by the temperature, and -inf for tokens that top-k or top-p exclude."""
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # a tiny temperature overflows to -inf only
    if top_k is not None and top_k < logits.shape[-1]:
        best = logits.topk(top_k, -1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)
    if top_p is not None and top_p < 1:
        ordered = logits.sort(dim=-1, descending=True)
        probs = ordered.values.softmax(-1)
        before = probs.cumsum(-1) - probs  # total probability of the more probable tokens
        kept = ordered.values.masked_fill(before >= top_p, -torch.inf)
        kept[..., 0] = ordered.values[..., 0]  # always keep the most probable token
        logits = torch.empty_like(logits).scatter(-1, ordered.indices, kept)
    return logits


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token per row of ``logits`` (..., K) by an exponential race; return (...) int64."""
    device = logits.device if generator is None else generator.device
    times = torch.empty(logits.shape, dtype=logits.dtype, device=device).exponential_(generator=generator)
    return (logits.softmax(-1) / times.to(logits.device)).argmax(-1)
