"""Total variation against loops, and the two ways to balance a game."""

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
    ("surety", "share"),
    # The discriminator's loss is 2 ln(1 + e^-surety): 0.0049, 0.053, 0.097, 0.25, 1.39 and 8.0.
    [(6.0, 0.2 / 0.6), (3.6, 0.35 / 0.6), (3.0, 0.5 / 0.6), (2.0, 1.0), (0.0, 1.0), (-4.0, 0.05 / 0.6)],
)
def test_a_generator_feels_less_of_a_discriminator_that_is_sure_or_blind(surety, share):
    real, fake = torch.full((3, 1, 2, 2), surety), torch.full((5, 1, 2, 2), -surety)
    assert eased(real, fake).item() == pytest.approx(share)


@pytest.mark.parametrize(("passed", "caught", "waits"), [(0.95, 0.91, True), (1.0, 0.9, False), (0.5, 1.0, False)])
def test_a_discriminator_waits_that_is_right_about_both_sides(passed, caught, waits):
    assert is_ahead(torch.tensor(passed), torch.tensor(caught)) == waits


def test_two_ranks_decide_as_one(tmp_path):
    surety = torch.tensor([9.0, 0.0])  # the first rank's discriminator is sure, the second's is not: 0.70 in all

    def work(rank):
        logits = surety[rank].expand(4)
        felt = eased(logits, -logits)
        return {"felt": felt, "waits": is_ahead(torch.tensor(1.0 - 0.3 * rank), torch.tensor(1.0))}

    first, second = on_two_ranks(work, tmp_path)
    assert first == second == {"felt": torch.tensor(1.0), "waits": False}
