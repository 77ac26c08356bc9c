"""The contingency table against a loop, and NMI against scikit-learn's."""

import secrets
from collections import Counter

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from vqlab.metrics import TopicClusters


def draw(num_documents, num_topics, num_classes, seed):
    """Proportions that depend on the label, a tenth of which is unknown."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(num_classes, (num_documents,), generator=generator)
    theta = torch.rand(num_documents, num_topics, generator=generator)
    theta[torch.arange(num_documents), label % num_topics] += 0.5
    label[torch.rand(num_documents, generator=generator) < 0.1] = -1
    return theta / theta.sum(1, keepdim=True), label


def filled(theta, label, num_classes, batch=7):
    clusters = TopicClusters(theta.shape[1], num_classes)
    for part, names in zip(theta.split(batch), label.split(batch), strict=True):
        clusters.update(part, names)
    return clusters


@pytest.mark.parametrize(("num_topics", "num_classes"), [(5, 3), (3, 8), (20, 20), (1, 4)])
def test_clusters_equal_loops_and_scikit_learn(num_topics, num_classes):
    seed = secrets.randbelow(2**31)
    theta, label = draw(200, num_topics, num_classes, seed)
    clusters = filled(theta, label, num_classes)
    topics, labels = [max(range(num_topics), key=row.__getitem__) for row in theta.tolist()], label.tolist()
    pairs = Counter(zip(topics, labels, strict=True))
    for topic in range(num_topics):
        assert clusters.counts[topic].tolist() == [pairs[topic, c] for c in range(-1, num_classes)]

    known = [(t, c) for t, c in zip(topics, labels, strict=True) if c >= 0]
    most = [max(Counter(c for t, c in known if t == topic).values(), default=0) for topic in range(num_topics)]
    expected = {"topic_usage": len(set(topics)) / num_topics, "purity": sum(most) / len(known)}
    expected["nmi"] = normalized_mutual_info_score([c for _, c in known], [t for t, _ in known])
    found = {name: value.item() for name, value in clusters.compute().items()}
    assert found == pytest.approx(expected, abs=1e-6), seed


def test_clusters_without_labels():
    theta, label = draw(50, 8, 3, seed=0)
    clusters = filled(theta, label, num_classes=0)  # ignores labels
    assert clusters.compute().keys() == {"topic_usage"}
    labelled = filled(theta, torch.full_like(label, -1), num_classes=3)
    found = {name: value.item() for name, value in labelled.compute().items()}
    assert found == {"topic_usage": clusters.compute()["topic_usage"].item(), "nmi": 0, "purity": 0}
    assert filled(torch.ones(5, 1), torch.zeros(5, dtype=torch.int64), num_classes=1).compute()["nmi"] == 0
