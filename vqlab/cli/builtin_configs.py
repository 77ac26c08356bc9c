"""The configs that come with vqlab, for those who have no clone of it."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]  # an installed one has configs/ in it


def with_shipped_configs(args: list[str]) -> list[str]:
    """Let ``configs/x.yaml`` stand for the one that comes with vqlab, where the current folder has none.

    Example:
        >>> with_shipped_configs(["fit", "--config=configs/none.yaml"])
        ['fit', '--config=configs/none.yaml']
    """
    return [_shipped(arg) for arg in args]


def shipped_configs() -> list[Path]:
    """Return the configs that can be given as ``configs/x.yaml``."""
    return sorted(
        {Path("configs", file.name) for folder in (Path(), PACKAGE) for file in folder.glob("configs/*.yaml")}
    )


def _shipped(arg: str) -> str:
    before, mark, path = arg.rpartition("=")
    if not path.startswith("configs/") or Path(path).exists() or not (PACKAGE / path).is_file():
        return arg
    return f"{before}{mark}{PACKAGE / path}"
