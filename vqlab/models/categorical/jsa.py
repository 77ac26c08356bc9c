"""JSA: joint stochastic approximation (Ou and Song 2020, arXiv:2005.14001), with categorical codes."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.models.categorical.base import CategoricalModel, LossOutput
from vqlab.nn.base import Decoder, Encoder
from vqlab.samplers.chain_cache import ChainCache
from vqlab.samplers.independence import KERNELS, Chain, block_masks, blockwise_chain, global_chain, log_prob, propose
from vqlab.validation import check_choice

BLOCKS = ("rows", "patches", "checkerboard")


class JSA(CategoricalModel):
    """p(x, h) and q(h | x) learn from the same draws of the posterior p(h | x), which a Metropolis chain makes.

    p ascends E_p(h|x) ln p(x, h), by Fisher's identity the gradient of ln p(x); q descends the inclusive divergence
    KL(p(h | x) || q(h | x)). No code is relaxed and no gradient estimated. Each batch (paper, algorithm 1): take the
    state of each image's chain from the cache, propose ``num_mis_steps`` codes from q, accept or reject each, step p
    and q on -mean over the steps of ln p(x, h) + ln q(h | x), and put the last states back.

    Without the cache, each chain starts anew at a draw from q, and ends near the best of ``num_mis_steps`` + 1 draws:
    the gradient is biased, acceptance tends to :func:`record_rate` whatever the model, and codes collapse. That is what
    the training does before ``cache_start_epoch``, too.

    ``mis`` is the paper's kernel. ``mis_rb`` counts rejected proposals by their probability. ``isir`` draws the next
    state from all candidates at once (Markovian score climbing); with ``cache=false`` this is reweighted wake-sleep.

    Args:
        encoder: As in ``CategoricalModel``.
        decoder: As in ``CategoricalModel``.
        num_mis_steps: Proposals per batch, L.
        kernel: ``mis``, ``mis_rb`` or ``isir``.
        blocks: Null proposes whole codes. ``rows``, ``patches`` or ``checkerboard`` replaces one block of positions per
            step, in turn: accepted more often, slower, because states are decoded one after the other.
        block_size: Side of the patches, or distance of the checkerboard's fields.
        cache: Keep the chains' states, by the batch's ``index``.
        cache_start_epoch: Epoch from which they are kept; 0 is the first.
        train_size: Training images; linked to the data.
        **common: All others of :class:`~vqlab.models.categorical.base.CategoricalModel`.

    Shape:
        As for ``CategoricalModel``.

    Raises:
        UserError: As ``CategoricalModel``, and if the cache meets batches without ``index`` or augmented images.

    Example:
        >>> model = JSA(num_embeddings=16).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.sample_posterior(x, steps=4)
        >>> tuple(codes.shape), tuple(model.log_joint(x, codes).shape), tuple(model.propose(x, 5).shape)
        ((2, 8, 8), (2,), (5, 2, 8, 8))
    """

    health_hints: ClassVar = dict.fromkeys(
        ("codebook_collapse", "codebook_slow_death"),
        "set --model.cache=true and --model.split_ratio=3, or lower --model.proposal_lr",
    )
    code_metrics_prefix = (
        "posterior_"  # of q's likeliest codes there are few: it leaves open which copy of a code it means
    )

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        num_mis_steps: int = 10,
        kernel: Literal["mis", "mis_rb", "isir"] = "mis",
        blocks: Literal["rows", "patches", "checkerboard"] | None = None,
        block_size: int = 2,
        cache: bool = True,
        cache_start_epoch: int = 1,
        train_size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(encoder, decoder, **common)
        check_choice("kernel", kernel, tuple(KERNELS))
        check_choice("blocks", blocks, (None, *BLOCKS))
        if num_mis_steps < 1 or block_size < 1 or cache_start_epoch < 0:
            raise UserError(
                f"num_mis_steps {num_mis_steps} and block_size {block_size} must be at least 1, cache_start_epoch "
                f"{cache_start_epoch} at least 0: set --model.num_mis_steps=10 --model.cache_start_epoch=1"
            )
        if blocks is not None and kernel != "mis":
            raise UserError(f"blocks go with kernel=mis, got {kernel}: set --model.kernel=mis or --model.blocks=null")
        self.num_mis_steps, self.kernel = num_mis_steps, kernel
        self.health_ignored = ("accept_rate", "accept_rate_cached") if kernel == "isir" else ()  # isir accepts nothing
        self.cache, self.cache_start_epoch, self.train_size = cache, cache_start_epoch, train_size
        masks = block_masks(blocks, *self.code_map, self.quantizer.num_codebooks, block_size) if blocks else None
        self.masks: Tensor | None
        self.register_buffer("masks", masks, persistent=False)
        self.chains: ChainCache | None = None
        self._stored: dict[str, Tensor] | None = None  # chains of a checkpoint, until the data are known

    # Training

    def learn(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> LossOutput:
        """Return what the states that each image's chain visits teach."""
        chain, terms = self._visit(x, log_q.detach(), index)
        owner, number = chain.weights.nonzero(as_tuple=True)  # what was visited, and has to be decoded for its gradient
        codes, weights = chain.states[owner, number], chain.weights[owner, number] / len(x)
        log_p, errors = self.joint(x, codes, owner)
        log_q_of_codes = log_prob(log_q, chain.states)[owner, number]
        joint, proposal = -(weights * log_p).sum(), -(weights * log_q_of_codes).sum()
        terms |= {"nll_joint": joint.detach(), "proposal_loss": proposal.detach()}
        terms["distinct_states"] = torch.tensor(len(codes) / len(x))
        return LossOutput(joint + proposal, (weights * errors).sum(), chain.last, terms)

    @torch.no_grad()
    def _visit(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> tuple[Chain, dict[str, Tensor]]:
        """Move the chains of a batch on by ``num_mis_steps`` proposals; return them and figures. log_q is (B, P, K)."""
        count, length = self.num_mis_steps, self.positions
        lots = self.uniform(x, (count + 1) * (length + 1), index).view(len(x), count + 1, length + 1)
        proposals, uniform = propose(log_q, lots[:, :, 1:]), lots[:, 1:, 0]
        state, known = proposals[:, 0], torch.zeros(len(x), dtype=torch.bool, device=x.device)
        chains = self.chains if self.cache and self.current_epoch >= self.cache_start_epoch else None
        if chains is not None:
            index = known_index(index)
            stored, known = chains.get(index)
            state = torch.where(known[:, None], stored, state)
        log_w = self.log_weights(x, log_q)
        if self.masks is None:
            chain = global_chain(log_w, state, proposals[:, 1:], uniform, self.kernel)
            terms = {}
        else:
            turn = (torch.arange(count, device=x.device) + self.global_step * count) % len(self.masks)
            chain = blockwise_chain(log_w, state, proposals[:, 1:], uniform, self.masks[turn])
            terms = rates_of_blocks(chain.accepted, turn, len(self.masks))
        terms |= self._figures_of(chain, known)
        if chains is not None and index is not None:
            chains.put(index, chain.last, chain.accepted.any(1))
            ages = chains.ages(index).float()
            terms["chain_age"] = ages.sum() / max(1, len(ages))
        return chain, terms

    def _figures_of(self, chain: Chain, known: Tensor) -> dict[str, Tensor]:
        """Return figures of the sampler: a rate of acceptance alone says little, see :func:`record_rate`."""
        accepted = (chain.accepted[:, :1] if self.kernel == "isir" else chain.accepted).float()
        terms = {
            "accept_rate": accepted.mean(),
            "effective_states": (1 / chain.weights.square().sum(1)).mean(),
            "known_chains": known.float().mean(),
        }
        if self.cache:
            for name, part in (("cached", known), ("fresh", ~known)):
                terms[f"accept_rate_{name}"] = accepted.mean(1)[part].sum() / part.sum().clamp_min(1)
        return terms

    # The cache

    def setup(self, stage: str) -> None:
        """Make room for the chains."""
        super().setup(stage)
        if stage != "fit" or not self.cache:
            return
        trainer: Any = self.trainer
        data = trainer.datamodule
        if getattr(data, "augment", False):
            raise UserError(
                "a stored code does not fit an image that is shifted or mirrored anew at each visit: set "
                "--data.augment=false or --model.cache=false"
            )
        size = self.train_size or getattr(data, "train_size", None)
        if size is None:
            raise UserError("the cache needs the number of training images: build the model with train_size=...")
        if self.chains is None or self.chains.size != size:
            self.chains = ChainCache(size, self.positions, self.quantizer.num_embeddings)
        if self._stored is not None:
            self.chains.fill(self._stored)
            self._stored = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the chains of all ranks, or those that a checkpoint had while the cache is off."""
        stored = self._stored if self.chains is None else self.chains.whole()
        if stored is not None:
            checkpoint["chains"] = stored

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the chains, whether or not the cache is on now."""
        self._stored = checkpoint.get("chains")
        if self.chains is not None and self._stored is not None:
            self.chains.fill(self._stored)
            self._stored = None


def known_index(index: Tensor | None) -> Tensor:
    """Return ``index``, or say why there must be one."""
    if index is None:
        raise UserError(
            "the cache of chains needs to know which images a batch holds: give batches an index, or set "
            "--model.cache=false"
        )
    return index


def rates_of_blocks(accepted: Tensor, turn: Tensor, count: int) -> dict[str, Tensor]:
    """Return the rate of acceptance (B, L) of each of ``count`` blocks, ``turn`` (L,) being that of each step."""
    rates = accepted.float().mean(0)
    return {f"accept_rate_block_{b}": rates[turn == b].sum() / (turn == b).sum().clamp_min(1) for b in range(count)}


def record_rate(num_mis_steps: int) -> float:
    """Return the lowest rate of acceptance that chains without a cache can have, (H_{L+1} - 1) / L.

    All candidates are drawn alike, so the t-th is the best so far with probability 1 / t, and the best is accepted.
    Where weights differ widely, no other is: the rate then says nothing of the model.

    Example:
        >>> round(record_rate(10), 4), round(record_rate(20), 4)
        (0.202, 0.1323)
    """
    return sum(1 / t for t in range(2, num_mis_steps + 2)) / num_mis_steps
