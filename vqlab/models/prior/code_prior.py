"""The second stage of a discrete autoencoder: an autoregressive transformer over its codes."""

from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.models.model import evaluating
from vqlab.models.prior.base import Prior
from vqlab.nn import DepthTransformer, ImageFormat, Transformer
from vqlab.samplers import generate
from vqlab.training import Optimization
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegativeInt, Positive, Probability


class CodePrior(Prior):
    """An autoregressive transformer over the codes of a frozen tokenizer, with labels or without.

    Second stage of VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937, section 3.2), as a transformer (Esser et al.
    2021, arXiv:2012.09841, section 3.2). The codes of an image are one sequence of tokens (B, L): row by row, a pyramid
    coarse to fine, and with several codebooks all codes of a position before the next. The checkpoint contains the
    tokenizer. ``val/nll`` is in nats per token, ``val/bits_per_token`` in bits, ``val/bits_per_dim`` in bits of code
    per pixel and channel. ``val/unigram_bits`` is the baseline: the bits per token of a model that knows only the
    frequencies of the codes at each position so far in training.

    Args:
        tokenizer: Checkpoint of a tokenizer or prior, or model with ``encode``, ``decode``, ``quantizer``, ``images``.
        conditional: Model p(codes | label).
        label_dropout: Fraction of labels dropped in training; classifier-free guidance needs it.
        dim: Width of the transformer.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, in units of ``dim``.
        dropout: Probability of dropping an embedding or an output of a block.
        depth_blocks: Blocks of a :class:`~vqlab.DepthTransformer`, for tokenizers with several codes per position;
            0 models all codes of all positions as one sequence.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings; weight decay applies to matrices only, not to embeddings and norms.
        images: Format of the data, which must equal the tokenizer's; the command line takes it from the data.
        num_classes: Number of labels; the command line takes it from the data.
        codes: Of a JSA: the most probable under q, ``argmax``, or drawn by its chains, ``posterior``.

    Example:
        >>> from vqlab.models.vq.vqvae import VQVAE
        >>> prior = CodePrior(VQVAE(), conditional=True, dim=32, depth=1, heads=2, num_classes=10)
        >>> tuple(prior.eval().sample(2, label=3, top_k=100, guidance=1.5).shape)
        (2, 3, 32, 32)
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
        depth_blocks: NonNegativeInt = 0,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(betas=(0.9, 0.95), weight_decay=0.05),
        images: ImageFormat | None = None,
        num_classes: NonNegativeInt | None = None,
        codes: Literal["argmax", "posterior"] = "argmax",
    ) -> None:
        super().__init__(tokenizer, conditional, label_dropout, optimization, images, num_classes, codes)
        lengths = self.num_tokens, self.length, self.num_classes, self.num_codebooks
        sizes: dict[str, Any] = {"dim": dim, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio, "dropout": dropout}
        self.network: Transformer | DepthTransformer
        if depth_blocks:
            self.network = DepthTransformer(*lengths, **sizes, depth_blocks=depth_blocks)
        else:
            self.network = Transformer(*lengths, **sizes)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Predict each token from the previous ones."""
        tokens, condition = self.training_tokens(batch)
        loss = self._losses(tokens, condition).mean()
        require_finite({"loss": loss}, batch_idx, self.global_step)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def token_nll(self, tokens: Tensor, condition: Tensor, index: Tensor) -> Tensor:
        """Return the exact -ln p(token | label, previous tokens) (B, L)."""
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
        """Draw images (num, C, H, W) in the value range, of one ``label`` or (num,) labels, by default of all."""
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
        return self.decode(self.sample_codes(num, label, generator=generator, **options))

    def sample_codes(self, num: int, label: int | Tensor | None = None, **options: Any) -> Tensor:
        """Draw codes (num, h, w); options as in :func:`~vqlab.samplers.tokens.generate`, ``label`` as in ``sample``."""
        condition = self.sampling_condition(label, num, options.get("guidance", 1))
        with evaluating(self):
            return generate(self.network, condition, **options).unflatten(1, self.code_shape)

    def _losses(self, tokens: Tensor, condition: Tensor) -> Tensor:
        logits = self.network(tokens[:, :-1], condition).float()
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
