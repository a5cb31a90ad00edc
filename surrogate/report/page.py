"""Writes a report's files from its content: HTML by template, CSV, JSON, SVG."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from surrogate.errors import UsageError
from surrogate.files import atomic_write_text
from surrogate.report.svg import Drawing, write_drawings

__all__ = ["check_out", "now", "render", "write_report"]

#: Shown where there is no value.
_NONE = "none"


def check_out(out: Path) -> Path:
    """``out`` if a report can be written there.

    Raises
    ------
    UsageError
        If it does not end in .html.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: expected a name ending in .html")
    return out


def now() -> str:
    """The time of the report, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")


def render(template: str, drawings: Mapping[str, Drawing], **content: Any) -> str:
    """Fill in a template of this package; every text is escaped, only drawings are markup.

    Parameters
    ----------
    template : str
        File name.
    drawings : mapping of str to Drawing
        By name; a template leaves out those that are not there.
    content : values by name
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "digits": _digits,
        "interval": _interval,
        "percent": _percent,
        "rate": _rate,
        "score": _score,
        "span": _span,
        "weight": _weight,
        "whole": _whole,
    }
    return environment.get_template(template).render(drawings=drawings, **content)


def write_report(
    out: Path,
    html: str,
    content: Mapping[str, Any],
    csv: str,
    svg: Path | None,
    drawings: Sequence[Drawing],
) -> dict[str, Any]:
    """Write the page, and beside it the same content as JSON and its table as CSV.

    Returns
    -------
    dict
        The paths: ``html``, ``json``, ``csv``, and ``svg``, a list.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    paths: dict[str, Any] = {
        "html": out,
        "json": out.with_suffix(".json"),
        "csv": out.with_suffix(".csv"),
    }
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write_text(paths["json"], text + "\n")
    atomic_write_text(paths["csv"], csv)
    paths["svg"] = [] if svg is None else write_drawings(svg, list(drawings))
    atomic_write_text(out, html)
    return paths


def _score(value: float | None, digits: int = 4) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _whole(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _digits(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}g}"


def _percent(value: float | None, decimals: int = 1) -> str:
    return _NONE if value is None else f"{value:.{decimals}%}".replace("%", " %")


def _rate(value: float) -> str:
    """A learning rate as the blog writes it where three decimals hold it."""
    return f"{value:.3f}" if round(value, 3) == value else f"{value:g}"


def _weight(value: float | None) -> str:
    return "None" if value is None else f"{value:g}"


def _interval(value: Sequence[float] | None, digits: int = 4) -> str:
    return _NONE if value is None else f"[{', '.join(_score(end, digits) for end in value)}]"


def _span(value: Sequence[float], digits: int) -> str:
    """``0.27 to 0.34``, or one number if both ends agree."""
    low, high = (f"{end:.{digits}g}" for end in value)
    return low if low == high else f"{low} to {high}"
