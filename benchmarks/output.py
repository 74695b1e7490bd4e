"""What benchmarks write: files that are never half written, and tables."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """After a crash at any moment, `path` holds either all of `content` or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Left-aligned names in the first two columns, right-aligned numbers in the others."""
    cells = [header, *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in cells
    )


def _text(cell: Any) -> str:
    return "" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)
