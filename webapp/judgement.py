"""What a found network gets wrong, as its report tells it and a page shows it: a table of classes, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHADES = 6
"""Steps of colour from few images to the most."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Images of one class that the network puts into one class."""

    true: int
    predicted: int
    count: int
    shade: int
    """0 for none, else 1 to SHADES: by the most wrong in any cell, or of right ones by all of their class."""
    shown: int
    """How many of them there are pictures of."""

    @property
    def is_right(self) -> bool:
        return self.true == self.predicted


@dataclass(frozen=True, kw_only=True)
class Row:
    """What becomes of the images of one class."""

    name: str
    cells: list[Cell]
    right: float | None
    """Share that is put where it belongs; None without images."""


def judgement(report: Mapping[str, Any] | None, sheet: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page shows; None for reports of before there was such a thing.

    Args:
        sheet: where the pictures are (`selectors.sheet_of`); None for those who may not have them.
    """
    if not report or "confused" not in report:
        return None
    names, total = report["classes"], report["data"]["splits"]["validation"]
    mistakes = report["mistakes"] if sheet else []
    shown: dict[tuple[int, int], int] = {}
    for one in mistakes:
        pair = (one["true"], one["predicted"])
        shown[pair] = shown.get(pair, 0) + 1
    most = max((count for *_, count in report["confused"]), default=1)

    def cell(true: int, predicted: int, count: int, of: int) -> Cell:
        shade = -(-SHADES * count // (of if true == predicted else most))
        return Cell(true=true, predicted=predicted, count=count, shade=shade, shown=shown.get((true, predicted), 0))

    rows = []
    for true, counts in enumerate(report["confusion"] or []):
        of = sum(counts)
        cells = [cell(true, predicted, count, max(1, of)) for predicted, count in enumerate(counts)]
        rows.append(Row(name=names[true], cells=cells, right=counts[true] / of if of else None))
    return {
        "names": names,
        "rows": rows,
        "pairs": [] if rows else [(names[t], names[p], cell(t, p, count, 1)) for t, p, count in report["confused"]],
        "total": total,
        "right": report["accuracy"]["validation"],
        "pictures": {**sheet, "classes": names, "mistakes": mistakes} if sheet and mistakes else None,
    }
