"""Signals from files: what is read, cut, resampled and split, and what is refused."""

import numpy as np
import pytest
import torch
import wfdb
from scipy.io import wavfile

from tests.helpers.refusal import refused
from vqlab.data.signals.files import Signals, find_files
from vqlab.data.signals.records import read_records
from vqlab.data.signals.resampling import change_rate, finite_runs

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def folder(path, count=10, samples=100, channels=1):
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        # Each record is a ramp of its own height, so a window tells where it comes from.
        ramp = 1000 * number + np.arange(samples, dtype=np.float32)
        np.save(path / f"{number}.npy", np.stack([ramp + 0.25 * c for c in range(channels)]))
    return str(path)


def signals(path, **options):
    return Signals(path, **{"length": 20, "batch_size": 2, "standardize": "none", **options})


def windows(data, split):
    data.setup()
    part = {"train": data._train_val[0], "val": data._train_val[1], "test": data._test}[split]
    return part.__getitems__(list(range(len(part))))["signal"]


def sources(data, split):
    return {int(number) for number in (windows(data, split)[:, 0, 0] // 1000).tolist()}


# Files


def test_arrays(tmp_path):
    x = noise(3, 4, 50)
    np.save(tmp_path / "x.npy", x)
    assert [r.signal.shape for r in read_records(tmp_path / "x.npy")] == [(4, 50)] * 3
    (first, *_) = read_records(tmp_path / "x.npy", axes="n t c")
    assert np.array_equal(first.signal, x[0].T)
    assert first.name.endswith("x.npy[0]")
    np.save(tmp_path / "whole.npy", np.arange(5, dtype=np.int16))
    (record,) = read_records(tmp_path / "whole.npy")
    assert record.signal.tolist() == [[0, 1, 2, 3, 4]]
    assert (record.signal.dtype, record.sample_rate, record.channels) == (np.float32, None, ["0"])


def test_archives(tmp_path):
    np.savez(tmp_path / "one.npz", x=noise(2, 30), fs=360)
    (record,) = read_records(tmp_path / "one.npz")
    assert (record.signal.shape, record.sample_rate) == ((2, 30), 360.0)
    np.savez(tmp_path / "two.npz", x=noise(30), peaks=np.arange(3))
    assert read_records(tmp_path / "two.npz", array="x")[0].signal.shape == (1, 30)
    with refused("arrays x, peaks", "--data.array"):
        read_records(tmp_path / "two.npz")
    with refused("no array y", "x, peaks"):
        read_records(tmp_path / "two.npz", array="y")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_with_names_and_gaps(tmp_path, separator):
    rows = ["II,V5", "1,2", ",3", "-4e-1, 5 ", "nan,6"]
    (tmp_path / "a.csv").write_text("\n".join(row.replace(",", separator) for row in rows))
    (record,) = read_records(tmp_path / "a.csv")
    assert record.channels == ["II", "V5"]
    np.testing.assert_array_equal(record.signal, np.float32([[1, np.nan, -0.4, np.nan], [2, 3, 5, 6]]))
    (tmp_path / "b.csv").write_text("\ufeff1\n2\n3\n")
    (record,) = read_records(tmp_path / "b.csv")
    assert record.signal.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("dtype", "top", "step"),
    [
        (np.uint8, 128, 1 / 128),
        (np.int16, 2**15, 1 / 2**15),
        (np.int32, 2**31, 1e-7),
        (np.float32, 1, 1e-7),
        (np.float64, 1, 1e-7),
    ],
)
def test_wav(tmp_path, dtype, top, step):
    x = np.clip(noise(50, 2) / 4, -0.9, 0.9)
    wavfile.write(tmp_path / "x.wav", 8000, (x * top + (top if dtype == np.uint8 else 0)).astype(dtype))
    (record,) = read_records(tmp_path / "x.wav")
    assert record.sample_rate == 8000
    np.testing.assert_allclose(record.signal, x.T, atol=1.01 * step)


def test_wfdb(tmp_path):
    x = noise(200, 2)
    x[50:60, 0] = np.nan
    options = {"fs": 360, "units": ["mV", "mV"], "sig_name": ["MLII", "V5"], "fmt": ["16", "16"]}
    wfdb.wrsamp("100", p_signal=x, write_dir=str(tmp_path), **options)
    (record,) = read_records(tmp_path / "100.hea")
    assert (record.sample_rate, record.channels) == (360.0, ["MLII", "V5"])
    np.testing.assert_allclose(record.signal, x.T, atol=1e-3)  # the gap is NaN again
    wfdb.wrsamp("101", p_signal=noise(200, 2), write_dir=str(tmp_path), **options)
    data = signals(str(tmp_path), picks=["V5"], test_fraction=0, val_fraction=0.5)
    assert (data.sample_rate, data.channels, data.train_size) == (360.0, 1, 10)


def test_channels_of_a_record_come_to_the_highest_rate(tmp_path):
    time = np.arange(4000) / 500
    fast, slow = np.sin(2 * np.pi * 60 * time), np.cos(2 * np.pi * np.arange(1000) / 125)
    slow[500:510] = np.nan
    wfdb.wrsamp(
        "a", fs=125, units=["mV", "mmHg"], sig_name=["II", "ABP"], e_p_signal=[fast, slow], samps_per_frame=[4, 1],
        fmt=["16", "16"], write_dir=str(tmp_path),
    )  # fmt: skip
    (record,) = read_records(tmp_path / "a.hea")
    assert (record.sample_rate, record.signal.shape) == (500.0, (2, 4000))
    np.testing.assert_allclose(record.signal[0], fast, atol=1e-3)
    known = ~np.isnan(record.signal[1])
    assert np.flatnonzero(~known).tolist() == list(range(1997, 2040))
    calm = known.copy()
    calm[:100] = calm[1900:2140] = calm[-100:] = False
    np.testing.assert_allclose(record.signal[1][calm], np.cos(2 * np.pi * time)[calm], atol=5e-3)
    (record,) = read_records(tmp_path / "a.hea", picks=["ABP"])
    assert (record.sample_rate, record.signal.shape) == (125.0, (1, 1000))
    np.testing.assert_allclose(record.signal[0], slow, atol=1e-3)
    (record,) = read_records(tmp_path / "a.hea", picks=["ii"])
    assert (record.sample_rate, record.signal.shape) == (500.0, (1, 4000))


def segments(path, header, **options):
    parts = {name: noise(length, 1) for name, length in (("a", 60), ("b", 40))}
    for name, part in parts.items():
        wfdb.wrsamp(name, fs=100, units=["mV"], sig_name=["I"], fmt=["16"], p_signal=part, write_dir=str(path))
    (path / "whole.hea").write_text(header)
    return parts


def test_null_segments_are_gaps(tmp_path):
    parts = segments(tmp_path, "whole/4 1 100 120\n~ 5\na 60\n~ 15\nb 40\n")
    (record,) = read_records(tmp_path / "whole.hea")
    gap = np.full(5, np.nan)
    expected = np.concatenate([gap, parts["a"][:, 0], gap, gap, gap, parts["b"][:, 0]])
    np.testing.assert_allclose(record.signal[0], expected, atol=1e-3)


@pytest.mark.parametrize("names", [["whole", "whole"], ["a", "other"]])
def test_a_header_that_is_its_own_segment_is_refused(tmp_path, names):
    segments(tmp_path, "whole/2 1 100 100\n{} 60\n{} 40\n".format(*names))
    (tmp_path / "other.hea").write_text("other/2 1 100 100\nwhole 60\nwhole 40\n")
    for path in (tmp_path, tmp_path / "whole.hea"):
        with refused("is itself a record in segments", "--data.path"):
            signals(str(path))


def test_a_record_may_be_named_by_its_data_file_or_its_name(tmp_path):
    segments(tmp_path, "whole/2 1 100 100\na 60\nb 40\n")
    for name in ("a.dat", "a", "a.hea"):
        assert [str(file) for file in find_files([str(tmp_path / name)])[""]] == [str(tmp_path / "a.hea")]
    (tmp_path / "c.dat").touch()
    with refused("c.dat is no signal file", ".hea"):
        signals(str(tmp_path / "c.dat"))


def test_of_a_record_in_segments_the_whole_is_read_once(tmp_path):
    options = {"fs": 100, "units": ["mV"], "sig_name": ["I"], "fmt": ["16"], "write_dir": str(tmp_path)}
    parts = [noise(60, 1), noise(40, 1)]
    for number, part in enumerate(parts):
        wfdb.wrsamp(f"whole_{number}", p_signal=part, **options)
    (tmp_path / "whole.hea").write_text("whole/2 1 100 100\nwhole_0 60\nwhole_1 40\n")
    wfdb.wrsamp("other", p_signal=noise(100, 1), **options)
    data = signals(str(tmp_path), test_fraction=0, val_fraction=0.5)
    assert len(windows(data, "train")) + len(windows(data, "val")) == 10
    (record,) = read_records(tmp_path / "whole.hea")
    np.testing.assert_allclose(record.signal[0], np.concatenate(parts)[:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"\x93NUMPY\x01", ["cannot be read"]),
        ("a.npz", b"PK", ["cannot be read", "no npz archive"]),
        ("a.csv", b"", ["cannot be read", "empty"]),
        ("a.csv", b"a,b\n", ["cannot be read", "no numbers"]),
        ("a.csv", b"a,b\n1,2\n3\n", ["cannot be read"]),
        ("a.csv", b"1,2\n3,x\n", ["cannot be read", "x"]),
        ("a.wav", b"RIFF", ["cannot be read"]),
        ("a.hea", b"a 1 100 10\na.dat 16 200 16 0 0 0 0 I\n", ["cannot be read"]),
        ("a.txt", b"1", [".npy, .npz, .csv, .wav, .hea"]),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with refused(name, "--data.path", *words):
        Signals(str(tmp_path / name))


@pytest.mark.parametrize(
    ("values", "axes", "words"),
    [
        (np.zeros(3, complex), None, ["complex128"]),
        (np.array(["a"]), None, ["real numbers"]),
        (np.zeros((1, 1, 1, 1)), None, ["(1, 1, 1, 1)", "--data.axes"]),
        (np.zeros((2, 3)), "n c t", ["2 axes", "(2, 3)"]),
        (np.zeros((2, 3)), "n c", ["'n c'", "--data.axes"]),
        (np.zeros((2, 3)), "t t", ["'t t'"]),
        (np.zeros((2, 3)), "(t n) c", ["'(t n) c'"]),
    ],
)
def test_arrays_that_are_no_signals_are_refused(tmp_path, values, axes, words):
    np.save(tmp_path / "a.npy", values)
    with refused("a.npy", *words):
        Signals(str(tmp_path / "a.npy"), axes=axes)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with refused("cannot be read", "allow_pickle"):
        read_records(tmp_path / "a.npy")


def test_short_memory_is_not_called_damage(tmp_path, monkeypatch):
    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np, "load", out_of_memory)
    (tmp_path / "a.npy").touch()
    with refused("not enough memory to read", "a.npy"):
        read_records(tmp_path / "a.npy")


def test_times_are_no_channel(tmp_path, caplog):
    for number in range(10):
        rows = [f"{t / 250:.3f},{noise(1)[0]}" for t in range(100)]
        (tmp_path / f"{number}.csv").write_text("\n".join(["time,ecg", *rows]))
    data = signals(str(tmp_path))
    assert (data.channels, data.sample_rate) == (1, 250.0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "read time of" in line
    assert "250 samples per second, and so in 9 more" in line
    with refused("sample_rate is 100", "0.csv has 250", "remove its column time"):
        signals(str(tmp_path), sample_rate=100)


def test_lines_of_a_csv_may_be_records(tmp_path, caplog):
    rows = np.concatenate([noise(20, 187), np.arange(20)[:, None] % 5], 1)
    np.savetxt(tmp_path / "beats.csv", rows, delimiter=",")  # as Kaggle has the beats of MIT-BIH
    with refused("188 columns without names", "--data.axes='n t'"):
        signals(str(tmp_path))
    records = read_records(tmp_path / "beats.csv", axes="n t")
    assert [record.signal.shape for record in records] == [(1, 187)] * 20
    np.testing.assert_allclose(records[3].signal[0], rows[3, :-1], rtol=1e-6)
    assert "whole numbers in its last column alone: left out as labels" in caplog.text
    (wide,) = read_records(tmp_path / "beats.csv", axes="t c")
    assert wide.signal.shape == (188, 20)


def test_without_wfdb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wfdb", None)
    (tmp_path / "a.hea").write_text("a 1 100 10\n")
    with refused("pip install 'vqlab[wfdb]'"):
        read_records(tmp_path / "a.hea")


# Splits


def test_no_record_is_in_two_splits(tmp_path):
    data = signals(folder(tmp_path, 20), val_fraction=0.2, test_fraction=0.3)
    parts = [sources(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [10, 4, 6]
    assert set.union(*parts) == set(range(20))
    assert len(windows(data, "train")) == data.train_size == 50
    assert sources(signals(folder(tmp_path, 20), val_fraction=0.2, test_fraction=0.3), "test") == parts[2]
    assert sources(signals(folder(tmp_path, 20), val_fraction=0.2, test_fraction=0.3, seed=1), "test") != parts[2]


def test_folders_train_and_val_are_the_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        folder(tmp_path / split, count)
    data = signals(str(tmp_path))
    assert (sources(data, "train"), sources(data, "val")) == ({0, 1, 2}, {0, 1})
    assert data.load_test() is None
    with refused("no test windows", "--data.test_fraction"):
        data.test_dataloader()
    folder(tmp_path / "test", 4)
    assert sources(signals(str(tmp_path)), "test") == {0, 1, 2, 3}


def test_files_and_folders_can_be_listed(tmp_path):
    folder(tmp_path / "a", 2)
    folder(tmp_path / "b", 5)
    data = signals([str(tmp_path / "a"), str(tmp_path / "b" / "4.npy")], test_fraction=0)
    assert sources(data, "train") | sources(data, "val") == {0, 1, 4}


def test_folders_under_other_names_are_splits(tmp_path):
    folder(tmp_path / "Training", 10)
    folder(tmp_path / "eval", 3)
    data = signals(str(tmp_path), val_fraction=0.2)
    assert [len(sources(data, split)) for split in ("train", "val", "test")] == [8, 2, 3]
    assert not sources(data, "train") & sources(data, "val")
    folder(tmp_path / "more", 1)
    with refused("holds Training, eval, more", "--data.path"):
        signals(str(tmp_path))


def test_several_folders_with_splits(tmp_path):
    for name, split in (("a", "train"), ("a", "test"), ("b", "train"), ("b", "valid")):
        folder(tmp_path / name / split, 3)
    data = signals([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [len(windows(data, split)) for split in ("train", "val", "test")] == [30, 15, 15]
    folder(tmp_path / "c", 3)
    with refused("hold splits and others do not", "--data.path"):
        signals([str(tmp_path / "a"), str(tmp_path / "c")])


def test_files_may_name_splits(tmp_path):
    for name, start in (("beats_train", 0), ("beats_test", 1000)):
        np.save(tmp_path / f"{name}.npy", start + noise(10, 1, 100))
    data = signals(str(tmp_path))
    assert [len(windows(data, split)) for split in ("train", "val", "test")] == [45, 5, 50]
    assert windows(data, "train").max() < 500 < windows(data, "test").min()
    np.save(tmp_path / "beats.npy", noise(1, 1, 100))
    with refused("holds beats, beats_test, beats_train"):
        signals(str(tmp_path))
    for name in ("beats_train", "beats"):
        (tmp_path / f"{name}.npy").unlink()
    assert len(windows(signals(str(tmp_path)), "train")) == 40, "a single name is none of splits"


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (1, {}, ["1 record(s)", "--data.path"]),
        (2, {}, ["--data.test_fraction=0"]),
        (5, {"val_fraction": 0}, ["val_fraction"]),
        (5, {"val_fraction": 0.5, "test_fraction": 0.5}, ["no training records"]),
    ],
)
def test_too_few_records_to_split(tmp_path, count, options, words):
    with refused(*words):
        signals(folder(tmp_path, count), **options)


# Windows


def test_windows_and_strides_and_picks(tmp_path):
    data = signals(folder(tmp_path, 3, samples=50, channels=3), stride=10, picks=[2, 0], seed=3)
    (number,) = sources(data, "train")
    starts = torch.arange(0, 31, 10) + 1000 * number
    assert torch.equal(windows(data, "train")[:, :, 0], torch.stack([starts + 0.5, starts], 1))


def test_no_window_reaches_over_a_gap(tmp_path, caplog):
    x = np.arange(100, dtype=np.float32) * np.ones((2, 1), np.float32)
    x[0, 45:50] = np.nan
    x[1, 60] = np.nan
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", x)
    data = signals(str(tmp_path))
    assert windows(data, "train")[:, 1, 0].tolist() == [0, 20, 61]
    assert "18 samples" in caplog.text
    assert "3 record(s) or stretches" in caplog.text  # 50 to 59, in each


def test_runs_between_gaps_against_a_loop():
    for _ in range(50):
        mask = RNG.random((2, 30)) < 0.2
        signal = np.where(mask, np.nan, 1.0)
        expected, start = [], None
        for t, gap in enumerate([*mask.any(0), True]):
            if gap and start is not None:
                expected.append((start, t))
                start = None
            elif not gap and start is None:
                start = t
        assert finite_runs(signal) == expected


@pytest.mark.parametrize(("old", "new"), [(360, 100), (100, 250), (44100, 16000), (125, 125)])
def test_resampling_keeps_a_slow_tone_and_takes_out_a_fast_one(old, new):
    seconds = 4
    time, wanted = np.arange(seconds * old) / old, np.arange(seconds * new) / new
    slow = 3 + np.sin(2 * np.pi * 0.05 * min(old, new) * time)
    fast = np.sin(2 * np.pi * 0.45 * old * time) if new < 0.8 * old else 0
    changed = change_rate((slow + fast)[None], old, new)[0]
    assert len(changed) == pytest.approx(seconds * new, abs=1)
    middle = slice(len(wanted) // 4, 3 * len(wanted) // 4)
    expected = 3 + np.sin(2 * np.pi * 0.05 * min(old, new) * wanted)
    np.testing.assert_allclose(changed[: len(wanted)][middle], expected[middle], atol=0.01)


def test_channels_of_one_name_are_picked_by_number(tmp_path):
    (tmp_path / "a.csv").write_text("x,x,X\n1,2,3\n")
    with refused("a.csv has several channels x", "--data.picks to their numbers, 0, 1"):
        read_records(tmp_path / "a.csv", picks=["x"])
    (record,) = read_records(tmp_path / "a.csv", picks=["X", 1])
    assert record.signal.tolist() == [[3], [2]]


def test_sample_rate_is_that_of_files_without_one(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=noise(1, 720), fs=360)
        np.save(tmp_path / f"{number + 3}.npy", noise(1, 360))
    data = signals(str(tmp_path), sample_rate=180, resample=180)
    assert data.sample_rate == 180
    lengths = {len(windows(data, split)) for split in ("val", "test")} | {len(windows(data, "train")) / 4}
    assert lengths == {360 // 20}, "two seconds of each record"


def test_records_of_different_rates(tmp_path):
    for number, rate in enumerate((100, 200, 200)):
        wavfile.write(tmp_path / f"{number}.wav", rate, noise(rate * 2))
    with refused("0.wav has 100", "1.wav 200", "--data.resample=100"):
        signals(str(tmp_path))
    data = signals(str(tmp_path), resample=100)
    assert data.sample_rate == 100
    assert [len(windows(data, split)) for split in ("train", "val", "test")] == [10, 10, 10]
    with refused("sample_rate is 50, but", "0.wav has 100", "--data.sample_rate", "--data.resample=50"):
        signals(str(tmp_path), sample_rate=50, resample=100)
    arrays = folder(tmp_path / "arrays")
    assert signals(arrays, sample_rate=50, resample=25).train_size == 16
    with refused("0.npy does not say", "--data.sample_rate"):
        signals(arrays, resample=25)


# What is refused


def test_different_channels(tmp_path):
    folder(tmp_path / "a", 2)
    folder(tmp_path / "b", 2, channels=2)
    with refused("0.npy has 1", "0.npy 2 (0, 1)", "--data.picks"):
        signals(str(tmp_path))
    assert signals(str(tmp_path), picks=[0], test_fraction=0).channels == 1
    with refused("no channel 2", "--data.picks"):
        signals(str(tmp_path), picks=[0, 2])


def test_different_names_of_channels_are_a_warning(tmp_path, caplog):
    for name, header in (("a", "MLII,V5"), ("b", "V5,V2"), ("c", "MLII,V5")):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *(f"{t},{t}" for t in range(40))]))
    signals(str(tmp_path))
    assert "MLII, V5 in" in caplog.text
    assert "b.csv" in caplog.text
    with refused("a.csv has no channel MLIII, but MLII, V5"):
        signals(str(tmp_path), picks=["MLIII"])


def test_records_without_a_channel_of_picks_are_left_out(tmp_path, caplog):
    for number in range(5):
        header = "V5,V2" if number == 3 else "mlii,V5" if number == 4 else "MLII,V5"
        (tmp_path / f"{number}.csv").write_text("\n".join([header, *(f"{t},{t % 7}" for t in range(40))]))
    data = signals(str(tmp_path), picks=["MLII"])
    assert sum(len(windows(data, split)) for split in ("train", "val", "test")) == 8
    assert "left out 1 of 5 records: " in caplog.text
    assert "3.csv has no channel MLII, but V5, V2" in caplog.text


def test_records_with_a_channel_without_signal_are_left_out_and_counted(tmp_path, caplog):
    folder(tmp_path, 10, channels=2)
    for number, value in ((3, 5), (5, np.nan), (7, np.inf)):
        x = np.load(tmp_path / f"{number}.npy")
        x[1, 7 if value == np.inf else slice(None)] = value
        np.save(tmp_path / f"{number}.npy", x)
    data = signals(str(tmp_path))
    assert set.union(*(sources(data, split) for split in ("train", "val", "test"))) == {0, 1, 2, 4, 6, 8, 9}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("left out 3 of 10 records: ")
    for name, reason in (("3", "constant in"), ("5", "nowhere a number in"), ("7", "infinite in")):
        assert f"{name}.npy is {reason} channel 1" in line
    assert len(windows(signals(str(tmp_path), picks=[0], test_fraction=0), "train")) == 45, "of another channel"


@pytest.mark.parametrize(
    ("bad", "words"),
    [(np.inf, ["infinite", "sample 7", "NaN"]), (None, ["constant in channel 1", "--data.picks"])],
)
def test_no_record_with_a_signal_in_each_channel(tmp_path, bad, words):
    for number in range(3):
        x = noise(2, 100)
        x[1, slice(None) if bad is None else 7] = 5 if bad is None else bad
        np.save(tmp_path / f"{number}.npy", x)
    with refused("no record can be used", "0.npy", *words):
        signals(str(tmp_path))


def test_nothing_but_gaps(tmp_path):
    np.save(tmp_path / "x.npy", np.full((1, 100), np.nan))
    with refused("nowhere a number"):
        signals(str(tmp_path))


def test_windows_longer_than_every_record(tmp_path, caplog):
    with refused("no record has 500 samples", "the longest has 100", "--data.length=100"):
        signals(folder(tmp_path), length=500)
    folder(tmp_path / "long", 3, samples=600)
    signals(str(tmp_path), length=500)
    assert "10 record(s) or stretches" in caplog.text


def test_missing_and_empty_folders(tmp_path):
    with refused("nowhere is not a folder or a file", "--data.path"):
        Signals(str(tmp_path / "nowhere"))
    with refused("holds no signals", ".npy", "--data.path"):
        Signals(str(tmp_path))
    with refused("path is empty"):
        Signals([])


@pytest.mark.parametrize("options", [{"sample_rate": 0}, {"resample": float("nan")}, {"resample": -1}])
def test_rates_out_of_range(tmp_path, options):
    (name,) = options
    with refused(f"{name} must be a positive number", f"--data.{name}=100"):
        Signals(str(tmp_path), **options)
