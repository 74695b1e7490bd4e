"""Tables of results: Markdown, in the run folder, that reads as well on a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Table(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(table: Table) -> str:
    """The first column is aligned to the left, and the others to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(table.header))]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = (
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in cells
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(path: Path, tables: Mapping[str, Table]) -> None:
    """The tables by title, one below the other."""
    path.write_text("\n".join(f"{title}\n\n{markdown(table)}" for title, table in tables.items()))
