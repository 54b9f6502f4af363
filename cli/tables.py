"""Plain tables: aligned columns that no terminal width can break."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], *, gap: int = 3) -> list[str]:
    """Pad each column to its widest cell; rows may have fewer cells than the widest row."""
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        widths = [
            max(width, len(cell)) for width, cell in zip(widths, [*row, *[""] * len(widths)], strict=False)
        ]
    lines = [
        (" " * gap).join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)) for row in rows
    ]
    return [line.rstrip() for line in lines]
