"""Records of NumPy, csv, WAV and WFDB files, and their sample rates."""

import numpy as np
import pytest
import wfdb
from scipy.io import wavfile

from tests.helpers.refusal import refused
from vqlab.data.signals.files import Signals, find_files
from vqlab.data.signals.records import change_rate, read_records

RNG = np.random.default_rng(0)
GAPS = [[1, np.nan, -0.4, np.nan], [2, 3, 5, 6]]


def noise(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_axes_of_arrays(tmp_path):
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


def test_npz_archives(tmp_path):
    np.savez(tmp_path / "one.npz", x=noise(2, 30), fs=360)
    (record,) = read_records(tmp_path / "one.npz")
    assert (record.signal.shape, record.sample_rate) == ((2, 30), 360.0)
    np.savez(tmp_path / "two.npz", x=noise(30), peaks=np.arange(3))
    assert read_records(tmp_path / "two.npz", array="x")[0].signal.shape == (1, 30)
    for array in (None, "y"):
        with refused("two.npz contains the arrays x, peaks: set array=NAME"):
            read_records(tmp_path / "two.npz", array=array)


def test_names_of_channels_in_npz_archives(tmp_path):
    for names, found in [(["II", "V5"], ["II", "V5"]), (["II"], ["0", "1"])]:
        np.savez(tmp_path / "named.npz", signal=noise(2, 30), channels=np.array(names), fs=360)
        assert read_records(tmp_path / "named.npz")[0].channels == found
    np.savez(tmp_path / "numbers.npz", channels=noise(2, 30), fs=360)  # a signal of this name
    assert read_records(tmp_path / "numbers.npz")[0].signal.shape == (2, 30)
    np.savez(tmp_path / "objects.npz", x=noise(30), channels=np.array([None]))  # never unpickled
    assert read_records(tmp_path / "objects.npz", array="x")[0].channels == ["0"]


@pytest.mark.parametrize(
    ("text", "signal", "names", "rate"),
    [
        ("1,2\n3,4\n", [[1, 3], [2, 4]], ["0", "1"], None),
        ("1\n2\n3\n", [[1, 2, 3]], ["0"], None),
        ("II,V5\n1,2\n,3\n-4e-1, 5 \nnan,6", GAPS, ["II", "V5"], None),
        ("II;V5\n1;2\n;3\n-4e-1; 5 \nnan;6", GAPS, ["II", "V5"], None),
        ("II\tV5\n1\t2\n\t3\n-4e-1\t 5 \nnan\t6", GAPS, ["II", "V5"], None),
        ('\ufeff"a","b"\n"1.0",NA\n3,4\n', [[1, 3], [np.nan, 4]], ["a", "b"], None),
        ("Time,ecg\n0.0,5\n0.004,6\n0.008,7\n", [[5, 6, 7]], ["ecg"], 250.0),
        ("time\n0\n1\n", [[0, 1]], ["time"], None),
        ("# fs=360\n\n% device\na,b\n1,2\n2,3\n", [[1, 2], [2, 3]], ["a", "b"], None),
        ("'Elapsed time','II'\n'hh:mm:ss.mmm','mV'\n'0:59.996',-1\n'1:00.000',2\n", [[-1, 2]], ["II"], 250.0),
        ("time;ecg (µV)\n0,000;0,5\n0,003;NA\n0,006;-\n0,008;2", [[0.5, np.nan, np.nan, 2]], ["ecg (µV)"], 375.0),
    ],
)
def test_csv_names_gaps_and_times(tmp_path, text, signal, names, rate):
    (tmp_path / "a.csv").write_text(text, encoding="latin-1" if "µ" in text else "utf-8")
    (record,) = read_records(tmp_path / "a.csv")
    np.testing.assert_array_equal(record.signal, np.float32(signal))
    assert (record.channels, record.sample_rate) == (names, rate)


def test_axes_of_csv_may_give_a_record_per_line(tmp_path):
    rows = noise(20, 187)
    np.savetxt(tmp_path / "beats.csv", rows, delimiter=",")
    records = read_records(tmp_path / "beats.csv", axes="n t")
    np.testing.assert_allclose(np.concatenate([record.signal for record in records]), rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint8, 2**7), (np.int16, 2**15), (np.int32, 2**31), (np.float32, 1), (np.float64, 1)]
)
def test_wav_integers_are_scaled_to_1(tmp_path, dtype, top):
    x = np.clip(noise(50, 2) / 4, -0.9, 0.9)
    wavfile.write(tmp_path / "x.wav", 8000, (x * top + (top if dtype == np.uint8 else 0)).astype(dtype))
    (record,) = read_records(tmp_path / "x.wav")
    assert record.sample_rate == 8000
    step = 1 / top if dtype in (np.uint8, np.int16) else 1e-7
    np.testing.assert_allclose(record.signal, x.T, atol=1.01 * step)


def test_wfdb_segments_are_joined_and_gaps_are_nan(tmp_path):
    parts = {"a": noise(60, 2), "b": noise(40, 2)}
    parts["a"][50:, 0] = np.nan
    options = {"fs": 360, "units": ["mV", "mV"], "sig_name": ["MLII", "V5"], "fmt": ["16", "16"]}
    for name, part in parts.items():
        wfdb.wrsamp(name, p_signal=part, write_dir=str(tmp_path), **options)
    (tmp_path / "whole.hea").write_text("whole/2 2 360 100\na 60\nb 40\n")
    assert find_files([str(tmp_path)]) == {"": [tmp_path / "whole.hea"]}
    (record,) = read_records(tmp_path / "whole.hea")
    assert (record.sample_rate, record.channels) == (360.0, ["MLII", "V5"])
    np.testing.assert_allclose(record.signal, np.concatenate([*parts.values()]).T, atol=1e-3)


def test_wfdb_channels_of_different_rates_and_null_segments(tmp_path):
    t = np.arange(4000) / 500
    fast, slow = np.sin(2 * np.pi * 60 * t), np.cos(2 * np.pi * t)
    options = {"units": ["mV", "mmHg"], "sig_name": ["II", "ABP"], "fmt": ["16", "16"], "write_dir": str(tmp_path)}
    gap = slow[::4].copy()
    gap[100:200] = np.nan
    wfdb.wrsamp("a", fs=125, e_p_signal=[fast, gap], samps_per_frame=[4, 1], **options)
    (tmp_path / "whole.hea").write_text("whole/3 2 125 2500\na 1000\n~ 500\na 1000\n")
    (record,) = read_records(tmp_path / "whole.hea")
    assert (record.sample_rate, record.signal.shape) == (500, (2, 10_000))
    assert np.isnan(record.signal[:, 4000:6000]).all()
    for part in (record.signal[:, :4000], record.signal[:, 6000:]):
        np.testing.assert_allclose(part[0], fast, atol=1e-3)
        assert np.flatnonzero(np.isnan(part[1])).tolist() == [*range(397, 800)]
        np.testing.assert_allclose(part[1, 840:-40], slow[840:-40], atol=5e-3)


def test_missing_wfdb_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wfdb", None)
    (tmp_path / "a.hea").write_text("a 1 100 10\n")
    with refused("pip install 'vqlab[wfdb]'"):
        read_records(tmp_path / "a.hea")


def test_ambiguous_picks_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("Ab,ab,x\n1,2,3\n")
    with refused("a.csv has several channels AB: set picks=[0, 1]"):
        read_records(tmp_path / "a.csv", picks=["AB"])
    (record,) = read_records(tmp_path / "a.csv", picks=["X", 1, "Ab"])
    assert record.signal.tolist() == [[3], [2], [1]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", b"\x93NUMPY\x01", "cannot be read"),
        ("a.npz", b"PK", "cannot be read"),
        ("a.csv", b"", "no line of numbers"),
        ("a.csv", b"time,x\n0,1\n1,2\n5,3\n", "times in column time are not equally spaced"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("a.csv", b"a,b\n1,x\n3,4\n", "no line of numbers below a,b"),
        ("a.csv", b"a,b\n1,2\n3,x\n", "could not convert string to float: 'x'"),
        ("a.wav", b"RIFF", "cannot be read"),
        ("a.hea", b"a 1 100 10\na.dat 16 200 16 0 0 0 0 I\n", "cannot be read"),
        ("a.txt", b"1", "must be one of .npy, .npz, .csv, .wav, .hea"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with refused(f"{tmp_path / name} ", reason):
        Signals(str(tmp_path / name))


@pytest.mark.parametrize(
    ("values", "axes", "words"),
    [
        (np.zeros(3, complex), None, ["must contain real numbers, got complex128"]),
        (np.array([{"a": 1}]), None, ["cannot be read", "allow_pickle"]),
        (np.zeros((1, 1, 1, 1)), None, ["axes must name", "got ''", "(1, 1, 1, 1)"]),
        (np.zeros((2, 3)), "n c t", ["'n c t'", "(2, 3)"]),
        (np.zeros((2, 3)), "n c", ["'n c'"]),
    ],
)
def test_arrays_of_other_types_and_axes_are_refused(tmp_path, values, axes, words):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with refused("a.npy", *words):
        Signals(str(tmp_path / "a.npy"), axes=axes)


@pytest.mark.parametrize(("old", "new"), [(360, 100), (100, 250), (44100, 16000), (125, 125)])
def test_resampling_keeps_low_and_removes_high_frequencies(old, new):
    seconds = 4
    time, wanted = np.arange(seconds * old) / old, np.arange(seconds * new) / new
    slow = 3 + np.sin(2 * np.pi * 0.05 * min(old, new) * time)
    fast = np.sin(2 * np.pi * 0.45 * old * time) if new < 0.8 * old else 0
    changed = change_rate((slow + fast)[None], old, new)[0]
    assert len(changed) == pytest.approx(seconds * new, abs=1)
    middle = slice(len(wanted) // 4, 3 * len(wanted) // 4)
    expected = 3 + np.sin(2 * np.pi * 0.05 * min(old, new) * wanted)
    np.testing.assert_allclose(changed[: len(wanted)][middle], expected[middle], atol=0.01)
