"""MaskGIT (Chang et al. 2022, arXiv:2202.04200): a prior that predicts masked codes and draws many codes at once."""

import math
from pathlib import Path
from typing import Literal

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.models.model import evaluating
from vqlab.models.prior.base import Prior
from vqlab.nn import ImageFormat, MaskedTransformer
from vqlab.nn.codes import as_codes, check_code_range
from vqlab.quantizers.sampling import uniform_by_sample
from vqlab.samplers.tokens import check_options, draw, guide, restrict
from vqlab.training import Optimization
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegativeInt, Positive, Probability


class MaskedPrior(Prior):
    """A bidirectional transformer over the codes of a frozen tokenizer, trained to predict masked codes.

    MaskGIT (Chang et al. 2022, arXiv:2202.04200). Training masks ceil(cos(pi r / 2) L) of the L codes, r uniform in
    (0, 1), and predicts them from the others (equation 2, without label smoothing). Sampling starts from masks only and
    takes ``steps`` passes: each draws all masked codes, and keeps those with the highest confidence (section 3.2).
    Codes that are known from the start are kept: inpainting.

    The model defines one likelihood per order of the codes: the chain rule, exact, by L passes (:meth:`nll`).
    ``val/nll`` is the mean over random orders of -ln p in nats per token, ``val/bits_per_token`` in bits: comparable
    with the figure of a :class:`CodePrior`, and an upper bound for the mixture of all orders. It is estimated without
    bias by one pass per image: the mean loss of the masked codes, where the number of masked codes is uniform in
    1 .. L (Uria et al. 2014, arXiv:1310.1757). The masks depend on the position of an image in the data only.
    ``train/loss`` weighs the numbers of masked codes by the cosine schedule, and is not comparable.

    Args:
        tokenizer: Checkpoint of a tokenizer or prior, or model with ``encode``, ``decode``, ``quantizer``, ``images``.
        conditional: Model p(codes | label).
        label_dropout: Fraction of labels dropped in training; classifier-free guidance needs it.
        dim: Width of the transformer.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, in units of ``dim``.
        dropout: Probability of dropping an embedding or an output of a block.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings; weight decay applies to matrices only, not to embeddings and norms.
        images: Format of the data, which must equal the tokenizer's; the command line takes it from the data.
        num_classes: Number of labels; the command line takes it from the data.
        codes: Of a JSA: the most probable under q, ``argmax``, or drawn by its chains, ``posterior``.

    Example:
        >>> from vqlab.models.vq.vqvae import VQVAE
        >>> prior = MaskedPrior(VQVAE(), conditional=True, dim=32, depth=1, heads=2, num_classes=10).eval()
        >>> codes = prior.sample_codes(2, label=3, steps=8, guidance=1.5)
        >>> lower_half = torch.arange(8)[:, None].expand(8, 8) >= 4
        >>> again = prior.sample_codes(2, known=codes, mask=lower_half)
        >>> tuple(codes.shape), torch.equal(again[:, :4], codes[:, :4])
        ((2, 8, 8), True)
    """

    def __init__(
        self,
        tokenizer: str | Path | lightning.LightningModule | None = None,
        conditional: bool = False,
        label_dropout: Probability = 0.1,
        dim: Count = 512,
        depth: Count = 12,
        heads: Count = 8,
        mlp_ratio: Positive = 4.0,
        dropout: Probability = 0.1,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(betas=(0.9, 0.95), weight_decay=0.05),
        images: ImageFormat | None = None,
        num_classes: NonNegativeInt | None = None,
        codes: Literal["argmax", "posterior"] = "argmax",
    ) -> None:
        super().__init__(tokenizer, conditional, label_dropout, optimization, images, num_classes, codes)
        sizes = dim, depth, heads, mlp_ratio, dropout
        self.network = MaskedTransformer(self.num_tokens, self.length, self.num_classes, self.num_codebooks, *sizes)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict the masked tokens from the others."""
        tokens, condition = self.training_tokens(batch)
        index = batch["index"] if "index" in batch else torch.randint(2**31, (len(tokens),), device=self.device)
        r, rank = draw_order(index, self.length, seed=self.global_step)
        masked = rank < (torch.cos(math.pi / 2 * r) * self.length).ceil()[:, None]
        loss = (self._losses(tokens, masked, condition) * masked).sum() / masked.sum()
        require_finite({"loss": loss}, batch_idx, self.global_step)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def token_nll(self, tokens: Tensor, condition: Tensor, index: Tensor) -> Tensor:
        """Return an estimate (B, L) with the mean E_order -ln p(tokens | label) / L: L / m times the loss of m tokens.

        m is uniform in 1 .. L: fractions of multiples of the golden ratio are spread evenly over the data set.
        """
        _, rank = draw_order(index, self.length, seed=0)
        count = 1 + (index.double() * (math.sqrt(5) - 1) / 2 % 1 * self.length).long()
        masked = rank < count[:, None]
        weight = (self.length / count.double()).float()[:, None]
        return self._losses(tokens, masked, condition) * masked * weight

    @torch.no_grad()
    def nll(self, x: Tensor, label: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        """Exact negative log-likelihood (B,), in nats, of the codes of images (B, C, H, W) in one ``order``.

        -sum_i ln p(c_order[i] | label, c_order[0] .. c_order[i - 1]), by L passes. ``order`` (L,) or (B, L) holds
        permutations of 0 .. L - 1; by default a random one per image, always the same.
        """
        tokens, condition = self.encode(x).flatten(1), self.as_condition(label, len(x))
        if order is None:
            generator = torch.Generator().manual_seed(0)
            order = torch.rand(tokens.shape, generator=generator, dtype=torch.float64).argsort(1)
        order = order.to(tokens.device).expand_as(tokens)
        if not torch.equal(order.sort(1).values, torch.arange(self.length, device=order.device).expand_as(order)):
            raise UserError(f"order must hold permutations of 0 .. {self.length - 1}, got {order[0].tolist()!s:.60}")
        losses, masked = [], torch.ones_like(tokens, dtype=torch.bool)
        for place in order.T[..., None]:  # (B, 1)
            losses.append(self._losses(tokens, masked, condition).gather(1, place))
            masked = masked.scatter(1, place, False)
        return torch.cat(losses, 1).sum(1)

    def sample(
        self,
        num: int,
        label: int | Tensor | None = None,
        steps: int = 8,
        temperature: float = 1.0,
        choice_temperature: float = 4.5,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw images (num, C, H, W) in the value range; arguments as in :meth:`sample_codes`."""
        sizes = steps, temperature, choice_temperature, top_k, top_p, guidance
        return self.decode(self.sample_codes(num, label, *sizes, known=known, mask=mask, generator=generator))

    @torch.no_grad()
    def sample_codes(
        self,
        num: int,
        label: int | Tensor | None = None,
        steps: int = 8,
        temperature: float = 1.0,
        choice_temperature: float = 4.5,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw codes (num, h, w) in ``steps`` passes of the network.

        After pass t of T, floor(cos(pi t / 2T) N) of the N unknown codes are masked again: those with the lowest
        confidence ln p(code) + choice_temperature (1 - t / T) Gumbel noise.

        Args:
            num: Number of samples.
            label: One label, or (num,) labels; by default all.
            steps: Passes, T. With guidance each one evaluates the network with the label and without it.
            temperature: Divisor of the logits of the codes; below 1 sharpens.
            choice_temperature: Scale of the noise of the confidence, in the first pass; large values choose at random.
            top_k: Sample from the k most probable codes.
            top_p: Sample from the smallest set with total probability p.
            guidance: Scale of classifier-free guidance, the same in all passes; 1 is none.
            known: Codes (h, w) or (num, h, w) to keep, where ``mask`` is False.
            mask: bool (h, w) or (num, h, w), True where codes are drawn.
            generator: Generator of the random numbers; one on the CPU gives the same numbers for every device.
        """
        options = {"steps": steps, "choice_temperature": choice_temperature, "guidance": guidance}
        check_options(**options, temperature=temperature, top_k=top_k, top_p=top_p)
        condition = self.sampling_condition(label, num, guidance)
        tokens, masked = self._start(num, known, mask)
        unknown = masked.sum(1, keepdim=True).double()
        with evaluating(self):
            for step in range(1, steps + 1):
                logits = self._guided(tokens, masked, condition, guidance)
                drawn = draw(restrict(logits, temperature, top_k, top_p), generator)
                tokens = torch.where(masked, drawn, tokens)
                confidence = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
                confidence = confidence + choice_temperature * (1 - step / steps) * gumbel_like(confidence, generator)
                confidence = confidence.masked_fill(~masked, torch.inf)
                remaining = (math.cos(math.pi / 2 * step / steps) * unknown).floor()
                remaining = torch.minimum(remaining, masked.sum(1, keepdim=True) - 1)  # each pass keeps one at least
                masked = confidence.argsort(1).argsort(1) < remaining
        return tokens.unflatten(1, self.code_shape)

    def _losses(self, tokens: Tensor, masked: Tensor, condition: Tensor) -> Tensor:
        """Return -ln p(token | label, tokens that are not masked) (B, L)."""
        logits = self.network(tokens, masked, condition).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)

    def _guided(self, tokens: Tensor, masked: Tensor, condition: Tensor, guidance: float) -> Tensor:
        if guidance == 1:
            return self.network(tokens, masked, condition).float()
        both = torch.cat([condition, torch.full_like(condition, self.num_classes)])
        with_label, without = self.network(tokens.repeat(2, 1), masked.repeat(2, 1), both).float().chunk(2)
        return guide(with_label, without, guidance)

    def _start(self, num: int, known: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens (num, L) and where they are masked (num, L) before the first pass."""
        if (known is None) != (mask is None):
            raise UserError("known and mask belong together: pass both, or none of the two")
        shape = (num, *self.code_shape)
        if known is None or mask is None:
            masked = torch.ones(shape, dtype=torch.bool, device=self.device)
            return torch.zeros_like(masked, dtype=torch.int64).flatten(1), masked.flatten(1)
        known, mask = as_codes(known, self.device), mask.to(self.device)
        for name, value in (("known", known), ("mask", mask)):
            if tuple(value.shape) not in (shape, shape[1:]):
                raise UserError(f"{name} must be {shape[1:]} or {shape}, got {tuple(value.shape)}")
        if mask.dtype != torch.bool:
            raise UserError(f"mask must be bool, True where codes are drawn, got {mask.dtype}")
        known, mask = known.expand(shape).flatten(1), mask.expand(shape).flatten(1)
        known = known.masked_fill(mask, 0)
        check_code_range(known, self.num_tokens)
        return known, mask


def draw_order(index: Tensor, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return numbers (B,) uniform in (0, 1) and random ranks (B, L) of tokens, which depend on index (B,) and seed."""
    uniform = uniform_by_sample(index, length + 1, seed).view(len(index), length + 1)
    return uniform[:, 0], uniform[:, 1:].argsort(1).argsort(1)


def gumbel_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return standard Gumbel noise of the shape and on the device of ``x``."""
    device = x.device if generator is None else generator.device
    return -torch.empty(x.shape, dtype=x.dtype, device=device).exponential_(generator=generator).log().to(x.device)
