"""Negative samples for a JSA whose decoder has an unnormalised energy: persistent chains of x and h."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.models.categorical.latent import CategoricalLatent
from vqlab.models.model import evaluating
from vqlab.nn import Gaussian, Likelihood
from vqlab.nn.distributed import gather_interleaved, rank, world_size
from vqlab.nn.precision import without_autocast
from vqlab.quantizers.sampling import uniform_by_sample
from vqlab.samplers import mala
from vqlab.validation import Count, Fraction, Positive, check_fields


@dataclass(frozen=True)
class NegativeSampler:
    """Settings of the negative samples, which replace the unknown normaliser of a perceptual energy.

    With it, p(x, h) = exp(-E(x, h)) / Z, where E contains the perceptual energy, and Z depends on the decoder:

        grad ln p(x) = E_p(h|x) [-grad E(x, h)] - E_p(x', h') [-grad E(x', h')].

    The second mean is that of persistent chains (Tieleman 2008) in a replay buffer (Du and Mordatch 2019,
    arXiv:1903.08689). Each batch continues as many of them as it has images: Langevin steps with an accept step change
    x, then the chain of ``PosteriorSampler`` changes h. A new chain starts at a draw of p(h), and of p(x | h) without
    the energy.

    Args:
        size: Chains in the replay buffer, of all ranks together; at least the batch.
        replay_probability: Probability that a chain continues; otherwise it starts again.
        langevin_steps: Steps of x per batch.
        step_size: Standard deviation of the noise of a Langevin step, in units of x.

    Example:
        >>> NegativeSampler(langevin_steps=20).replay_probability
        0.95
    """

    size: Count = 8192
    replay_probability: Fraction = 0.95
    langevin_steps: Count = 10
    step_size: Positive = 0.005

    def __post_init__(self) -> None:
        check_fields(self)


def check_likelihood(likelihood: Likelihood) -> None:
    """Raise UserError if negative samples cannot be drawn from the energy of ``likelihood``, or do not fit it."""
    if not isinstance(likelihood, Gaussian):
        raise UserError(f"negatives need a Gaussian likelihood, got {type(likelihood).__name__}: x must be continuous")
    if likelihood.rule == "optimal":  # the mean squared error is that of the Gaussian without the energy
        raise UserError("negatives need a sigma of their own, got optimal: set likelihood.sigma to a number or learned")


class NegativeChains:
    """The replay buffer. Rank r of R holds the chains r, r + R, ..., so that R processes are equal to one.

    It is not an ``nn.Module``, because DDP would copy the chains of the first rank to all ranks.
    """

    def __init__(self, settings: NegativeSampler, latent: CategoricalLatent) -> None:
        self.settings, self.latent = settings, latent
        self.world, self.rank = world_size(), rank()
        rows = len(range(self.rank, settings.size, self.world))
        self.x = torch.zeros(rows, *latent.images.shape)
        self.codes = torch.zeros(rows, latent.positions, dtype=torch.int64)
        self.known = torch.zeros(rows, dtype=torch.bool)
        self.next = 0  # the row whose turn it is

    @torch.no_grad()
    def draw(self, num: int, seed: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Continue ``num`` chains; return x (num, C, H, W), h (num, P), and terms. ``seed`` is that of the step."""
        latent, settings, device = self.latent, self.settings, seed.device
        if num > len(self.x):
            raise UserError(f"negatives.size must be at least the batch of {num * self.world}, got {settings.size}")
        self.x, self.codes, self.known = (rows.to(device) for rows in (self.x, self.codes, self.known))
        rows = (self.next + torch.arange(num, device=device)) % len(self.x)
        self.next = (self.next + num) % len(self.x)
        dims, steps, places = self.x[0].numel(), settings.langevin_steps, latent.positions
        draws = latent.sampler.num_draws * (places + 1)
        sizes = [1, places, dims, steps * dims, steps, draws]
        uniform = uniform_by_sample(rows * self.world + self.rank, sum(sizes), seed).view(num, -1)
        restart, first, start, noise, accept, chain = uniform.split(sizes, 1)
        normal = torch.special.ndtri(torch.cat([start, noise], 1)).float().view(num, 1 + steps, *self.x.shape[1:])

        with evaluating(latent.decoder, latent.prior), without_autocast(device):
            new = ~self.known[rows] | (restart[:, 0] > settings.replay_probability)
            codes = torch.where(new[:, None], latent.draw_codes(first), self.codes[rows])
            output = latent.output(codes).float()
            ancestral = output + latent.likelihood.sigma * normal[:, 0]  # type: ignore[operator]
            x = torch.where(new[:, None, None, None], ancestral, self.x[rows])
            x, accepted = mala(
                lambda x: latent.log_likelihood(x, output), x, settings.step_size, normal[:, 1:], accept.float()
            )
        result = latent.run_chain(x, latent.log_q(x), codes, chain.view(num, -1, places + 1))
        self.x[rows], self.codes[rows], self.known[rows] = x, result.last, True
        terms = {
            "langevin_accept_rate": accepted.float().mean(),
            "negative_accept_rate": result.accepted.float().mean(),
        }
        return x, result.last, terms

    def whole(self) -> dict[str, Tensor]:
        """Return the chains of all ranks; all ranks must call it."""
        size = self.settings.size
        rows = {"x": self.x, "codes": self.codes, "known": self.known.to(torch.uint8)}
        whole = {name: gather_interleaved(value, size) for name, value in rows.items()}
        return {**whole, "next": torch.tensor(self.next * self.world)}

    def fill(self, stored: dict[str, Tensor]) -> None:
        """Set this rank's chains from the result of :meth:`whole`."""
        if stored["x"].shape != (self.settings.size, *self.x.shape[1:]):
            found, own = (" x ".join(map(str, shape)) for shape in (stored["x"].shape, self.x.shape))
            raise UserError(f"the checkpoint has negatives of {found}, got {own}: resume with their size and data")
        self.x = stored["x"][self.rank :: self.world].clone()
        self.codes = stored["codes"][self.rank :: self.world].clone()
        self.known = stored["known"][self.rank :: self.world].bool()
        self.next = int(stored["next"]) // self.world
