"""Records of NumPy, csv, WAV and WFDB files, and their sample rates."""

import numpy as np
import pytest
import wfdb
from scipy.io import wavfile

from tests.helpers.refusal import refused
from vqlab.data.signals.files import Signals, find_files
from vqlab.data.signals.records import read_records
from vqlab.data.signals.resampling import change_rate, finite_runs

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


def test_lines_of_a_csv_may_be_records(tmp_path, caplog):
    rows = np.concatenate([noise(20, 187), np.arange(20)[:, None] % 5], 1)
    np.savetxt(tmp_path / "beats.csv", rows, delimiter=",")  # as Kaggle has the beats of MIT-BIH
    with refused("188 columns without names: set axes='n t'"):
        Signals(str(tmp_path))
    records = read_records(tmp_path / "beats.csv", axes="n t")
    assert [record.signal.shape for record in records] == [(1, 187)] * 20
    np.testing.assert_allclose(records[3].signal[0], rows[3, :-1], rtol=1e-6)
    assert "integers in its last column alone: left out as labels" in caplog.text
    (wide,) = read_records(tmp_path / "beats.csv", axes="t c")
    assert wide.signal.shape == (188, 20)


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
    for name in ("100.dat", "100", "100.hea"):
        assert find_files([str(tmp_path / name)])[""] == [tmp_path / "100.hea"]


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
    (record,) = read_records(tmp_path / "a.hea", picks=["abp"])
    assert (record.sample_rate, record.signal.shape) == (125.0, (1, 1000))
    np.testing.assert_allclose(record.signal[0], slow, atol=1e-3)


def segments(path, header):
    parts = {name: noise(length, 1) for name, length in (("a", 60), ("b", 40))}
    for name, part in parts.items():
        wfdb.wrsamp(name, fs=100, units=["mV"], sig_name=["I"], fmt=["16"], p_signal=part, write_dir=str(path))
    (path / "whole.hea").write_text(header)
    return parts["a"][:, 0], parts["b"][:, 0]


def test_of_a_record_in_segments_the_whole_is_read_once_and_null_segments_are_gaps(tmp_path):
    a, b = segments(tmp_path, "whole/4 1 100 120\n~ 5\na 60\n~ 15\nb 40\n")
    assert find_files([str(tmp_path)]) == {"": [tmp_path / "whole.hea"]}
    (record,) = read_records(tmp_path / "whole.hea")
    expected = np.concatenate([np.full(5, np.nan), a, np.full(15, np.nan), b])
    np.testing.assert_allclose(record.signal[0], expected, atol=1e-3)


@pytest.mark.parametrize("names", [["whole", "whole"], ["a", "other"]])
def test_a_header_that_is_its_own_segment_is_refused(tmp_path, names):
    segments(tmp_path, "whole/2 1 100 100\n{} 60\n{} 40\n".format(*names))
    (tmp_path / "other.hea").write_text("other/2 1 100 100\nwhole 60\nwhole 40\n")
    for path in (tmp_path, tmp_path / "whole.hea"):
        with refused("is itself a record in segments"):
            Signals(str(path))


def test_without_wfdb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wfdb", None)
    (tmp_path / "a.hea").write_text("a 1 100 10\n")
    with refused("pip install 'vqlab[wfdb]'"):
        read_records(tmp_path / "a.hea")


def test_channels_of_one_name_are_picked_by_number(tmp_path):
    (tmp_path / "a.csv").write_text("x,x,X\n1,2,3\n")
    with refused("a.csv has several channels x: set picks=[0, 1]"):
        read_records(tmp_path / "a.csv", picks=["x"])
    (record,) = read_records(tmp_path / "a.csv", picks=["X", 1])
    assert record.signal.tolist() == [[3], [2]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", b"\x93NUMPY\x01", "cannot be read"),
        ("a.npz", b"PK", "no npz archive"),
        ("a.csv", b"", "no line of numbers"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 fields"),
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
        (np.array(["a"]), None, ["real numbers"]),
        (np.array([{"a": 1}]), None, ["cannot be read", "allow_pickle"]),
        (np.zeros((1, 1, 1, 1)), None, ["axes must name", "got ''", "(1, 1, 1, 1)"]),
        (np.zeros((2, 3)), "n c t", ["'n c t'", "(2, 3)"]),
        (np.zeros((2, 3)), "n c", ["'n c'"]),
        (np.zeros((2, 3)), "t t", ["'t t'"]),
        (np.zeros((2, 3)), "(t n) c", ["'(t n) c'"]),
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
