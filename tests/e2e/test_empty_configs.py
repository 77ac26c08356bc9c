"""Configuration files that cannot be read, or say nothing where something must be said."""

from pathlib import Path

import pytest
from tiny import DATA, NETS, fails


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"name: \xff", ["not UTF-8"]),
        (b"health:\nseed_everything: 1", ["under health", "--health"]),
        (b"health:\n  min_usage:\nseed_everything: 1", ["--health.min_usage"]),
        (b"trainer:\nseed_everything: 1", ["under trainer", "--trainer"]),
    ],
)
def test_configs_that_say_nothing(capsys, config, words):
    Path("a.yaml").write_bytes(config)
    complaint = fails(capsys, ["fit", "--config=a.yaml", *NETS, *DATA])
    for word in words:
        assert word in complaint
    assert not Path("runs").exists()
