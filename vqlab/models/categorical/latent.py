"""The densities of a model with categorical codes, p(x, h) = p(h) p(x | h) and q(h | x), their samples and bounds.

Shapes: B images of a batch, P = h * w * V positions of a code (V variables at each place of the encoder's map), K
categories, S draws. Public methods take maps of codes (B, h, w), or (B, h, w, V); internally codes are flat, (B, P) or
(B, S, P).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vqlab.losses.perceptual import Perceptual, build_perceptual
from vqlab.models.categorical.posterior_sampler import PosteriorSampler
from vqlab.models.model import evaluating
from vqlab.nn import ConvDecoder, ConvEncoder, Gaussian, ImageFormat, Likelihood, Transformer
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.nn.categorical import CategoricalCode, FactorizedPrior, build_prior
from vqlab.nn.codes import as_codes, check_code_range, check_code_shape
from vqlab.nn.distributed import all_sum, world_size
from vqlab.nn.precision import without_autocast
from vqlab.samplers import roll_out
from vqlab.samplers.blocks import norm_constrained, run_blocks, run_gibbs
from vqlab.samplers.independence import KERNELS, Chain, NLLBounds, log_prob, nll_bounds, propose, run_chain

RENAMED_KEYS = {  # prefixes of state-dict keys of JSA and DiscreteVAE: until 0.1 -> now
    **{f"{part}.": f"latent.{part}." for part in ("encoder", "decoder", "quantizer", "likelihood", "prior")},
    "figures.": "metrics.",
    "discriminator.": "adversarial.discriminator.",
}
POSTERIOR_STEPS = 10  # of the chains in evaluation and in ``encode``
AT_ONCE = 64  # draws per image that are computed in one pass
TARGET_RATE, ADAPTATION = 0.4, 0.1  # of the steps of ncg: acceptance rate, and change of the logarithm per batch


class CategoricalLatent(nn.Module):
    """p(x, h) = p(h) p(x | h) and the proposal q(h | x); arguments and attributes as in ``JSA``."""

    step_size: Tensor  # of the kernel ncg, in squared units of the embeddings

    def __init__(
        self,
        encoder: Encoder | None,
        decoder: Decoder | None,
        num_embeddings: int,
        num_latents: int,
        likelihood: Likelihood | None,
        prior: Transformer | Literal["uniform", "factorized"],
        perceptual: Perceptual | None,
        perceptual_weight: float,
        images: ImageFormat,
        smoothing: float,
        decode_chunk: int,
        sampler: PosteriorSampler = PosteriorSampler(),
        tied_logits: bool = False,
    ) -> None:
        super().__init__()
        self.images, self.value_range = images, images.value_range
        self.smoothing, self.decode_chunk, self.sampler = smoothing, decode_chunk, sampler
        self.encoder: Encoder = encoder or ConvEncoder(in_channels=images.channels)
        self.decoder: Decoder = decoder or ConvDecoder(out_channels=images.channels)
        self.code_map = check_autoencoder(self.encoder, self.decoder, images.channels, images.size)
        self.quantizer = CategoricalCode(
            self.encoder.out_channels, num_embeddings, self.decoder.in_channels, num_latents, tied_logits
        )
        self.positions = math.prod(self.code_map) * num_latents
        self.code_shape = (*self.code_map, num_latents) if num_latents > 1 else self.code_map
        self.likelihood: Likelihood = likelihood or Gaussian()
        self.prior = build_prior(prior, self.positions, num_embeddings, num_latents)
        self.perceptual = build_perceptual(perceptual, perceptual_weight, images.size)
        self.perceptual_weight = perceptual_weight
        if sampler.kernel == "ncg":
            self.register_buffer("step_size", torch.ones(()))

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters of p's networks; p's embeddings, prior and sigma; and those of q."""
        tables = [self.quantizer.codebook, *self.likelihood.parameters(), *self.prior.parameters()]
        proposal = [*self.encoder.parameters(), *self.quantizer.logits.parameters()]
        return list(self.decoder.parameters()), tables, proposal

    @torch.no_grad()
    def encode(self, x: Tensor, how: Literal["argmax", "posterior"] = "argmax") -> Tensor:
        """Images (B, C, H, W) to codes (B, h, w).

        ``argmax`` are the most probable codes under q; ``posterior`` are draws from p(h | x) after 10 steps of the
        model's chain, which take longer and are random. They fit the image better if q lags behind p.
        """
        if how == "posterior":
            return self.sample_posterior(x, steps=POSTERIOR_STEPS)
        return self.to_map(self.log_q(self.observe(x)).argmax(-1))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to expected images (B, C, H, W) in the value range; UserError for codes outside [0, K)."""
        return self.likelihood.image(self.likelihood.expected(self.output(self.to_flat(codes))), self.value_range)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) through their most probable codes and back."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(self, num: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Draw images (num, C, H, W) in the value range: codes from p(h), and the expected image of each."""
        device = self.quantizer.codebook.device
        source = device if generator is None else generator.device
        uniform = rand(num, self.positions, device=source, generator=generator).to(device)
        return self.decode(self.to_map(self.draw_codes(uniform, temperature)))

    def draw_codes(self, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw codes (N, P) from p(h) by inversion of ``uniform`` (N, P) in (0, 1)."""
        if isinstance(self.prior, FactorizedPrior):
            log_p = (self.prior.log_probs(uniform.device) / temperature).log_softmax(-1)
            return propose(log_p[None], uniform[None])[0]

        def choose(position: int, logits: Tensor) -> Tensor:
            log_p = (logits.float() / temperature).log_softmax(-1)
            return propose(log_p[:, None], uniform[:, position, None, None])[:, 0, 0]

        condition = torch.full((len(uniform),), self.prior.no_label, device=uniform.device)
        return roll_out(self.prior, condition, choose)

    @torch.no_grad()
    def propose(self, x: Tensor, num: int) -> Tensor:
        """Draw codes (num, B, h, w) from q(h | x) of images (B, C, H, W)."""
        codes = propose(self.log_q(self.observe(x)), rand(len(x), num, self.positions, device=x.device))
        return torch.stack([self.to_map(draw) for draw in codes.unbind(1)])

    def log_joint(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return ln p(x, h) (B,) in nats, with all constants, of images and codes (B, h, w)."""
        return self.joint(self.observe(x), self.to_flat(codes), torch.arange(len(x), device=x.device), energy=False)[0]

    def log_proposal(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return ln q(h | x) (B,) of images and codes (B, h, w)."""
        return log_prob(self.log_q(self.observe(x)), self.to_flat(codes)[:, None])[:, 0]

    @torch.no_grad()
    def sample_posterior(self, x: Tensor, init: Tensor | None = None, steps: int = 100) -> Tensor:
        """Run chains of images (B, C, H, W) with the model's kernel; return the states after ``steps`` (B, h, w).

        The chains converge to p(h | x). They start at the codes ``init`` (B, h, w), by default a draw from q, or its
        most probable codes if the steps change only a few positions.
        """
        x = self.observe(x)
        log_q = self.log_q(x)
        if init is not None:
            state = self.to_flat(init)
        elif self.sampler.kernel in KERNELS:
            state = propose(log_q, rand(len(x), 1, self.positions, device=x.device))[:, 0]
        else:
            state = log_q.argmax(-1)
        for done in range(0, steps, AT_ONCE):
            rows = replace(self.sampler, num_mis_steps=min(AT_ONCE, steps - done)).num_draws
            state = self.run_chain(x, log_q, state, rand(len(x), rows, self.positions + 1, device=x.device)).last
        return self.to_map(state)

    @torch.no_grad()
    def bounds(self, x: Tensor, num_samples: int = 1000, dequantize: bool = False) -> NLLBounds:
        """Bound -ln p(x) of images (B, C, H, W) from above and below, in nats, with ``num_samples`` draws per image.

        ``dequantize`` adds uniform noise to rounded images, if p is a density: without noise, a density does not bound
        the probability of rounded images.
        """
        x = self.observe(x)
        log_q, log_w = self.log_q(x), []
        x = self.likelihood.dequantize(x, self.value_range) if dequantize else x
        for done in range(0, num_samples, AT_ONCE):
            uniform = rand(len(x), min(AT_ONCE, num_samples - done), self.positions, device=x.device)
            log_w.append(self.log_weights(x, log_q, energy=False)(propose(log_q, uniform)))
        return nll_bounds(torch.cat(log_w, 1), rand(len(x), num_samples - 1, device=x.device))

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``input``, ``reconstruction`` and ``sample`` in [0, 1], (B, C, H, W)."""
        x = batch["image"]
        images = {
            "input": self.likelihood.image(self.observe(x), self.value_range),
            "reconstruction": self.reconstruct(x),
            "sample": self.sample(len(x), generator=torch.Generator().manual_seed(0)),
        }
        return {name: self.value_range.decode(image) for name, image in images.items()}

    def observe(self, image: Tensor) -> Tensor:
        """Images of the data to the numbers that p(x | h) models, both (B, C, H, W)."""
        self.images.check(image)
        return self.likelihood.observe(image, self.value_range)

    def log_q(self, x: Tensor) -> Tensor:
        """Return ln q (B, P, K) of each position."""
        log_q = self.quantizer.log_probs(self.encoder(x))
        if self.smoothing:
            floor = torch.full_like(log_q, math.log(self.smoothing / log_q.shape[-1]))
            log_q = torch.logaddexp(log_q + math.log1p(-self.smoothing), floor)
        return log_q

    def output(self, codes: Tensor) -> Tensor:
        """Codes (N, P) to the decoder's output (N, C, H, W)."""
        return self.decoder(self.quantizer.embed(codes, self.code_map[1]))

    def log_prior(self, codes: Tensor) -> Tensor:
        """Return ln p(h) (N,) of codes (N, P)."""
        if isinstance(self.prior, FactorizedPrior):
            return self.prior.log_prob(codes)
        log_p = self.prior(codes[:, :-1]).float().log_softmax(-1)
        return log_p.gather(2, codes[:, :, None]).sum((1, 2))

    def joint(self, x: Tensor, codes: Tensor, owner: Tensor, energy: bool = True) -> tuple[Tensor, Tensor]:
        """Return ln p(x, h) and the mean squared error, (N,) each, of ``codes`` (N, P), in chunks.

        ``owner`` (N,) is the index in ``x`` (B, C, H, W) of each code's image. ``energy`` subtracts the perceptual
        energy, which bounds of the likelihood leave out: its normaliser is unknown. Without gradients the error is 0.
        """
        chunks = zip(owner.split(self.decode_chunk), codes.split(self.decode_chunk), strict=True)
        if len(codes) <= self.decode_chunk or not torch.is_grad_enabled():
            parts = [self._joint(x[who], chunk, energy) for who, chunk in chunks]
        else:  # the backward pass decodes each chunk again, so that only one chunk's activations are in memory
            parts = [checkpoint(self._joint, x[who], chunk, energy, use_reentrant=False) for who, chunk in chunks]
        log_p, errors = zip(*parts, strict=True)
        return torch.cat(log_p), torch.cat(errors)

    def joint_of_draws(self, x: Tensor, codes: Tensor, energy: bool = True) -> tuple[Tensor, Tensor]:
        """As :meth:`joint`, (B, S) each, of S codes for each image: codes (B, S, P)."""
        count, num = codes.shape[:2]
        owner = torch.arange(count, device=codes.device).repeat_interleave(num)
        log_p, errors = self.joint(x, codes.flatten(0, 1), owner, energy)
        return log_p.view(count, num), errors.view(count, num)

    def log_weights(self, x: Tensor, log_q: Tensor, energy: bool = True) -> Callable[[Tensor], Tensor]:
        """Return a function of codes (B, S, P) that gives ln w = ln p(x, h) - ln q(h | x), (B, S) float32."""

        @torch.no_grad()
        def log_w(codes: Tensor) -> Tensor:
            # In float32, because bfloat16 is off by more than a nat, and without dropout, which is not part of p.
            with evaluating(self.decoder, self.prior), without_autocast(x.device):
                return self.joint_of_draws(x, codes, energy)[0] - log_prob(log_q, codes)

        return log_w

    def run_chain(self, x: Tensor, log_q: Tensor, initial: Tensor, uniform: Tensor) -> Chain:
        """Run the chains of ``sampler`` from codes ``initial`` (B, P), with ``uniform`` (B, num_draws, P + 1)."""
        settings = self.sampler
        if settings.kernel in KERNELS:
            return self._run_whole(x, log_q, initial, uniform, settings.kernel)
        if settings.whole_steps:
            initial = self._run_whole(x, log_q, initial, uniform[:, : settings.whole_steps], "mis").last
            uniform = uniform[:, settings.whole_steps :]
        if settings.kernel == "gibbs":
            log_p = self.log_weights(x, torch.zeros_like(log_q))
            return run_gibbs(log_p, initial, uniform, self.quantizer.num_embeddings)

        def from_q(codes: Tensor, _: Tensor, positions: Tensor) -> Tensor:
            return log_q.gather(1, positions[..., None].expand(-1, -1, log_q.shape[-1]))

        informed = settings.kernel == "ncg"
        size = min(settings.block_size or (8 if informed else 1), self.positions)
        evaluate, proposal = self.log_p_and_gradient(x, informed), self.norm_constrained if informed else from_q
        chain = run_blocks(evaluate, proposal, initial, uniform, size)
        if informed and self.training:
            rate = all_sum(chain.accepted.float().mean()) / world_size()
            self.step_size *= torch.exp(ADAPTATION * (rate - TARGET_RATE))
        return chain

    def _run_whole(self, x: Tensor, log_q: Tensor, initial: Tensor, uniform: Tensor, kernel: str) -> Chain:
        proposals = propose(log_q, uniform[:, :, 1:])
        return run_chain(self.log_weights(x, log_q), initial, proposals, uniform[:, :, 0], kernel)

    def log_p_and_gradient(self, x: Tensor, need_gradient: bool) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return a function of codes (B, P) that gives ln p(x, h) (B,), and its gradient by the embeddings.

        The gradient is that of ln p(x | h), (B, h * w, D); a tensor without elements if it is not needed.
        """

        def evaluate(codes: Tensor) -> tuple[Tensor, Tensor]:
            with evaluating(self.decoder, self.prior), without_autocast(x.device):
                log_prior = self.log_prior(codes)
                if not need_gradient:
                    return self.log_likelihood(x, self.output(codes).float()) + log_prior, codes[:, :0, None]
                with torch.inference_mode(False), torch.enable_grad():
                    embedded = self.quantizer.embed(codes.clone(), self.code_map[1]).detach().requires_grad_()
                    log_p = self.log_likelihood(x.clone(), self.decoder(embedded).float())
                    (gradient,) = torch.autograd.grad(log_p.sum(), embedded)
            return log_p.detach() + log_prior, gradient.flatten(2).mT

        return evaluate

    def norm_constrained(self, codes: Tensor, gradient: Tensor, positions: Tensor) -> Tensor:
        """Return the proposal ln r (B, s, K) of ``ncg`` at ``positions`` (B, s) of ``codes`` (B, P)."""
        code = self.quantizer
        places, variables = positions // code.num_codebooks, positions % code.num_codebooks
        gradient = gradient.gather(1, places[..., None].expand(-1, -1, gradient.shape[-1]))
        current = code.codebook[variables, codes.gather(1, positions)]
        codebook = code.codebook[variables] if code.num_codebooks > 1 else code.codebook[0]
        log_r = norm_constrained(gradient, current, codebook, self.step_size)
        if isinstance(self.prior, FactorizedPrior) and self.prior.logits is not None:
            log_prior = self.prior.log_probs(codes.device)[positions]
            log_r = (log_r + log_prior / 2).log_softmax(-1)
        return log_r

    def to_map(self, codes: Tensor) -> Tensor:
        """Codes (B, P) to the map (B, h, w), or (B, h, w, V)."""
        return codes.view(-1, *self.code_shape)

    def to_flat(self, codes: Tensor) -> Tensor:
        """Check codes (B, h, w), or (B, h, w, V), and return them as (B, P)."""
        codes = as_codes(codes, self.quantizer.codebook.device)
        check_code_shape(codes, self.code_shape)
        check_code_range(codes, self.quantizer.num_embeddings)
        return codes.flatten(1)

    def log_likelihood(self, x: Tensor, output: Tensor, energy: bool = True) -> Tensor:
        """Return ln p(x | h) (N,) for the decoder's ``output`` (N, C, H, W), less the perceptual energy."""
        log_p = self.likelihood.log_prob(x, output)
        if not energy or self.perceptual is None:
            return log_p
        pair = self.likelihood.expected(output), x
        signed = (self.value_range.signed(self.likelihood.image(image, self.value_range)) for image in pair)
        return log_p - self.perceptual_weight * self.perceptual(*signed)

    def _joint(self, x: Tensor, codes: Tensor, energy: bool) -> tuple[Tensor, Tensor]:
        output = self.output(codes).float()
        log_p = self.log_likelihood(x, output, energy) + self.log_prior(codes)
        if not torch.is_grad_enabled():
            return log_p, torch.zeros_like(log_p)
        return log_p, (self.likelihood.expected(output.detach()) - x).square().flatten(1).mean(1)


def rand(*size: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Return uniform numbers in float32: the default dtype may be bfloat16, which has only 256 of them."""
    return torch.rand(size, dtype=torch.float32, device=device, generator=generator)
