"""VAR (Tian et al. 2024, arXiv:2404.02905): a prior over a pyramid of codes that draws one scale at a time."""

from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.models.model import evaluating
from vqlab.models.prior.base import Prior
from vqlab.nn import ImageFormat, ScaleTransformer
from vqlab.nn.precision import like_weights, without_autocast
from vqlab.quantizers import MultiScaleQuantizer
from vqlab.samplers.tokens import check_options, draw, guide, restrict
from vqlab.training import Optimization
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegativeInt, Positive, Probability


class NextScalePrior(Prior):
    """A block-causal transformer over the scales of a tokenizer with a ``MultiScaleQuantizer``.

    VAR (Tian et al. 2024, arXiv:2404.02905, section 3): p(r_1 .. r_K | label) = prod_k p(r_k | label, r_1 .. r_{k-1}),
    where the codes of a scale r_k are independent given the scales before it. The input at scale k is the sum of the
    decoded scales before it, area-downsampled to its size. The label is the input of the first scale; VAR also passes
    it to every block by adaptive layer norm, which this network does not have. Sampling takes K passes with cached keys
    and values.

    ``val/nll`` is exact, in nats per token, ``val/bits_per_token`` in bits, ``val/bits_per_dim`` in bits of code per
    pixel and channel. Compare bits per image with priors over another tokenizer: a pyramid has more tokens.

    Args:
        tokenizer: Checkpoint of a tokenizer or prior, or model, with a ``MultiScaleQuantizer``.
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

    Raises:
        UserError: If the tokenizer has no ``MultiScaleQuantizer``.

    Example:
        >>> from vqlab.models.vq.vqvae import VQVAE
        >>> tokenizer = VQVAE(quantizer=MultiScaleQuantizer(scales=[1, 2, 4, 8]))
        >>> prior = NextScalePrior(tokenizer, conditional=True, dim=32, depth=1, heads=2, num_classes=10).eval()
        >>> tuple(prior.sample_codes(2, label=3).shape), tuple(prior.sample(2, label=3, guidance=1.5).shape)
        ((2, 85), (2, 3, 32, 32))
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
    ) -> None:
        super().__init__(tokenizer, conditional, label_dropout, optimization, images, num_classes)
        quantizer = self.tokenizer.net.quantizer
        if not isinstance(quantizer, MultiScaleQuantizer):
            hint = "train one with configs/vqvae_multi_scale.yaml, or use CodePrior or MaskedPrior"
            raise UserError(f"tokenizer must have a MultiScaleQuantizer, got a {type(quantizer).__name__}: {hint}")
        lengths = [edge**quantizer.spatial_dims for edge in quantizer.scales]
        sizes = dim, depth, heads, mlp_ratio, dropout
        codes = self.num_tokens, lengths, quantizer.embedding_dim, self.num_classes, self.num_codebooks
        self.network = ScaleTransformer(*codes, *sizes)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict the codes of each scale from the scales before it."""
        tokens, condition = self.training_tokens(batch)
        loss = self._losses(tokens, condition).mean()
        require_finite({"loss": loss}, batch_idx, self.global_step)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def token_nll(self, tokens: Tensor, condition: Tensor, index: Tensor) -> Tensor:
        """Return the exact -ln p(token | label, scales before it) (B, L)."""
        return self._losses(tokens, condition)

    def sample(
        self,
        num: int,
        label: int | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw images (num, C, H, W) in the value range; arguments as in :meth:`sample_codes`."""
        return self.decode(self.sample_codes(num, label, temperature, top_k, top_p, guidance, generator))

    @torch.no_grad()
    def sample_codes(
        self,
        num: int,
        label: int | Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw codes (num, L), scale by scale.

        Args:
            num: Number of samples.
            label: One label, or (num,) labels; by default all.
            temperature: Divisor of the logits; below 1 sharpens.
            top_k: Sample from the k most probable codes.
            top_p: Sample from the smallest set with total probability p.
            guidance: Scale of classifier-free guidance at the last scale; 1 is none. As in VAR it grows linearly over
                the scales, from 1 at the first.
            generator: Generator of the random numbers; one on the CPU gives the same numbers for every device.
        """
        check_options(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
        condition = self.sampling_condition(label, num, guidance)
        guided = guidance != 1
        if guided:
            condition = torch.cat([condition, torch.full_like(condition, self.num_classes)])
        quantizer: MultiScaleQuantizer = self.tokenizer.net.quantizer
        cache, last = self.network.new_cache(len(condition)), len(quantizer.scales) - 1
        f_hat, codes = self._zero_map(num), []
        with evaluating(self):
            for scale in range(last + 1):
                features = self._features(f_hat, scale)
                logits = self.network(features.repeat(1 + guided, 1, 1), condition, cache).float()
                if guided:
                    with_label, without = logits.chunk(2)
                    logits = guide(with_label, without, 1 + (guidance - 1) * scale / max(1, last))
                codes.append(draw(restrict(logits, temperature, top_k, top_p), generator))  # (num, s_k^2, Q)
                f_hat = self._add_scale(f_hat, codes[-1], scale)
        return torch.cat(codes, 1).view(num, *self.code_shape)

    def _losses(self, tokens: Tensor, condition: Tensor) -> Tensor:
        f_hat, features = self._zero_map(len(tokens)), []
        codes = tokens.view(len(tokens), -1, self.num_codebooks).split(self.network.lengths, 1)
        for scale, index in enumerate(codes):
            features.append(self._features(f_hat, scale))
            f_hat = self._add_scale(f_hat, index, scale)
        logits = self.network(torch.cat(features, 1), condition).float()  # (B, L / Q, Q, K)
        return F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").view_as(tokens)

    def _zero_map(self, num: int) -> Tensor:
        """Return f^ = 0 (num, D, s_K, s_K), the sum of no scales, in float32."""
        quantizer = self.tokenizer.net.quantizer
        size = (quantizer.scales[-1],) * quantizer.spatial_dims
        return torch.zeros(num, quantizer.embedding_dim, *size, dtype=torch.float32, device=self.device)

    @torch.no_grad()
    def _features(self, f_hat: Tensor, scale: int) -> Tensor:
        """Return the network's input at a scale (B, s_k^2, D); that of the first one is empty, (B, 0, D)."""
        if scale == 0:
            return like_weights(f_hat.new_empty(len(f_hat), 0, f_hat.shape[1]), self.network)
        with without_autocast(f_hat.device):
            return like_weights(self.tokenizer.net.quantizer.downsample(f_hat, scale).flatten(2).mT, self.network)

    @torch.no_grad()
    def _add_scale(self, f_hat: Tensor, codes: Tensor, scale: int) -> Tensor:
        """Return f^ (B, D, s_K, s_K) with the decoded codes (B, s_k^2, Q) of one more scale."""
        with without_autocast(f_hat.device):
            indices = codes.reshape(*codes.shape[:2], *self.code_shape[1:])
            return self.tokenizer.net.quantizer.add_scale(f_hat, indices, scale)
