"""Windows of signals, their standardisation, and the generated ECG."""

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data.signals.base import SignalDataModule, Windows
from vqlab.data.signals.ecg import ECG, ecg, heartbeat


class Ramps(SignalDataModule):
    """Two channels: a ramp in units of its own, and one that is flat for a while."""

    channels, sample_rate = 2, 1.0

    def __init__(self, **common):
        super().__init__(**{"length": 10, "batch_size": 4, **common})
        time = torch.arange(100.0)
        self.records = [torch.stack([5 + 3 * time + k, (time - 50).clamp_min(0)]) for k in range(3)]
        self.train_size = 30

    def load_train_val(self):
        return tuple(Windows(records, self.length, self.stride) for records in (self.records, self.records[:1]))


def every(data):
    return torch.cat([batch["signal"] for batch in data.train_dataloader()])


def test_windows_stay_within_their_record():
    data = Windows([torch.full((1, n), float(k)) for k, n in enumerate((25, 9, 10))], length=10, stride=5)
    assert data.starts.tolist() == [[0, 0], [0, 5], [0, 10], [0, 15], [2, 0]]
    assert data.__getitems__([4, 0])["signal"][:, 0].unique(dim=1).flatten().tolist() == [2.0, 0.0]
    assert data[3]["index"] == 3


def test_each_window_gets_mean_0_and_spread_1_and_what_is_flat_stays_flat():
    x = every(Ramps())
    torch.testing.assert_close(x.mean(-1), torch.zeros(len(x), 2), atol=1e-5, rtol=0)
    spread = x.square().mean(-1).sqrt()
    torch.testing.assert_close(spread[:, 0], torch.ones(len(x)))
    assert set(spread[:, 1].round().tolist()) == {0.0, 1.0}
    assert x.abs().max() < 4


def test_the_data_set_gets_mean_0_and_spread_1():
    data = Ramps(standardize="dataset", batch_size=30)
    x = every(data)
    torch.testing.assert_close(x.mean((0, 2)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.square().mean((0, 2)), torch.ones(2), atol=1e-3, rtol=0)
    mean, spread = data.statistics
    raw = every(Ramps(standardize="none", batch_size=30))
    torch.testing.assert_close(x.sort(0)[0], ((raw - mean) / spread).sort(0)[0], atol=1e-4, rtol=1e-4)


def test_the_ecg_is_the_same_from_the_same_seed_and_differs_from_person_to_person():
    one, other = ECG(num_records=10, seconds=20, length=500), ECG(num_records=10, seconds=20, length=500)
    for data in (one, other):
        data.setup()
    assert len(one._train_val[0]) == one.train_size == 8 * 4
    splits = [*one._train_val, one._test]
    assert all(torch.equal(a, b) for a, b in zip(splits[0].records, other._train_val[0].records, strict=True))
    people = torch.cat([record for split in splits for record in split.records])
    assert len(people) == 10
    assert (torch.corrcoef(people) - torch.eye(10)).abs().max() < 0.95
    assert not torch.equal(people[0], ECG(num_records=10, seconds=20, length=500, seed=1).load_test().records[0][0])


def test_beats_come_at_human_rates_and_stand_out_by_a_millivolt():
    for person in range(20):
        peaks, intervals, _ = heartbeat(60, np.random.default_rng(person))
        assert 35 < 60 / np.median(intervals) < 150
        assert np.allclose(np.diff(peaks), intervals[1:])
        signal = ecg(6000, 100.0, 0.0, (person,))
        assert 0.3 < np.ptp(signal) < 4
        assert len([p for p in peaks if 1 < p < 58]) > 30


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"stride": 0}, "stride must be at least 1 or None, got 0"),
        ({"standardize": "minmax"}, "standardize must be one of signal, dataset, none, got 'minmax'"),
        ({"num_records": 3}, "num_records must be at least 10, got 3"),
        ({"sample_rate": 10}, "sample_rate must be at least 50, got 10"),
        ({"noise": -1}, "noise must be at least 0, got -1"),
        ({"seconds": 3, "length": 512}, "seconds must be at least 5.12 for a window of 512 samples, got 3"),
    ],
)
def test_arguments(options, line):
    with refused(line):
        ECG(**options)


def test_training_data_that_are_refused():
    data = Ramps()
    data.records = [torch.stack([record[0], torch.ones(100)]) for record in data.records]
    with refused("channel 1", "constant"):
        data.train_dataloader()
    with refused("16 training windows"):
        ECG(num_records=10, seconds=10.24, length=512).setup("fit")
