"""Numbers and states as a person reads them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def count(number: float | None, unit: str = "") -> str:
    """A large number with thin spaces between its thousands: "12 345 /s"; a dash where there is none."""
    if number is None or not math.isfinite(number):
        return "–"
    return f"{number:,.0f}".replace(",", "\u202f") + (f" {unit}" if unit else "")


def share(part: float | None, digits: int = 0) -> str:
    """A share of 1 as per cent."""
    return "–" if part is None or not math.isfinite(part) else f"{100 * part:.{digits}f} %"


def loss(value: float | None) -> str:
    """A loss with three digits that mean something."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """Numbers with their names above them, as HTML."""
    cells = (f"<div><span>{html.escape(name)}</span><b>{html.escape(text)}</b></div>" for name, text in entries)
    return f'<div class="workbench-tiles">{"".join(cells)}</div>'


def bar(done: float, label: str) -> str:
    """A progress bar that a screen reader can read, as HTML."""
    percent = min(100.0, max(0.0, 100 * done))
    return (
        f'<div class="workbench-bar" role="progressbar" aria-label="{html.escape(label, quote=True)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}"><div style="width:{percent:.1f}%"></div></div>'
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as HTML."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return f'<div class="workbench-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
