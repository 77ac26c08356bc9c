"""Matching of found topics with true ones."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class MatchedTopics:
    """Found topics matched with true ones."""

    index: np.ndarray  # (K,) int64, the found topic of each true one, all different
    cosine: np.ndarray  # (K,) float64, their cosine similarity


def matched_topics(found: Tensor | np.ndarray, true: Tensor | np.ndarray) -> MatchedTopics:
    """Assign found topics (K', V), K' >= K, to true ones (K, V) so that the sum of the cosines is largest."""
    found, true = (torch.as_tensor(topics).detach().cpu().double() for topics in (found, true))
    unit_found, unit_true = (torch.nn.functional.normalize(topics, dim=1) for topics in (found, true))
    cosine = (unit_true @ unit_found.T).numpy()
    rows, index = linear_sum_assignment(cosine, maximize=True)
    return MatchedTopics(index, cosine[rows, index])
