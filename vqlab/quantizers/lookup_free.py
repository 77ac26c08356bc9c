"""Binary codes without a codebook: lookup-free and binary spherical quantization."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import mean_over_ranks
from vqlab.nn.precision import float_dtype
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.chunks import entropy, in_chunks
from vqlab.quantizers.estimators import finite_rows, unit
from vqlab.validation import check_positive, check_sizes, check_weight


class LookupFree(Quantizer):
    """Keep the sign of each of D channels, K = 2^D codes with entries -1 and 1 (LFQ, MAGVIT-v2, arXiv:2310.05737).

    loss = entropy_weight * (E[H(q(c|z))] - diversity_weight * H(E[q(c|z)])) + commitment_weight * mean |z - sg(c)|^2
    (section 3.2, equations 5 and 6): each vector is to be sure of its code, and the codes of all vectors are to be
    spread. q(c|z) is proportional to exp(-|z - c|^2 / temperature), in which the channels are independent, so the first
    entropy is a sum over channels, exactly. The second couples them: the channels are cut into groups of at most
    ``group_size``, the entropy of each group is exact, and their sum bounds the joint entropy from above; 2^D
    probabilities never exist. Expectations run over the global batch.

    Args:
        embedding_dim: Channels, D, one bit each.
        entropy_weight: Weight of the entropy terms.
        diversity_weight: Weight of the batch's entropy within them.
        commitment_weight: Weight of the commitment loss.
        temperature: Temperature of q(c|z); the sign is a sigmoid of 4 z / temperature.
        group_size: Channels per group of the batch's entropy; memory grows with 2^group_size.

    Shape:
        input (B, D, *spatial); quantized (B, D, *spatial) of -1 and 1; indices (B, *spatial) int64 in [0, 2^D), bit i
        set where channel i is positive.

    Raises:
        UserError: If a number is out of range.

    Example:
        >>> lfq = LookupFree(10)
        >>> out = lfq(torch.randn(2, 10, 8, 8))
        >>> lfq.num_embeddings, torch.equal(lfq.decode(out.indices), out.quantized), sorted(out.terms)
        (1024, True, ['batch_entropy', 'commitment_loss', 'sample_entropy'])
    """

    residual_gain = 2.0  # the next bit of a binary fraction

    def __init__(
        self,
        embedding_dim: int = 10,
        entropy_weight: float = 0.1,
        diversity_weight: float = 1.0,
        commitment_weight: float = 0.25,
        temperature: float = 1.0,
        group_size: int = 8,
    ) -> None:
        super().__init__()
        check_sizes(embedding_dim=embedding_dim, group_size=group_size)
        if embedding_dim > 62:
            raise UserError(
                f"embedding_dim {embedding_dim} makes more codes than an int64 index holds: "
                "set at most 62, or wrap a smaller one in a ProductQuantizer"
            )
        if group_size > 16:
            raise UserError(f"group_size {group_size} needs 2^{group_size} probabilities per vector: set at most 16")
        check_weight("entropy_weight", entropy_weight, "0.1 is usual")
        check_weight("diversity_weight", diversity_weight, "1 is usual")
        check_weight("commitment_weight", commitment_weight, "0.25 is usual")
        check_positive("temperature", temperature, "1 is usual")
        self.embedding_dim, self.num_embeddings = embedding_dim, 2**embedding_dim
        self.entropy_weight, self.diversity_weight = entropy_weight, diversity_weight
        self.commitment_weight, self.temperature = commitment_weight, temperature
        self.num_groups = math.ceil(embedding_dim / group_size)
        self.scale = 1.0

    def quantize(self, rows: Tensor) -> QuantizerOutput:
        """Take the signs of ``rows`` (N, D)."""
        bits = rows.detach() > 0
        codes = self._codes(bits, rows.dtype)
        indices = (bits.long() << torch.arange(self.embedding_dim, device=rows.device)).sum(1)
        commitment = F.mse_loss(rows, codes)
        sample_entropy, batch_entropy = self._entropies(rows)
        loss = self.entropy_weight * (sample_entropy - self.diversity_weight * batch_entropy)
        terms = {"commitment_loss": commitment, "sample_entropy": sample_entropy, "batch_entropy": batch_entropy}
        return QuantizerOutput(
            self.estimate(rows, codes),
            indices,
            loss + self.commitment_weight * commitment,
            {name: term.detach() for name, term in terms.items()},
        )

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (..., D) of ``indices`` (...)."""
        bits = indices[..., None] >> torch.arange(self.embedding_dim, device=indices.device) & 1
        return self._codes(bits.bool(), float_dtype())

    def _codes(self, bits: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.where(bits, self.scale, -self.scale).to(dtype)

    def _entropies(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[H(q(c|z))] and the sum over groups of H(E[q(c_group|z)]), in nats."""
        logits = 4 * self.scale / self.temperature * rows  # |z + s|^2 - |z - s|^2 = 4 s z
        per_bit = F.softplus(logits) - logits * logits.sigmoid()  # entropy of a Bernoulli variable by its logit
        batch_entropy = rows.new_zeros(())
        for group in torch.where(finite_rows(logits), logits, 0).tensor_split(self.num_groups, 1):
            sums = in_chunks(lambda block: (_joint(block).sum(0),), 2 ** group.shape[1], group)
            probs = (
                torch.stack([block for (block,) in sums]).sum(0) / rows.shape[0]
            )  # no len(): torch.export would fix the number
            batch_entropy = batch_entropy + entropy(mean_over_ranks(probs) if self.training else probs)
        return per_bit.sum(1).mean(), batch_entropy


class BinarySpherical(LookupFree):
    """Normalise, then keep the signs: codes with entries +-1/sqrt(D) on the unit sphere (BSQ, arXiv:2406.07548).

    Zhao et al. 2024, section 4.1: as :class:`LookupFree`, but the distance between a vector and its code is bounded, so
    that no commitment loss is needed.

    Args:
        embedding_dim: Channels, D, one bit each.
        entropy_weight: Weight of the entropy terms.
        diversity_weight: Weight of the batch's entropy within them (gamma in the paper).
        commitment_weight: Weight of the commitment loss.
        temperature: Temperature of q(c|z) (1 / tau in the paper).
        group_size: Channels per group of the batch's entropy.

    Shape:
        As of :class:`LookupFree`; quantized has entries +-1/sqrt(D).

    Raises:
        UserError: If a number is out of range.

    Example:
        >>> bsq = BinarySpherical(16)
        >>> bsq(torch.randn(2, 16, 8, 8)).quantized.norm(dim=1).unique().tolist()
        [1.0]
    """

    def __init__(
        self,
        embedding_dim: int = 10,
        entropy_weight: float = 0.1,
        diversity_weight: float = 1.0,
        commitment_weight: float = 0.0,
        temperature: float = 1.0,
        group_size: int = 8,
    ) -> None:
        super().__init__(embedding_dim, entropy_weight, diversity_weight, commitment_weight, temperature, group_size)
        self.scale = 1 / math.sqrt(embedding_dim)

    def bound(self, rows: Tensor) -> Tensor:
        """Normalise ``rows`` (N, D) to length 1."""
        return unit(rows)


def _joint(logits: Tensor) -> Tensor:
    """Return the probabilities (N, 2^g) of all settings of g independent bits with ``logits`` (N, g)."""
    probs = torch.ones_like(logits[:, :1])
    for bit in logits.unbind(1):
        set_, unset = bit.sigmoid()[:, None], (-bit).sigmoid()[:, None]
        probs = torch.cat([probs * unset, probs * set_], 1)  # the lowest bit varies fastest
    return probs
