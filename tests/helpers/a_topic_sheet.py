"""Two topics to show."""

import numpy as np

from vqlab.metrics.topics.words import TopicTable


def sheet(**changes):
    usual = {
        "numbers": [1, 0],
        "words": [["<b>", "cat"], ["hat", "mat"]],
        "shares": np.array([[0.5, 0.2], [0.4, 0.1]]),
        "documents": [3, 0],
        "coherence": [0.25, -0.5],
        "remarks": ["", "dominant in no document"],
        "places": np.array([[0.0, 1.0], [0.0, -1.0]]),
    }
    return TopicTable(**{**usual, **changes})
