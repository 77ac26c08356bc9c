"""Ways in which bytes go wrong."""

import random
from pathlib import Path


def damage(rng: random.Random, path: Path) -> None:
    """Spoil the file ``path`` in one of the ways in which disks, downloads and people do."""
    whole = path.read_bytes()
    match rng.choice(["cut", "cut", "empty", "flip", "flip", "magic", "head", "zeros", "longer", "text", "random"]):
        case "cut":
            whole = whole[: rng.randrange(len(whole))]
        case "empty":
            whole = b""
        case "flip":
            spoiled = bytearray(whole)
            for _ in range(rng.choice([1, 3, 30])):
                spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
            whole = bytes(spoiled)
        case "magic":
            whole = (
                rng.choice([b"PK\x03\x04", b"\x1f\x8b\x08", b"\x93NUMPY", b"RIFF", b"\x89PNG\r\n\x1a\n"]) + whole[6:]
            )
        case "head":  # numbers in headers that become huge
            place = rng.randrange(min(len(whole), 128))
            whole = whole[:place] + b"\xff" * 4 + whole[place + 4 :]
        case "zeros":
            whole = bytes(len(whole))
        case "longer":
            whole += rng.randbytes(rng.choice([1, 1000]))
        case "text":
            whole = "<html>Seite nicht gefunden: 字</html>\n".encode() * 20
        case "random":
            whole = rng.randbytes(len(whole))
    path.write_bytes(whole)
