"""Models with categorical codes that are trained without a Markov chain: the rivals of JSA, on its networks."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses.multi_sample import rloo_loss, vimco_loss
from vqlab.models.categorical.base import CategoricalModel, LossOutput
from vqlab.nn.anneal import Anneal, extremes, value_at
from vqlab.nn.base import Decoder, Encoder
from vqlab.nn.categorical import FactorizedPrior
from vqlab.samplers.independence import log_prob, propose
from vqlab.serialization import from_config
from vqlab.validation import check_choice, check_positive

ESTIMATORS = ("gumbel", "st_gumbel", "rloo", "vimco")


class DiscreteVAE(CategoricalModel):
    """A variational autoencoder with categorical codes.

    ``gumbel`` relaxes the codes to mixtures (Jang et al. 2017, arXiv:1611.01144) and takes KL(q || p) exactly;
    ``st_gumbel`` decodes the code itself and takes the mixture's gradient; ``rloo`` is the score function with
    leave-one-out baselines; ``vimco`` ascends the importance-weighted bound (Mnih and Rezende 2016, arXiv:1602.06725).
    Reweighted wake-sleep is ``JSA`` with ``kernel=isir`` and ``cache=false``.

    Args:
        encoder: As in ``CategoricalModel``.
        decoder: As in ``CategoricalModel``.
        estimator: ``gumbel``, ``st_gumbel``, ``rloo`` or ``vimco``.
        num_samples: Draws per image, S, of ``rloo`` and ``vimco``.
        temperature: Of the mixtures, by batch.
        **common: All others of :class:`~vqlab.models.categorical.base.CategoricalModel`.

    Shape:
        As for ``CategoricalModel``.

    Raises:
        UserError: As ``CategoricalModel``, and if a number is out of range, or the mixtures meet a prior that is no
            product.

    Example:
        >>> model = DiscreteVAE(num_embeddings=16).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), tuple(model.nll(x, num_samples=4).shape)
        ((2, 8, 8), (2, 3, 32, 32), (2,))
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        estimator: Literal["gumbel", "st_gumbel", "rloo", "vimco"] = "gumbel",
        num_samples: int = 5,
        temperature: Anneal | float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(encoder, decoder, **common)
        check_choice("estimator", estimator, ESTIMATORS)
        if num_samples < 2:
            raise UserError(f"num_samples must be at least 2, got {num_samples}: set --model.num_samples=5")
        self.temperature: Anneal | float = from_config(temperature)
        for value in extremes(self.temperature):
            check_positive("temperature", value, "set --model.temperature=1")
        self.relaxed = "gumbel" in estimator
        if self.relaxed and not isinstance(self.prior, FactorizedPrior):
            raise UserError(f"{estimator} needs a prior that is a product: set --model.prior=factorized, or use JSA")
        self.estimator, self.num_samples = estimator, num_samples

    def learn(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> LossOutput:
        """Return what a batch teaches by the chosen estimator."""
        return self._relax(x, log_q) if self.relaxed else self._draw(x, log_q, index)

    def _draw(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> LossOutput:
        uniform = self.uniform(x, self.num_samples * self.positions, index).view(len(x), self.num_samples, -1)
        codes = propose(log_q.detach(), uniform)
        log_p, errors = self.joint_of_draws(x, codes)
        log_q_of_codes = log_prob(log_q, codes)
        loss = {"rloo": rloo_loss, "vimco": vimco_loss}[self.estimator](log_p, log_q_of_codes)
        elbo = (log_p - log_q_of_codes).detach().mean()
        return LossOutput(loss, errors.mean(), codes[:, 0], {"nll_elbo": -elbo})

    def _relax(self, x: Tensor, log_q: Tensor) -> LossOutput:
        noise = -torch.empty_like(log_q).exponential_().log()
        mixture = ((log_q + noise) / value_at(self.temperature, self.global_step)).softmax(-1)
        codes = mixture.argmax(-1)
        if self.estimator == "st_gumbel":
            mixture = F.one_hot(codes, mixture.shape[-1]) + mixture - mixture.detach()
        output = self.decoder(self.quantizer.embed_soft(mixture, self.code_map[1]))
        assert isinstance(self.prior, FactorizedPrior)
        kl = (log_q.exp() * (log_q - self.prior.log_probs(x.device))).sum((1, 2)).mean()
        distortion = -self.log_likelihood(x, output).mean()
        mse = (self.likelihood.expected(output.detach().float()) - x).square().mean()
        terms = {"distortion": distortion.detach(), "kl": kl.detach()}
        return LossOutput(distortion + kl, mse, codes, terms)
