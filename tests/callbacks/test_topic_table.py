"""Topics as a table, as bars, and as a map."""

import csv
import io
import json
import re

import numpy as np

from tests.helpers.a_topic_sheet import sheet
from vqlab.callbacks.topic_table import PANELS, as_csv, as_text, bars, topic_map


def test_the_table_is_read_back():
    rows = list(csv.DictReader(io.StringIO(as_csv(sheet()))))
    assert [row["words"] for row in rows] == ["<b> cat", "hat mat"]
    lines = as_text(sheet()).splitlines()
    assert len(lines) == 3
    assert lines[0].index("words") == lines[1].index("<b>") == lines[2].index("hat")


def test_the_map_holds_all_topics_and_no_word_of_them_is_taken_for_a_tag():
    page = topic_map(sheet())
    assert page.count("<circle") == 2
    topics = json.loads(re.search(r"const topics = (.*);\n", page)[1])
    assert [topic["words"][0] for topic in topics] == ["&lt;b&gt;", "hat"], "as HTML, which the page shows"
    assert topics[1]["note"].endswith("dominant in no document")
    assert "http" not in page  # it needs nothing from elsewhere
    radii = [float(radius) for radius in re.findall(r' r="([\d.]+)"', page)]
    assert radii[0] > radii[1] > 0


def test_one_panel_for_each_topic_up_to_a_limit():
    texts = {"words": [["cat", "hat"]] * 60, "shares": np.full((60, 2), 0.1), "remarks": [""] * 60}
    many = sheet(numbers=list(range(60)), documents=[1] * 60, coherence=[0.1] * 60, **texts)
    for given, drawn in ((sheet(), 2), (many, PANELS)):
        assert sum(bool(axes.patches) for axes in bars(given).axes) == drawn
