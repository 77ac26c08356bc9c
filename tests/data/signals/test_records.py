"""Records of NumPy, csv, WAV and WFDB files, and their sample rates."""

import numpy as np
import pytest
import wfdb
from scipy.io import wavfile

from tests.helpers.refusal import refused
from vqlab.data.signals.files import Signals, change_rate, find_files, finite_runs
from vqlab.data.signals.records import read_records

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


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
    for array in (None, "y"):
        with refused("two.npz holds the arrays x, peaks: set array=NAME"):
            read_records(tmp_path / "two.npz", array=array)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_with_names_and_gaps(tmp_path, separator):
    rows = ["II,V5", "1,2", ",3", "-4e-1, 5 ", "nan,6"]
    (tmp_path / "a.csv").write_text("\n".join(row.replace(",", separator) for row in rows))
    (record,) = read_records(tmp_path / "a.csv")
    assert record.channels == ["II", "V5"]
    np.testing.assert_array_equal(record.signal, np.float32([[1, np.nan, -0.4, np.nan], [2, 3, 5, 6]]))


@pytest.mark.parametrize(
    ("text", "signal", "names", "rate"),
    [
        ("1,2\n3,4\n", [[1, 3], [2, 4]], ["0", "1"], None),
        ("1\n2\n3\n", [[1, 2, 3]], ["0"], None),
        ('\ufeff"a","b"\n"1.0",NA\n3,4\n', [[1, 3], [np.nan, 4]], ["a", "b"], None),
        ("Time,ecg\n0.0,5\n0.004,6\n0.008,7\n", [[5, 6, 7]], ["ecg"], 250.0),
        ("time\n0\n1\n", [[0, 1]], ["time"], None),
    ],
)
def test_csv_with_and_without_names_and_times(tmp_path, text, signal, names, rate):
    (tmp_path / "a.csv").write_text(text)
    (record,) = read_records(tmp_path / "a.csv")
    np.testing.assert_array_equal(record.signal, signal)
    assert (record.channels, record.sample_rate) == (names, rate)


def test_lines_of_a_csv_may_be_records(tmp_path):
    rows = noise(20, 187)
    np.savetxt(tmp_path / "beats.csv", rows, delimiter=",")
    records = read_records(tmp_path / "beats.csv", axes="n t")
    np.testing.assert_allclose(np.concatenate([record.signal for record in records]), rows, rtol=1e-6)


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


def test_a_record_in_segments_is_read_once(tmp_path):
    parts = {"a": noise(60, 1), "b": noise(40, 1)}
    for name, part in parts.items():
        wfdb.wrsamp(name, fs=100, units=["mV"], sig_name=["I"], fmt=["16"], p_signal=part, write_dir=str(tmp_path))
    (tmp_path / "whole.hea").write_text("whole/2 1 100 100\na 60\nb 40\n")
    assert find_files([str(tmp_path)]) == {"": [tmp_path / "whole.hea"]}
    (record,) = read_records(tmp_path / "whole.hea")
    np.testing.assert_allclose(record.signal[0], np.concatenate([*parts.values()])[:, 0], atol=1e-3)


def test_without_wfdb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wfdb", None)
    (tmp_path / "a.hea").write_text("a 1 100 10\n")
    with refused("pip install 'vqlab[wfdb]'"):
        read_records(tmp_path / "a.hea")


def test_channels_of_one_name_are_picked_by_number(tmp_path):
    (tmp_path / "a.csv").write_text("Ab,ab,x\n1,2,3\n")
    with refused("a.csv has several channels AB: set picks=[0, 1]"):
        read_records(tmp_path / "a.csv", picks=["AB"])
    (record,) = read_records(tmp_path / "a.csv", picks=["X", 1, "Ab"])
    assert record.signal.tolist() == [[3], [2], [1]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", b"\x93NUMPY\x01", "cannot be read"),
        ("a.npz", b"PK", "no npz archive"),
        ("a.csv", b"", "No columns to parse"),
        ("a.csv", b"time,x\n0,1\n1,2\n5,3\n", "times in column time do not rise evenly"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("a.csv", b"a,b\n1,2\n3,x\n", "could not convert string to float: 'x'"),
        ("a.wav", b"RIFF", "cannot be read"),
        ("a.hea", b"a 1 100 10\na.dat 16 200 16 0 0 0 0 I\n", "cannot be read"),
        ("a.txt", b"1", "must be one of .npy, .npz, .csv, .wav, .hea"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with refused(f"{tmp_path / name} ", reason):
        Signals(str(tmp_path / name))


@pytest.mark.parametrize(
    ("values", "axes", "words"),
    [
        (np.zeros(3, complex), None, ["must hold real numbers, but holds complex128"]),
        (np.array([{"a": 1}]), None, ["cannot be read", "allow_pickle"]),
        (np.zeros((1, 1, 1, 1)), None, ["axes must name", "got ''", "(1, 1, 1, 1)"]),
        (np.zeros((2, 3)), "n c t", ["'n c t'", "(2, 3)"]),
        (np.zeros((2, 3)), "n c", ["'n c'"]),
    ],
)
def test_arrays_that_are_no_signals_are_refused(tmp_path, values, axes, words):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with refused("a.npy", *words):
        Signals(str(tmp_path / "a.npy"), axes=axes)


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
