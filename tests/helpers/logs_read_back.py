"""What an offline W&B run and a TensorBoard folder hold, read from their files."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

BLOCK, HEADER = 32768, 7  # of LevelDB's log format: checksum (4), length (2), type (1), then the bytes


def read_wandb(folder: Path) -> SimpleNamespace:
    """Return ``history`` (one dict per log call), ``config``, ``artifacts`` and ``x`` (the default x-axis)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = SimpleNamespace(history=[], config={}, artifacts=[], x=None)
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("history"):
            items = record.history.item
            found.history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        for update in (*record.config.update, *record.run.config.update):
            found.config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
        if artifact.name:
            found.artifacts.append(artifact)
        if record.metric.glob_name == "*":
            found.x = record.metric.step_metric
    return found


def records(content: bytes) -> list[bytes]:
    """Return the records of a file in LevelDB's log format, whose first block W&B begins with a header of its own."""
    found, place, parts = [], HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # too short for a header: filled with zeros
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if place + HEADER + length > len(content):  # W&B, in another process, has not written all of it
            break
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            found.append(parts)
            parts = b""
    return found


def read_tensorboard(folder: Path):
    """Return TensorBoard's own reader of a folder, filled."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0, "histograms": 0})
    return reader.Reload()
