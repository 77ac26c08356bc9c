"""Topics as a table, as bars, and as a map."""

import csv
import io
import json
import re

import numpy as np

from tests.helpers.a_topic_sheet import sheet
from vqlab.callbacks.topic_table import PANELS, as_csv, as_text, bars, topic_map


def test_csv_is_read_back_and_the_text_is_aligned():
    rows = list(csv.DictReader(io.StringIO(as_csv(sheet()))))
    assert [row["words"] for row in rows] == ["<b> cat", "hat mat"]
    lines = as_text(sheet()).splitlines()
    assert len(lines) == 3
    assert lines[0].index("words") == lines[1].index("<b>") == lines[2].index("hat")


def test_map_holds_all_topics_and_escapes_their_words():
    page = topic_map(sheet())
    assert page.count("<circle") == 2
    topics = json.loads(re.search(r"const topics = (.*);\n", page)[1])
    assert [topic["words"][0] for topic in topics] == ["&lt;b&gt;", "hat"]
    assert topics[1]["note"].endswith("dominant in no document")
    assert "http" not in page, "the page must be self-contained"
    radii = [float(radius) for radius in re.findall(r' r="([\d.]+)"', page)]
    assert radii[0] > radii[1] > 0


def test_bars_have_a_panel_per_topic_up_to_a_limit():
    texts = {"words": [["cat", "hat"]] * 60, "shares": np.full((60, 2), 0.1), "remarks": [""] * 60}
    many = sheet(numbers=list(range(60)), documents=[1] * 60, coherence=[0.1] * 60, **texts)
    for topics, panels in ((sheet(), 2), (many, PANELS)):
        assert sum(bool(axes.patches) for axes in bars(topics).axes) == panels
