"""Which csv files are read, how, and which lines are named."""

import numpy as np
import pytest

from vqlab.data.signals.csv_files import read_csv

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "values", "names"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], None),
        ("1 2\n 3  4\n5 9", [[1, 2], [3, 4], [5, 9]], None),
        ("a,b\n1,2\nNA,3\n2,-\nnull,?\n", [[1, 2], [NAN, 3], [2, NAN], [NAN, NAN]], ["a", "b"]),
        ("# fs=360\n\na,b\n1,2\n% end\n", [[1, 2]], ["a", "b"]),
        ('"a","b"\n"1.0","2.0"\n', [[1, 2]], ["a", "b"]),
        ("'a','b'\n'mV','uV'\n1,2\n", [[1, 2]], ["a", "b"]),
        ("a,b\n(µV),[mV]\n1,2\n", [[1, 2]], ["a", "b"]),
        ("Device: X\nRate, 100\na,b\n1,2\n", [[1, 2]], ["a", "b"]),
        ("a;b\n1,5;2\n-2,5e1;3\n", [[1.5, 2], [-25, 3]], ["a", "b"]),
        ('a,b\n"1,5","2"\n', [[1.5, 2]], ["a", "b"]),
        ("a\tb\n1\t\n\t2\n", [[1, NAN], [NAN, 2]], ["a", "b"]),
        ("a,b,\n1,2,\n3,4,\n", [[1, 2], [3, 4]], ["a", "b"]),
        ("a,b\n1,2,\n3,4,\n", [[1, 2], [3, 4]], ["a", "b"]),
        ("a,b\n1,\n3,\n", [[1, NAN], [3, NAN]], ["a", "b"]),
        ("0,1,2\n.5,1.5,2.5\n", [[0.5, 1.5, 2.5]], None),
        (",0,1,2\n0,.5,1.5,2.5\n", [[0.5, 1.5, 2.5]], None),
        ("x,1,2\n3,4,5\n", [[3, 4, 5]], ["x", "1", "2"]),
        ("x,y\n0,5\n1,6\n2,7\n", [[0, 5], [1, 6], [2, 7]], ["x", "y"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_numbers_and_names(text, values, names, encoding):
    table = read_csv(text.encode(encoding))
    np.testing.assert_array_equal(table.values, values)
    assert (table.names, table.time, table.sample_rate) == (names, None, None)


@pytest.mark.parametrize(
    ("times", "name", "rate"),
    [
        ([f"{t / 360:.3f}" for t in range(400)], "time", 360.0),
        ([4 * t for t in range(9)], "Time (ms)", 250.0),
        ([f"{t / 3:.4f}" for t in range(9)], "sec", 3.0),
        ([f"0:{t / 100:06.3f}" for t in range(9)], "Elapsed time", 100.0),
        ([f"[23:59:{t / 4:06.3f} 01/02/1990]" for t in range(9)], "when", 4.0),
        ([f"2020-01-01T00:00:{t / 50:09.6f}" for t in range(9)], "when", 50.0),
        (range(9), "sample #", None),
        (range(9), "", None),
        ([f"{t / 100}" for t in range(9)], None, 100.0),
        (range(9), None, None),
    ],
)
def test_times_and_numbers_of_samples(times, name, rate):
    lines = [] if name is None else [f"{name},ecg"]
    table = read_csv("\n".join([*lines, *(f"{t},{i * i}" for i, t in enumerate(times))]).encode())
    assert table.values[:, 0].tolist() == [i * i for i in range(len(times))]
    assert (table.time, table.sample_rate) == (name or "column 1", rate)
    assert table.names == (None if name is None else ["ecg"])


def test_a_unit_below_the_name_is_that_of_the_times():
    assert read_csv(b"t,ecg\nms,mV\n0,1\n4,2\n8,3\n").sample_rate == 250.0


@pytest.mark.parametrize("text", ["index,time,x\n0,0.0,5\n1,0.5,7\n", "time,x,n\n0,5,0\n.5,7,1\n"])
def test_times_beside_numbers_of_samples(text):
    table = read_csv(text.encode())
    assert (table.values.tolist(), table.names, table.time, table.sample_rate) == ([[5], [7]], ["x"], "time", 2.0)


def test_a_single_column_is_the_signal():
    assert read_csv(b"time\n0\n1\n").values.tolist() == [[0], [1]]
    assert read_csv(b"1\n2\n3\n").values.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line of numbers"),
        ("time,x,class\n0,1,N\n1,2,N\n", "no line of numbers; its second line is 0, 1, N"),
        ("a,b\n1,2\n\n3\n", "line 4 has 1 fields where the lines before have 2"),
        ("a,b\n1,2\n3,x\n", "line 3 holds 'x'"),
        ("a,b\n1,x\n2,3\n", "line 2 holds 'x'"),
        ("1,x\n2,3\n", "line 1 holds 'x'"),
        ("ecg\n1,5\n2,5\n", "1 names above 2 columns"),
        ("a,b,c\n1,2\n", "line 1 has 3 fields where the numbers below have 2"),
        ("1,5;2.5\n2,5;3\n", "line 1 has a decimal comma, others the other mark"),
        ("time,x\n0,1\n1,2\n5,3\n", "times in column time do not rise evenly"),
        ("time,x\n0,1\nNA,2\n2,3\n", "times in column time do not rise evenly"),
    ],
)
def test_lines_that_are_not_certain_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(text.encode())
