"""Discrete VAEs: models with the networks of JSA, trained by relaxation or score-function estimators."""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses import Perceptual, rloo_loss, vimco_loss
from vqlab.models.adversarial import AdversarialSettings
from vqlab.models.categorical import training
from vqlab.models.categorical.latent import RENAMED_KEYS, CategoricalLatent
from vqlab.models.categorical.training import EvaluationSettings, LossOutput, ProposalOptimization, of_latent
from vqlab.models.model import Model
from vqlab.nn import Decoder, Encoder, ImageFormat, Likelihood, Transformer
from vqlab.nn.anneal import Anneal, extremes, value_at
from vqlab.nn.categorical import FactorizedPrior
from vqlab.samplers import log_prob, propose
from vqlab.training.batches import predict_codes
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegative, Positive, Probability, Range


class DiscreteVAE(Model):
    """A variational autoencoder with categorical codes.

    ``gumbel`` relaxes the codes to mixtures (Jang et al. 2017, arXiv:1611.01144) and takes KL(q || p) exactly;
    ``st_gumbel`` decodes the code itself and takes the mixture's gradient; ``rloo`` is the score function with
    leave-one-out baselines; ``vimco`` ascends the importance-weighted bound (Mnih and Rezende 2016, arXiv:1602.06725).
    Reweighted wake-sleep is ``JSA`` with ``kernel=isir`` and ``cache=false``.

    Args:
        encoder: Network of q. Default: a ``ConvEncoder``.
        decoder: Network of p(x | h), ``in_channels`` the dimension of the embeddings. Default: a ``ConvDecoder``.
        num_embeddings: Categories, K.
        num_latents: Categorical variables per position of the map, V.
        likelihood: p(x | h). Default: a ``Gaussian`` whose sigma is the optimal one.
        prior: p(h), as in ``JSA``; ``gumbel`` and ``st_gumbel`` need ``uniform`` or ``factorized``.
        estimator: ``gumbel``, ``st_gumbel``, ``rloo`` or ``vimco``.
        num_samples: Draws per image, S, of ``rloo`` and ``vimco``.
        temperature: Temperature of the mixtures, by batch.
        smoothing: Fraction of the uniform distribution in q.
        split_ratio: See ``CodeSplitter``; used with a uniform prior only; null never splits.
        perceptual: Default: LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        perceptual_weight: Nats per unit of LPIPS, subtracted from ln p(x | h) in training.
        adversarial: Discriminator of decoded codes, for a ``Gaussian`` likelihood.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulate. Give one of the two.
        optimization: Optimizer settings.
        accumulate: Batches per optimizer step.
        evaluation: Evaluation settings.
        decode_chunk: Codes that are decoded at once; bounds the memory.
        seed: Seed of the draws, which depend only on it, the step and the image.
        images: Format of the images; the command line takes it from the data.

    Raises:
        UserError: If the parts do not fit each other, or ``gumbel`` or ``st_gumbel`` get a ``Transformer`` prior.

    Example:
        >>> model = DiscreteVAE(num_embeddings=16).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), tuple(model.nll(x, num_samples=4).shape)
        ((2, 8, 8), (2, 3, 32, 32), (2,))
    """

    modality = "image"
    default_lr = 3e-4
    renamed_keys: ClassVar = RENAMED_KEYS
    health_hints: ClassVar = dict.fromkeys(
        ("codebook_collapse", "codebook_slow_death"),
        "set --model.split_ratio=3, or lower --model.optimization.proposal_lr",
    )

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        num_embeddings: Count = 1024,
        num_latents: Count = 1,
        likelihood: Likelihood | None = None,
        prior: Transformer | Literal["uniform", "factorized"] = "uniform",
        estimator: Literal["gumbel", "st_gumbel", "rloo", "vimco"] = "gumbel",
        num_samples: Annotated[int, Range(2)] = 5,
        temperature: Anneal | Positive = 1.0,
        smoothing: Probability = 0.0,
        split_ratio: Annotated[float, Range(2, open="low")] | None = 3.0,
        perceptual: Perceptual | None = None,
        perceptual_weight: NonNegative = 0.0,
        adversarial: AdversarialSettings = AdversarialSettings(disc_weight=0.0),
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: ProposalOptimization = ProposalOptimization(),
        accumulate: Count = 1,
        evaluation: EvaluationSettings = EvaluationSettings(),
        decode_chunk: Count = 512,
        seed: int = 0,
        images: ImageFormat = ImageFormat(),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if not min(extremes(temperature)) > 0:
            raise UserError("temperature must be above 0 at each step")
        self.optimization, self.accumulate = optimization, accumulate
        self.estimator, self.num_samples, self.temperature = estimator, num_samples, temperature
        self.evaluation, self.seed = evaluation, seed
        self.images, self.value_range = images, images.value_range
        densities = encoder, decoder, num_embeddings, num_latents, likelihood, prior, perceptual, perceptual_weight
        self.latent = CategoricalLatent(*densities, images, smoothing, decode_chunk)
        if "gumbel" in estimator and not isinstance(self.latent.prior, FactorizedPrior):
            raise UserError(f"estimator {estimator} needs a factorized prior: set prior=factorized, or use JSA")
        training.build_parts(self, adversarial, split_ratio)

    quantizer = property(lambda model: model.latent.quantizer)
    encode = of_latent(CategoricalLatent.encode)
    decode = of_latent(CategoricalLatent.decode)
    reconstruct = of_latent(CategoricalLatent.reconstruct)
    sample = of_latent(CategoricalLatent.sample)
    bounds = of_latent(CategoricalLatent.bounds)
    nll = training.nll
    example_images = of_latent(CategoricalLatent.example_images)
    predict_step = predict_codes
    evaluate = training.evaluate
    finish_evaluation = training.finish_evaluation
    code_counts = training.code_counts
    code_histograms = training.code_histograms
    top_code_images = training.top_code_images
    configure_optimizers = training.configure_optimizers
    on_before_optimizer_step = training.clip_gradients

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Estimate the loss, then update p and q."""
        x = self.latent.observe(batch["image"])
        loss, mse, codes, terms = self.compute_loss(x, batch.get("index"))
        require_finite({"loss": loss, "rec_loss": mse}, batch_idx, self.global_step)

        g_loss, d_terms = training.adversarial_loss(self, x, codes, batch_idx)
        self.manual_backward((loss + g_loss) / self.accumulate)
        training.log_training(self, loss, {"rec_loss": mse, **terms, **d_terms}, codes)
        training.step_optimizers(self, codes, mse)
        return loss

    def compute_loss(self, x: Tensor, index: Tensor | None) -> LossOutput:
        """Return the loss of observed images ``x`` (B, C, H, W) by the chosen estimator."""
        log_q = self.latent.log_q(x)
        return self.relaxed_loss(x, log_q) if "gumbel" in self.estimator else self.multi_sample_loss(x, log_q, index)

    def multi_sample_loss(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> LossOutput:
        """RLOO or VIMCO: score-function estimates from S draws of q (B, P, K) for each image (B, C, H, W)."""
        uniform = training.uniform_numbers(self, x, self.num_samples * self.latent.positions, index)
        codes = propose(log_q.detach(), uniform.view(len(x), self.num_samples, -1))
        log_p, squared_errors = self.latent.joint_of_draws(x, codes)
        log_q_of_codes = log_prob(log_q, codes)
        loss = {"rloo": rloo_loss, "vimco": vimco_loss}[self.estimator](log_p, log_q_of_codes)
        elbo = (log_p - log_q_of_codes).detach().mean()
        return LossOutput(loss, squared_errors.mean(), codes[:, 0], {"nll_elbo": -elbo})

    def relaxed_loss(self, x: Tensor, log_q: Tensor) -> LossOutput:
        """Gumbel-softmax: the negative ELBO with mixtures in place of codes; ``log_q`` is (B, P, K)."""
        noise = -torch.empty_like(log_q).exponential_().log()
        mixture = ((log_q + noise) / value_at(self.temperature, self.global_step)).softmax(-1)
        codes = mixture.argmax(-1)
        if self.estimator == "st_gumbel":
            mixture = F.one_hot(codes, mixture.shape[-1]) + mixture - mixture.detach()
        latent = self.latent
        output = latent.decoder(latent.quantizer.embed_soft(mixture, latent.code_map[1]))
        assert isinstance(latent.prior, FactorizedPrior)
        kl = (log_q.exp() * (log_q - latent.prior.log_probs(x.device))).sum((1, 2)).mean()
        distortion = -latent.log_likelihood(x, output).mean()
        mse = (latent.likelihood.expected(output.detach().float()) - x).square().mean()
        return LossOutput(distortion + kl, mse, codes, {"distortion": distortion.detach(), "kl": kl.detach()})
