"""Signals from files: splits, gaps, rates, channels, left-out records and errors."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from tests.helpers.refusal import refused
from vqlab.data import Signals

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def folder(path, count=10, samples=100, channels=1):
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        # A ramp at a different level in each record, so that a window identifies its record.
        ramp = 1000 * number + np.arange(samples, dtype=np.float32)
        np.save(path / f"{number}.npy", np.stack([ramp + 0.25 * c for c in range(channels)]))
    return str(path)


def signals(path, **options):
    return Signals(path, **{"length": 20, "batch_size": 2, "standardize": "none", **options})


def windows(data, split):
    part = data.load_split(split)
    return part.__getitems__(list(range(len(part))))["signal"]


def sources(data, split):
    return {int(number) for number in (windows(data, split)[:, 0, 0] // 1000).tolist()}


def sizes(data):
    return [len(windows(data, split)) for split in ("train", "val", "test")]


def test_records_not_windows_are_split_by_seed(tmp_path):
    data = signals(folder(tmp_path, 20), val_fraction=0.2, test_fraction=0.3)
    parts = [sources(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [10, 4, 6]
    assert set.union(*parts) == set(range(20))
    assert len(windows(data, "train")) == data.train_size == 50
    for seed in (0, 1):
        again = signals(str(tmp_path), val_fraction=0.2, test_fraction=0.3, seed=seed)
        assert (sources(again, "test") == parts[2]) == (seed == 0)


def test_folders_give_the_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        folder(tmp_path / split, count)
    data = signals(str(tmp_path))
    assert (sources(data, "train"), sources(data, "val")) == ({0, 1, 2}, {0, 1})
    assert data.load_test() is None
    with refused("no test windows"):
        data.test_dataloader()
    folder(tmp_path / "test", 4)
    assert sources(signals(str(tmp_path)), "test") == {0, 1, 2, 3}


def test_path_accepts_a_list_of_files_and_folders(tmp_path):
    folder(tmp_path / "a", 2)
    folder(tmp_path / "b", 5)
    data = signals([str(tmp_path / "a"), str(tmp_path / "b" / "4.npy")], test_fraction=0)
    assert sources(data, "train") | sources(data, "val") == {0, 1, 4}
    for name, split in (("c", "train"), ("c", "test"), ("d", "train"), ("d", "valid")):
        folder(tmp_path / name / split, 3)
    assert sizes(signals([str(tmp_path / "c"), str(tmp_path / "d")])) == [30, 15, 15]
    with refused("path must name folders that all have the splits, or none of them"):
        signals([str(tmp_path / "a"), str(tmp_path / "c")])


def test_file_names_give_the_splits(tmp_path):
    for name, start in (("beats_train", 0), ("beats_test", 1000)):
        np.save(tmp_path / f"{name}.npy", start + noise(10, 1, 100))
    data = signals(str(tmp_path))
    assert sizes(data) == [45, 5, 50]
    assert windows(data, "train").max() < 500 < windows(data, "test").min()
    (tmp_path / "beats_train.npy").unlink()
    assert len(windows(signals(str(tmp_path)), "train")) == 40, "one name alone gives no splits"


def test_stride_and_picks(tmp_path):
    data = signals(folder(tmp_path, 3, samples=50, channels=3), stride=10, picks=[2, 0], seed=3)
    (number,) = sources(data, "train")
    starts = torch.arange(0, 31, 10) + 1000 * number
    assert torch.equal(windows(data, "train")[:, :, 0], torch.stack([starts + 0.5, starts], 1))


def test_windows_do_not_cross_gaps(tmp_path, caplog):
    x = np.arange(100, dtype=np.float32) * np.ones((2, 1), np.float32)
    x[0, 45:50] = np.nan
    x[1, 60] = np.nan
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", x)
    data = signals(str(tmp_path))
    assert windows(data, "train")[:, 1, 0].tolist() == [0, 20, 61]
    assert "18 samples with NaN in a channel, and 3 records or stretches" in caplog.text  # 50 to 59, in each


def test_sample_rate_applies_to_files_without_one(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=noise(1, 720), fs=360)
        np.save(tmp_path / f"{number + 3}.npy", noise(1, 360))
    data = signals(str(tmp_path), sample_rate=180, resample=180)
    assert data.sample_rate == 180
    assert sizes(data) == [4 * 18, 18, 18], "two seconds of each record"


def test_records_of_different_rates_need_resample(tmp_path):
    for number, rate in enumerate((100, 200, 200)):
        wavfile.write(tmp_path / f"{number}.wav", rate, noise(rate * 2))
    with refused("0.wav has 100", "1.wav 200", "resample=100"):
        signals(str(tmp_path))
    data = signals(str(tmp_path), resample=100)
    assert data.sample_rate == 100
    assert sizes(data) == [10, 10, 10]
    with refused("sample_rate must be that of the files, got 50", "0.wav has 100", "resample=50"):
        signals(str(tmp_path), sample_rate=50, resample=100)
    arrays = folder(tmp_path / "arrays")
    assert signals(arrays, sample_rate=50, resample=25).train_size == 16
    with refused("sample_rate must be given", "0.npy"):
        signals(arrays, resample=25)


def test_records_of_different_channels_need_picks(tmp_path):
    folder(tmp_path / "a", 2)
    folder(tmp_path / "b", 2, channels=2)
    with refused(f"0 in {tmp_path}/a/0.npy, 0, 1 in {tmp_path}/b/0.npy", "picks="):
        signals(str(tmp_path))
    assert signals(str(tmp_path), picks=[0], test_fraction=0).channels == 1
    with refused("no channel 2"):
        signals(str(tmp_path), picks=[0, 2])


def test_records_without_a_picked_channel_are_left_out(tmp_path, caplog):
    for number, header in enumerate(["MLII,V5", "MLII,V5", "MLII,V5", "V5,V2", "mlii,V5"]):
        (tmp_path / f"{number}.csv").write_text("\n".join([header, *(f"{t},{t % 7}" for t in range(40))]))
    assert sum(sizes(signals(str(tmp_path), picks=["MLII"]))) == 8
    assert f"left out 1 of 5 records: {tmp_path}/3.csv has no channel MLII, but V5, V2" in caplog.text


def test_records_with_a_constant_empty_or_infinite_channel_are_left_out(tmp_path, caplog):
    folder(tmp_path, 10, channels=2)
    for number, value in ((3, 5), (5, np.nan), (7, np.inf)):
        x = np.load(tmp_path / f"{number}.npy")
        x[1, 7 if value == np.inf else slice(None)] = value
        np.save(tmp_path / f"{number}.npy", x)
    data = signals(str(tmp_path))
    assert set.union(*(sources(data, split) for split in ("train", "val", "test"))) == {0, 1, 2, 4, 6, 8, 9}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("left out 3 of 10 records: ")
    for name, reason in (("3", "constant in"), ("5", "NaN throughout in"), ("7", "infinite in")):
        assert f"{name}.npy is {reason} channel 1" in line
    assert len(windows(signals(str(tmp_path), picks=[0], test_fraction=0), "train")) == 45, "the fault is in channel 1"
    np.save(tmp_path / "only.npy", np.full((1, 100), np.inf))
    with refused("no record can be used", "only.npy is infinite in channel 0 at sample 0"):
        signals(str(tmp_path / "only.npy"))


def test_records_shorter_than_a_window_are_left_out(tmp_path, caplog):
    with refused("length must fit into a record without a gap, got 500: set length=100"):
        signals(folder(tmp_path), length=500)
    folder(tmp_path / "long", 3, samples=600)
    signals(str(tmp_path), length=500)
    assert "10 records or stretches" in caplog.text


@pytest.mark.parametrize(
    ("count", "options", "line"),
    [
        (1, {}, "1 record(s) are too few"),
        (2, {}, "set test_fraction=0"),
        (5, {"val_fraction": 0}, "val_fraction must be in (0, 1), got 0"),
        (5, {"val_fraction": 0.5, "test_fraction": 0.5}, "no training records"),
        (5, {"sample_rate": 0}, "sample_rate must be above 0 or None, got 0"),
        (5, {"resample": float("nan")}, "resample must be above 0 or None, got nan"),
        (0, {}, "holds no signals (.npy, .npz, .csv, .wav, .hea)"),
        (0, {"path": "nowhere"}, "path must name a folder or files, but nowhere does not exist"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, count, options, line):
    with refused(line):
        signals(**{"path": folder(tmp_path, count), **options})
