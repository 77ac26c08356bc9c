"""How much the distribution of codes depends on position and class, which a prior without context must know."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from vqlab.validation import Checked, Count, NonNegativeInt

MAX_COUNTS = 2**24  # histograms above this are not worth their memory, 128 MiB of int64


class CodeStatistics(Checked, Metric):
    """Histograms of the codes by position and by class, and their divergence.

    ``js_position`` is the generalised Jensen-Shannon divergence of the positions' distributions p_g in bits,
    JS = H(mean_g p_g) - mean_g H(p_g): 0 where all are equal, log2 P where no two share a code. ``js_class`` is that
    of the classes.

    ``chance_js_position`` and ``chance_js_class`` are what finite histograms give by chance alone, see
    :func:`chance_divergence`; codes within an image are not independent, so classes differ more by chance than that.

    ``top_k_overlap`` is the fraction of their ``top_k`` most frequent codes that two classes share, averaged over all
    pairs of classes; ties go to the smaller index, and codes that a class never used are not among them. Positions and
    classes without any code are left out. Negative indices do not count.

    Args:
        num_embeddings: Number of codes, K.
        num_positions: Number of codes of an image, P.
        num_classes: Number of classes, C; 0 leaves out the metrics of classes.
        top_k: Codes of a class that are compared; more than K leaves out ``top_k_overlap``.

    Example:
        >>> statistics = CodeStatistics(4, num_positions=2, num_classes=2, top_k=2)
        >>> statistics.update(torch.tensor([[0, 1], [0, 1], [0, 2]]), torch.tensor([0, 1, -1]))
        >>> {name: round(value.item(), 3) for name, value in statistics.compute().items() if "chance" not in name}
        {'js_position': 1.0, 'js_class': 0.0, 'top_k_overlap': 1.0}
    """

    full_state_update = False
    position_counts: Tensor
    class_counts: Tensor

    def __init__(
        self, num_embeddings: Count, num_positions: Count, num_classes: NonNegativeInt = 0, top_k: Count = 16
    ) -> None:
        super().__init__()
        self.num_embeddings, self.num_positions = num_embeddings, num_positions
        self.num_classes, self.top_k = num_classes, top_k
        zeros = torch.zeros(num_positions, num_embeddings, dtype=torch.int64)
        self.add_state("position_counts", zeros, dist_reduce_fx="sum")
        if num_classes:
            zeros = torch.zeros(num_classes, num_embeddings, dtype=torch.int64)
            self.add_state("class_counts", zeros, dist_reduce_fx="sum")

    def update(self, indices: Tensor, label: Tensor) -> None:
        """Count ``indices`` (B, P) int64 in [0, K) of images with ``label`` (B,) int64 in [0, C), -1 where unknown."""
        places = torch.arange(self.num_positions, device=indices.device)
        # Not in place: `reset` inside Trainer.validate makes an inference tensor, which a later fit may not change.
        if self.num_classes:
            self.class_counts = self.class_counts + histograms(label[:, None], indices, self.class_counts)
        self.position_counts = self.position_counts + histograms(places, indices, self.position_counts)

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name; 0 where fewer than two positions or classes have codes."""
        figures = {
            "js_position": divergence(self.position_counts),
            "chance_js_position": chance_divergence(self.position_counts),
        }
        if self.num_classes:
            figures["js_class"] = divergence(self.class_counts)
            figures["chance_js_class"] = chance_divergence(self.class_counts)
            if self.top_k <= self.num_embeddings:
                figures["top_k_overlap"] = top_k_overlap(self.class_counts, self.top_k)
        return {name: value.float() for name, value in figures.items()}


def histograms(group: Tensor, code: Tensor, like: Tensor) -> Tensor:
    """Count each ``code`` in its ``group``, both int64 of shapes that broadcast: (G, K) int64; negative ones do not."""
    counts = like.new_zeros(like.shape[0] + 1, like.shape[1] + 1)  # row and column 0 collect negative ones
    where = (group + 1).clamp_min(0), (code + 1).clamp_min(0)
    counts.index_put_(where, counts.new_ones(()), accumulate=True)  # bincount would wait for the GPU
    return counts[1:, 1:]


def divergence(counts: Tensor) -> Tensor:
    """Return the generalised Jensen-Shannon divergence of histograms (G, K) in bits, without the empty ones."""
    sizes = counts.sum(1, keepdim=True)
    # In float64: the divergence is a small difference of large entropies.
    probs = counts.double() / sizes.clamp_min(1)
    weights = (sizes > 0).double() / (sizes > 0).sum().clamp_min(1)
    entropies = [-torch.special.xlogy(p, p).sum(-1) / math.log(2) for p in (probs, (weights * probs).sum(0))]
    return (entropies[1] - (weights[:, 0] * entropies[0]).sum()).clamp_min(0)  # rounding


def chance_divergence(counts: Tensor) -> Tensor:
    """Return the expected :func:`divergence` in bits of histograms of one distribution, to first order.

    chance = (m - 1) / (2 ln 2) (1 - 1 / G) mean_g (1 / n_g) for G histograms of n_g codes, m of which are in use: the
    entropy of n codes falls short by (m - 1) / (2 n ln 2) bits on average (Miller 1955). Accurate to 15 % where each
    n_g is several times K, and meaningless below that.
    """
    sizes = counts.sum(1)
    groups = (sizes > 0).sum().clamp_min(1)
    spread = torch.where(sizes > 0, 1 / sizes.double(), 0).sum() / groups
    degrees = ((counts.sum(0) > 0).sum() - 1).clamp_min(0)
    return degrees * spread * (1 - 1 / groups) / (2 * math.log(2))


def top_k_overlap(counts: Tensor, top_k: int) -> Tensor:
    """Return the mean fraction of their ``top_k`` largest codes that two histograms of ``counts`` (G, K) share."""
    order = counts.sort(dim=1, descending=True, stable=True)
    members = (order.values[:, :top_k] > 0).long()
    # A code among the largest of c histograms is shared by c (c - 1) ordered pairs: no G x G table is needed.
    sharing = counts.new_zeros(counts.shape[1]).scatter_add_(0, order.indices[:, :top_k].flatten(), members.flatten())
    groups = (counts.sum(1) > 0).sum()
    pairs = (groups * (groups - 1)).clamp_min(1)
    return (sharing * (sharing - 1)).sum() / (pairs * top_k)
