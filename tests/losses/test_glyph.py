"""Total variation against loops, and the two ways to balance generator and discriminator."""

import pytest
import torch

from tests.helpers.two_ranks import on_two_ranks
from vqlab.losses.glyph import eased, is_ahead, total_variation


def test_total_variation_equals_loops_over_neighbours():
    x = torch.randn(2, 1, 5, 7, dtype=torch.float64)
    rows = [abs(x[b, 0, i + 1, j] - x[b, 0, i, j]).item() for b in range(2) for i in range(4) for j in range(7)]
    columns = [abs(x[b, 0, i, j + 1] - x[b, 0, i, j]).item() for b in range(2) for i in range(5) for j in range(6)]
    expected = sum(rows) / len(rows) + sum(columns) / len(columns)
    assert total_variation(x).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("confidence", "factor"),
    # The discriminator's loss is 2 ln(1 + e^-confidence): 0.0049, 0.053, 0.097, 0.25, 1.39 and 8.0.
    [(6.0, 0.2 / 0.6), (3.6, 0.35 / 0.6), (3.0, 0.5 / 0.6), (2.0, 1.0), (0.0, 1.0), (-4.0, 0.05 / 0.6)],
)
def test_the_adversarial_weight_is_lower_for_a_confident_or_failing_discriminator(confidence, factor):
    real, fake = torch.full((3, 1, 2, 2), confidence), torch.full((5, 1, 2, 2), -confidence)
    assert eased(real, fake).item() == pytest.approx(factor)


@pytest.mark.parametrize(("passed", "caught", "waits"), [(0.95, 0.91, True), (1.0, 0.9, False), (0.5, 1.0, False)])
def test_a_discriminator_is_ahead_if_it_is_accurate_on_both_sides(passed, caught, waits):
    assert is_ahead(torch.tensor(passed), torch.tensor(caught)) == waits


def test_two_ranks_decide_as_one(tmp_path):
    confidence = torch.tensor(
        [9.0, 0.0]
    )  # the first rank's discriminator is confident, the second's is at chance: 0.70 in all

    def work(rank):
        logits = confidence[rank].expand(4)
        factor = eased(logits, -logits)
        return {"factor": factor, "waits": is_ahead(torch.tensor(1.0 - 0.3 * rank), torch.tensor(1.0))}

    first, second = on_two_ranks(work, tmp_path)
    assert first == second == {"factor": torch.tensor(1.0), "waits": False}
