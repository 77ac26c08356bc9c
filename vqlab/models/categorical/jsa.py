"""JSA: joint stochastic approximation (Ou and Song 2020, arXiv:2005.14001), with categorical codes."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses import Perceptual
from vqlab.models.adversarial import AdversarialSettings
from vqlab.models.categorical import training
from vqlab.models.categorical.latent import RENAMED_KEYS, CategoricalLatent
from vqlab.models.categorical.negatives import NegativeChains, NegativeSampler, check_likelihood
from vqlab.models.categorical.posterior_sampler import PosteriorSampler
from vqlab.models.categorical.training import EvaluationSettings, LossOutput, ProposalOptimization, of_latent
from vqlab.models.model import Model
from vqlab.nn import Decoder, Encoder, ImageFormat, Likelihood, Transformer
from vqlab.quantizers.sampling import step_seed
from vqlab.samplers import ChainCache
from vqlab.samplers.independence import Chain, log_prob, propose
from vqlab.training.batches import predict_codes
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegative, Positive, Probability, Range


class JSA(Model):
    """p(x, h) and q(h | x), both trained on draws from the posterior p(h | x) by a Metropolis chain per image.

    p ascends E_p(h|x) ln p(x, h), by Fisher's identity the gradient of ln p(x); q descends the inclusive divergence
    KL(p(h | x) || q(h | x)). Codes are not relaxed. Without the cache, as before ``cache_start_epoch``, each chain
    starts at a draw from q and ends near the best of ``num_mis_steps`` + 1 draws: the gradient is biased, the
    acceptance rate tends to :func:`record_rate`, and the codebook collapses.

    Args:
        encoder: Network of q. Default: a ``ConvEncoder``.
        decoder: Network of p(x | h), ``in_channels`` the dimension of the embeddings. Default: a ``ConvDecoder``.
        num_embeddings: Categories, K.
        num_latents: Categorical variables per position of the map, V.
        likelihood: p(x | h). Default: a ``Gaussian`` whose sigma is the optimal one.
        prior: p(h): ``uniform``; ``factorized``, learned per position; or a ``Transformer`` over the positions.
        sampler: Settings of the Metropolis chains.
        tied_logits: Compute q's logits from the distance of its features to p's embeddings, so that q follows them.
        smoothing: Fraction of the uniform distribution in q, which bounds the importance weights.
        split_ratio: See ``CodeSplitter``; used with a uniform prior only; null never splits.
        perceptual: Default: LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        perceptual_weight: Nats per unit of LPIPS, subtracted from ln p(x | h) in training and sampling, not in bounds.
        negatives: Negative samples, which replace the unknown normaliser of that energy. Default: none, as if it were
            constant.
        adversarial: Discriminator of decoded codes, for a ``Gaussian`` likelihood.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulate. Give one of the two.
        optimization: Optimizer settings.
        accumulate: Batches per optimizer step.
        evaluation: Evaluation settings.
        decode_chunk: Codes that are decoded at once; bounds the memory.
        seed: Seed of the draws, which depend only on it, the step and the image.
        images: Format of the images; the command line takes it from the data.

    Shape:
        images (B, C, H, W) in the value range of ``images``; codes (B, h, w) int64 in [0, K), with ``num_latents``
        above 1 (B, h, w, V).

    Raises:
        UserError: If the parts do not fit each other, or the cache gets batches without ``index`` or augmented images.

    Example:
        >>> model = JSA(num_embeddings=16).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.sample_posterior(x, steps=4)
        >>> tuple(codes.shape), tuple(model.log_joint(x, codes).shape), tuple(model.propose(x, 5).shape)
        ((2, 8, 8), (2,), (5, 2, 8, 8))
    """

    modality = "image"
    default_lr = 3e-4
    renamed_keys: ClassVar = RENAMED_KEYS
    health_hints: ClassVar = dict.fromkeys(
        ("codebook_collapse", "codebook_slow_death"),
        "set --model.sampler.cache=true and --model.split_ratio=3, or lower --model.optimization.proposal_lr",
    )
    # q's most probable codes use few of the equivalent copies of a code, so Health uses the posterior's codes.
    code_metrics_prefix = "posterior_"

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        num_embeddings: Count = 1024,
        num_latents: Count = 1,
        likelihood: Likelihood | None = None,
        prior: Transformer | Literal["uniform", "factorized"] = "uniform",
        sampler: PosteriorSampler = PosteriorSampler(),
        tied_logits: bool = False,
        smoothing: Probability = 0.0,
        split_ratio: Annotated[float, Range(2, open="low")] | None = 3.0,
        perceptual: Perceptual | None = None,
        perceptual_weight: NonNegative = 0.0,
        negatives: NegativeSampler | None = None,
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
        self.optimization, self.accumulate = optimization, accumulate
        self.sampler, self.evaluation, self.seed = sampler, evaluation, seed
        self.images, self.value_range = images, images.value_range
        densities = encoder, decoder, num_embeddings, num_latents, likelihood, prior, perceptual, perceptual_weight
        self.latent = CategoricalLatent(*densities, images, smoothing, decode_chunk, sampler, tied_logits)
        training.build_parts(self, adversarial, split_ratio)
        self.health_ignored = ("accept_rate", "accept_rate_cached") if sampler.kernel == "isir" else ()
        if negatives is not None:
            check_likelihood(self.latent.likelihood)
        self.negatives = negatives
        self.chains: ChainCache | None = None
        self.negative_chains: NegativeChains | None = None
        self._stored: dict[str, Tensor] | None = None  # chains of a checkpoint, until there is a cache

    quantizer = property(lambda model: model.latent.quantizer)
    encode = of_latent(CategoricalLatent.encode)
    decode = of_latent(CategoricalLatent.decode)
    reconstruct = of_latent(CategoricalLatent.reconstruct)
    sample = of_latent(CategoricalLatent.sample)
    propose = of_latent(CategoricalLatent.propose)
    log_joint = of_latent(CategoricalLatent.log_joint)
    log_proposal = of_latent(CategoricalLatent.log_proposal)
    sample_posterior = of_latent(CategoricalLatent.sample_posterior)
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
        """Algorithm 1: run each image's chain, then update p and q on the visited states."""
        x = self.latent.observe(batch["image"])
        loss, mse, codes, terms = self.compute_loss(x, batch.get("index"))
        require_finite({"loss": loss, "rec_loss": mse}, batch_idx, self.global_step)

        g_loss, d_terms = training.adversarial_loss(self, x, codes, batch_idx)
        self.manual_backward((loss + g_loss) / self.accumulate)
        training.log_training(self, loss, {"rec_loss": mse, **terms, **d_terms}, codes)
        training.step_optimizers(self, codes, mse)
        return loss

    def compute_loss(self, x: Tensor, index: Tensor | None) -> LossOutput:
        """-E ln p(x, h) - E ln q(h | x) over the states that each chain visits; ``index`` (B,) as in the batch.

        With ``negatives`` p(x, h) is not normalised, and the mean of ln p(x', h') of the negative samples is added.
        """
        log_q = self.latent.log_q(x)
        chain, terms = self.run_chains(x, log_q.detach(), index)
        owner, number = chain.weights.nonzero(as_tuple=True)  # only visited states are decoded with gradients
        codes, weights = chain.states[owner, number], chain.weights[owner, number] / len(x)
        log_p, squared_errors = self.latent.joint(x, codes, owner)
        log_q_of_codes = log_prob(log_q, chain.states)[owner, number]
        p_loss, q_loss = -(weights * log_p).sum(), -(weights * log_q_of_codes).sum()
        terms |= {"nll_joint": p_loss.detach(), "proposal_loss": q_loss.detach()}
        terms["distinct_states"] = torch.tensor(len(codes) / len(x))
        if self.negative_chains is not None:
            seed = step_seed(-1 - self.seed, torch.tensor(self.global_step, device=x.device))
            x_negative, codes, negative_terms = self.negative_chains.draw(len(x), seed)
            log_p, _ = self.latent.joint(x_negative, codes, torch.arange(len(x), device=x.device))
            terms |= negative_terms | {"nll_joint_negative": -log_p.detach().mean()}
            p_loss = p_loss + log_p.mean()  # in place of the gradient of ln Z
        return LossOutput(p_loss + q_loss, (weights * squared_errors).sum(), chain.last, terms)

    @torch.no_grad()
    def run_chains(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> tuple[Chain, dict[str, Tensor]]:
        """Run the chains of a batch for ``num_mis_steps`` steps, with ``log_q`` (B, P, K); return terms, too."""
        rows, width = 1 + self.sampler.num_draws, self.latent.positions + 1
        numbers = training.uniform_numbers(self, x, rows * width, index).view(len(x), rows, width)
        state = propose(log_q, numbers[:, :1, 1:])[:, 0]
        known = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        chains = self.chains if self.sampler.cache and self.current_epoch >= self.sampler.cache_start_epoch else None
        if chains is not None:
            if index is None:
                raise UserError("a batch has no index, which the cache of chains needs: set cache=false")
            stored, known = chains.get(index)
            state = torch.where(known[:, None], stored, state)
        chain = self.latent.run_chain(x, log_q, state, numbers[:, 1:])
        accepted = (chain.accepted[:, :1] if self.sampler.kernel == "isir" else chain.accepted).float()
        terms = {
            "accept_rate": accepted.mean(),  # see record_rate for its lowest value
            "effective_states": (1 / chain.weights.square().sum(1)).mean(),
            "changed_positions": (chain.last != state).float().mean(),
            "known_chains": known.float().mean(),
        }
        if self.sampler.cache:
            for name, part in (("cached", known), ("fresh", ~known)):
                terms[f"accept_rate_{name}"] = accepted.mean(1)[part].sum() / part.sum().clamp_min(1)
        if chains is not None and index is not None:
            chains.put(index, chain.last, chain.accepted.any(1))
            ages = chains.ages(index).float()
            terms["chain_age"] = ages.sum() / max(1, len(ages))
        return chain, terms

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.negatives is not None and self.negative_chains is None:
            self.negative_chains = NegativeChains(self.negatives, self.latent)
        if stage != "fit" or not self.sampler.cache:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "augment", False):
            raise UserError("augment must be false with cache=true: a stored code does not fit an augmented image")
        size = self.sampler.train_size or getattr(data, "train_size", None)
        if size is None:
            raise UserError("the data have no train_size, which the cache of chains needs: set sampler.train_size")
        if self.chains is None or self.chains.size != size:
            self.chains = ChainCache(size, self.latent.positions, self.quantizer.num_embeddings)
        self._restore_chains()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = self._stored if self.chains is None else self.chains.whole()  # kept even while the cache is off
        if stored is not None:
            checkpoint["chains"] = stored
        if self.negative_chains is not None:
            checkpoint["negatives"] = self.negative_chains.whole()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._stored = checkpoint.get("chains")
        self._restore_chains()
        if self.negative_chains is not None and "negatives" in checkpoint:
            self.negative_chains.fill(checkpoint["negatives"])

    def _restore_chains(self) -> None:
        if self.chains is not None and self._stored is not None:
            self.chains.fill(self._stored)
            self._stored = None


def record_rate(num_mis_steps: int) -> float:
    """Return the lowest acceptance rate of chains without a cache, (H_{L+1} - 1) / L with the harmonic number H.

    The t-th candidate is the best so far with probability 1 / t; if weights differ widely, only such are accepted.
    """
    return sum(1 / t for t in range(2, num_mis_steps + 2)) / num_mis_steps
