"""Draw tokens from an autoregressive network: temperature, top-k, top-p, classifier-free guidance."""

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.transformer import Transformer


@torch.no_grad()
def generate(
    network: Transformer,
    condition: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one sequence per label, tokens (B, L) int64, token by token.

    Args:
        network: In eval mode.
        condition: Labels (B,) int64; ``network.no_label`` for none.
        temperature: Divides the logits; below 1 sharpens.
        top_k: Sample from the k most probable tokens.
        top_p: Sample from the smallest set with total probability p (Holtzman et al. 2019, arXiv:1904.09751).
        guidance: g of classifier-free guidance, see :func:`guide`; 1 is none.
        generator: Its device generates the random numbers: with one on the CPU they are the same for every device.

    Raises:
        UserError: If an option is out of range.

    Example:
        >>> net = Transformer(num_tokens=8, length=4, num_classes=3, dim=16, depth=1, heads=2).eval()
        >>> generate(net, torch.tensor([0, 2]), top_k=1, guidance=2.0).shape
        torch.Size([2, 4])
    """
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperature must be above 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be in (0, 1], got {top_p}")
    if not 0 <= guidance < float("inf"):
        raise UserError(f"guidance must be at least 0, got {guidance}")
    count, guided = len(condition), guidance != 1
    if guided:
        condition = torch.cat([condition, torch.full_like(condition, network.no_label)])
    cache = network.new_cache(len(condition))
    tokens = condition.new_empty(count, network.length)
    for i in range(network.length):
        new = tokens[:, max(0, i - 1) : i]
        logits = network(new.repeat(2, 1) if guided else new, condition, cache)[:, -1].float()
        if guided:
            logits = guide(logits[:count], logits[count:], guidance)
        tokens[:, i] = draw(restrict(logits, temperature, top_k, top_p), generator)
    return tokens


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return u + g (c - u) of logits: 0 ignores the label, 1 is the model itself (Ho and Salimans 2022, g = w + 1)."""
    return unconditional + guidance * (conditional - unconditional)


def restrict(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Return logits (..., K) divided by the temperature, -inf where top-k or top-p exclude a token.

    Example:
        >>> restrict(torch.tensor([0.0, 3.0, 2.0]), top_k=2).isfinite().tolist()
        [False, True, True]
        >>> restrict(torch.tensor([0.5, 0.3, 0.2]).log(), top_p=0.6).isfinite().tolist()
        [True, True, False]
    """
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # a tiny temperature overflows downwards only
    if top_k is not None and top_k < logits.shape[-1]:
        best = logits.topk(top_k, -1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)
    if top_p is not None and top_p < 1:
        ordered = logits.sort(dim=-1, descending=True)
        probs = ordered.values.softmax(-1)
        before = probs.cumsum(-1) - probs  # total probability of the more probable tokens
        kept = ordered.values.masked_fill(before >= top_p, -torch.inf)
        kept[..., 0] = ordered.values[..., 0]  # the most probable token always stays
        logits = torch.empty_like(logits).scatter(-1, ordered.indices, kept)
    return logits


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token per row of ``logits`` (B, K); return (B,) int64."""
    # The first of K exponential clocks with rates p_k to ring is k with probability p_k.
    device = logits.device if generator is None else generator.device
    clock = torch.empty(logits.shape, dtype=logits.dtype, device=device).exponential_(generator=generator)
    return (logits.softmax(-1) / clock.to(logits.device)).argmax(-1)
