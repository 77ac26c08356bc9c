"""Windows of signals, their standardisation, and the generated ECG."""

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data.signals.base import SignalDataModule, StretchedWindows, Windows
from vqlab.data.signals.ecg import ECG, ecg, heartbeats


class Ramps(SignalDataModule):
    """Two channels: a ramp, and one that is flat in the first half."""

    channels, sample_rate = 2, 1.0

    def __init__(self, **common):
        super().__init__(**{"length": 10, "batch_size": 4, **common})
        time = torch.arange(100.0)
        self.records = [torch.stack([5 + 3 * time + k, (time - 50).clamp_min(0)]) for k in range(3)]

    def load_train_val(self):
        return tuple(Windows(records, self.length, self.stride) for records in (self.records, self.records[:1]))


def train_windows(data):
    return torch.cat([batch["signal"] for batch in data.train_dataloader()])


def test_windows_do_not_cross_record_boundaries():
    data = Windows([torch.full((1, n), float(k)) for k, n in enumerate((25, 9, 10))], length=10, stride=5)
    assert data.starts.tolist() == [[0, 0], [0, 5], [0, 10], [0, 15], [2, 0]]
    assert data.__getitems__([4, 0])["signal"][:, 0].unique(dim=1).flatten().tolist() == [2.0, 0.0]
    assert data[3]["index"] == 3


def test_standardisation_by_window_gives_mean_0_and_std_1_but_keeps_flat_windows_flat():
    x = train_windows(Ramps())
    torch.testing.assert_close(x.mean(-1), torch.zeros(len(x), 2), atol=1e-5, rtol=0)
    spread = x.square().mean(-1).sqrt()
    torch.testing.assert_close(spread[:, 0], torch.ones(len(x)))
    assert set(spread[:, 1].round().tolist()) == {0.0, 1.0}
    assert x.abs().max() < 4


def test_standardisation_by_dataset_gives_mean_0_and_std_1():
    data = Ramps(standardize="dataset", batch_size=30)
    x = train_windows(data)
    torch.testing.assert_close(x.mean((0, 2)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.square().mean((0, 2)), torch.ones(2), atol=1e-3, rtol=0)
    mean, spread = data.statistics
    raw = train_windows(Ramps(standardize="none", batch_size=30))
    torch.testing.assert_close(x.sort(0)[0], ((raw - mean) / spread).sort(0)[0], atol=1e-4, rtol=1e-4)


def test_augmented_windows_are_stretched_negated_pieces_of_their_records():
    records = [torch.stack([torch.linspace(1, 2, 300), torch.linspace(3, 5, 300)])]
    windows = Windows(records, length=40, stride=20)
    data = StretchedWindows(windows, seed=0)
    assert len(data) == len(windows)
    positions = torch.arange(20 * len(data))
    batch = data.__getitems__(positions.tolist())
    x = batch["signal"]
    assert torch.equal(batch["index"], positions % len(data))
    signs = x[:, :, :1].sign()
    assert torch.equal(signs[:, 0], signs[:, 1])
    assert 0.4 < (signs[:, 0] > 0).float().mean() < 0.6
    slopes = (x * signs).diff(dim=2)
    inner = slopes[:, :, 3:-3]  # cubic interpolation of a line is a line, except near the ends of the record
    torch.testing.assert_close(inner, inner.mean(2, keepdim=True).expand_as(inner), atol=1e-4, rtol=0)
    torch.testing.assert_close(inner[:, 1], 2 * inner[:, 0], atol=2e-4, rtol=0)
    stretch = inner[:, 0].mean(1) * 299
    assert 0.77 < stretch.min() < 0.82
    assert 1.19 < stretch.max() < 1.26
    starts = ((x * signs)[:, 0, 0] - 1) * 299
    away = starts - windows.starts[batch["index"], 1]
    assert away.min() < -15
    assert away.max() > 15
    assert away.abs().max() < 31


def test_augmentation_depends_on_seed_and_epoch_and_keeps_validation_as_it_is():
    def epochs(seed=0, **options):
        loader = Ramps(augment=True, seed=seed, standardize="none", **options).train_dataloader()
        for epoch in (0, 1, 0):
            loader.sampler.set_epoch(epoch)
            yield [*loader]

    first, second, again = (
        torch.cat([batch["signal"][batch["index"].argsort()] for batch in epoch]) for epoch in epochs()
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat([b["signal"][b["index"].argsort()] for b in next(epochs(num_workers=1))]))
    assert not torch.equal(first, torch.cat([b["signal"][b["index"].argsort()] for b in next(epochs(seed=1))]))
    plain, augmented = Ramps(), Ramps(augment=True)
    for one, other in zip(plain.val_dataloader(), augmented.val_dataloader(), strict=True):
        assert torch.equal(one["signal"], other["signal"])
    assert torch.equal(plain.statistics[0], augmented.statistics[0])


def test_records_as_short_as_a_window_are_not_stretched_beyond_their_ends():
    data = StretchedWindows(Windows([torch.linspace(0, 1, 40)[None]], length=40, stride=40), seed=0)
    x = data.__getitems__([*range(100)])["signal"].abs()
    assert x.min() >= -0.01
    assert x.max() <= 1.01
    assert x.isfinite().all()


def test_ecg_depends_on_the_seed_and_differs_between_persons():
    options = {"num_records": 10, "seconds": 20, "length": 500}
    one, same, other = ECG(**options), ECG(**options), ECG(**options, seed=1)
    train = one.load_split("train")
    assert len(train) == one.train_size == 8 * 4
    splits = [one.load_split(split) for split in ("train", "val", "test")]
    assert all(torch.equal(a, b) for a, b in zip(train.records, same.load_split("train").records, strict=True))
    persons = torch.cat([record for split in splits for record in split.records])
    assert len(persons) == 10
    assert (torch.corrcoef(persons) - torch.eye(10)).abs().max() < 0.95
    assert not torch.equal(train.records[0], other.load_split("train").records[0])


def test_leads_show_the_same_beats():
    options = {"num_records": 10, "seconds": 20, "length": 500}
    one, three = ECG(**options), ECG(**options, leads=3)
    assert (one.channels, three.channels, three.channel_names) == (1, 3, ["II", "V1", "V5"])
    for single, several in zip(one.load_split("train").records, three.load_split("train").records, strict=True):
        assert torch.equal(several[:1], single)
    second, first, fifth = ecg(3000, 100.0, 0.0, (0,), ["II", "V1", "V5"])  # without noise
    assert np.corrcoef(second, fifth)[0, 1] > 0.9
    assert 0.3 < fifth.max() / second.max() / 1.3 < 1.1
    assert abs(first.min()) > abs(second.min())  # the S wave of V1 is deep


def test_ecg_has_human_heart_rates_and_amplitudes():
    for person in range(20):
        peaks, intervals, _ = map(np.array, zip(*heartbeats(60, np.random.default_rng(person)), strict=True))
        assert 35 < 60 / np.median(intervals) < 150
        assert np.allclose(np.diff(peaks), intervals[1:])
        assert 0.3 < np.ptp(ecg(6000, 100.0, 0.0, (person,), ["II"])) < 4
        assert ((peaks > 1) & (peaks < 58)).sum() > 30


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"stride": 0}, "stride must be at least 1 or None, got 0"),
        ({"standardize": "minmax"}, "standardize must be one of signal, dataset, none, got 'minmax'"),
        ({"num_records": 3}, "num_records must be at least 10, got 3"),
        ({"sample_rate": 10}, "sample_rate must be at least 50, got 10"),
        ({"noise": -1}, "noise must be at least 0, got -1"),
        ({"leads": 4}, "leads must be in [1, 3], got 4"),
        ({"seconds": 3, "length": 512}, "seconds must be at least 5.12 for a window of 512 samples, got 3"),
        ({"num_records": 10, "seconds": 10.24, "length": 512}, "16 training windows"),
    ],
)
def test_invalid_arguments_are_refused(options, line):
    with refused(line):
        ECG(**options).setup("fit")


def test_constant_channel_is_refused():
    data = Ramps()
    data.records = [torch.stack([record[0], torch.ones(100)]) for record in data.records]
    with refused("channel 1 is constant in all training windows"):
        data.train_dataloader()
