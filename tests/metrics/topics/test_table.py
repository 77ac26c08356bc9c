"""Topics are placed by how unlike they are, and shown in one table."""

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon

from tests.helpers.a_topic_sheet import sheet
from vqlab.metrics.topics.table import topic_places


def test_three_topics_lie_at_their_jensen_shannon_distances():
    topics = torch.rand(3, 12, dtype=torch.float64).softmax(1)
    topics[0, :6] = 0  # log 0 does not occur
    topics /= topics.sum(1, keepdim=True)
    places = topic_places(topics)
    for i in range(3):
        for j in range(i):
            expected = jensenshannon(topics[i].numpy(), topics[j].numpy())
            np.testing.assert_allclose(np.linalg.norm(places[i] - places[j]), expected, rtol=1e-6)


def test_the_table_leaves_out_what_is_not_known():
    columns, rows = sheet().table()
    assert columns == ["topic", "documents", "npmi_doc", "words", "remark"]
    assert rows[1] == [0, 0, -0.5, "hat mat", "dominant in no document"]
    assert sheet(documents=None, coherence=None).table()[0] == ["topic", "words", "remark"]
