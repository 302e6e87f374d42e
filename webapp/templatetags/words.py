"""Numbers in words and short forms, and form fields with their style. The same rules as static/js/words.js."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeGuard

from django import template
from django.forms import BoundField, CheckboxInput, CheckboxSelectMultiple, RadioSelect, Select
from django.utils import timezone
from django.utils.safestring import SafeString

from nasengine import catalogue, durations
from webapp.models import UPLOAD

register = template.Library()

NOTHING = "—"
PICTURES = {
    "space__cells__candidates": "candidates",
    "strategy__mgas__cuts": "stages",
    "strategy__mgas__regrow_fraction": "regrowth",
}
"""Advanced field -> its picture."""
DRAWN = (*catalogue.PRESETS, *catalogue.SPACES, *catalogue.STRATEGIES, *catalogue.METRICS, *PICTURES.values())


@register.filter
def count(n: float | None) -> str:
    """A number in its short form.

    >>> count(18314), count(950), count(1204992), count(None)
    ('18.3 k', '950', '1.20 M', '—')
    """
    if not _is_number(n):
        return NOTHING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(n) >= size * 0.9995:
            return f"{_three(n / size)} {unit}"
    return str(round(n))


@register.filter
def whole(n: float | None) -> str:
    """A number in full; a size in milliseconds keeps three digits.

    >>> whole(18314), whole(0.41234), whole(2.0)
    ('18,314', '0.412', '2')
    """
    if n is None or not _is_number(n):
        return NOTHING
    return f"{float(f'{n:.3g}'):g}" if abs(n) < 1000 and n != int(n) else f"{round(n):,}"


@register.filter
def percent(fraction: float | None, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.9722), percent(0.5, 0)
    ('97.2 %', '50 %')
    """
    return f"{100 * fraction:.{digits}f} %" if _is_number(fraction) else NOTHING


@register.filter
def size(n: float | None) -> str:
    """Bytes.

    >>> size(71300), size(12)
    ('71.3 kB', '12 bytes')
    """
    short = count(n)
    return short if short == NOTHING else f"{short}B" if short[-1] in "kMG" else f"{short} bytes"


@register.filter
def memory(mib: float | None) -> str:
    """Memory.

    >>> memory(412), memory(1500)
    ('412 MiB', '1.46 GiB')
    """
    if not _is_number(mib):
        return NOTHING
    return f"{_three(mib / 1024)} GiB" if mib >= 1024 else f"{round(mib)} MiB"


@register.filter
def duration(seconds: float | None) -> str:
    """A duration as people say it, in the engine's words."""
    return durations.duration(seconds) if _is_number(seconds) else NOTHING


@register.filter
def milliseconds(ms: float | None) -> str:
    """A short time that was measured.

    >>> milliseconds(0.04), milliseconds(0.84), milliseconds(18.34)
    ('less than 0.1 ms', '0.84 ms', '18.3 ms')
    """
    if not _is_number(ms):
        return NOTHING
    return "less than 0.1 ms" if ms < 0.1 else f"{_three(ms)} ms"


@register.simple_tag
def span(least: float | None, most: float | None) -> str:
    """A duration between two.

    >>> span(70, 240), span(170, 171), span(42, 170), span(None, None)
    ('1 to 4 minutes', 'about 3 minutes', '40 seconds to 3 minutes', '—')
    """
    first, last = (duration(seconds).removeprefix("about ") for seconds in (least, most))
    if first == last:
        return duration(most)
    number, unit = first.split(" ", 1)
    return f"{number if unit.rstrip('s') == last.split(' ', 1)[1].rstrip('s') else first} to {last}"


@register.filter
def ago(then: datetime) -> str:
    """How long since a moment."""
    seconds = (timezone.now() - then).total_seconds()
    return "just now" if seconds < 50 else f"{duration(seconds).removeprefix('about ')} ago"


@register.filter
def ahead(then: datetime) -> str:
    """How long until a moment; what is over is as good as here."""
    seconds = (then - timezone.now()).total_seconds()
    return "in a moment" if seconds < 50 else f"in {duration(seconds)}"


@register.filter
def metric_unit(metric: str) -> str:
    """What a target counts.

    >>> metric_unit("macs"), metric_unit("params")
    ('multiply-adds', 'parameters')
    """
    return catalogue.METRICS.get(metric, metric)


@register.filter
def catalogue_sentence(name: object) -> str:
    """What the catalogue says of a preset, a data set, a space or a strategy; empty for anything else.

    >>> catalogue_sentence("digits")
    '1,797 handwritten digits, 8x8 grey. Comes with scikit-learn, works offline.'
    """
    tables = (catalogue.PRESETS, catalogue.DATASETS, catalogue.SPACES, catalogue.STRATEGIES)
    return next((table[str(name)].sentence for table in tables if str(name) in table), "")


@register.filter
def picture(name: str) -> str:
    """The template of the picture of a choice, or of an advanced field that has one; empty if there is none.

    >>> picture("cells"), picture("strategy__mgas__cuts"), picture("seed")
    ('searches/pictures/cells.html', 'searches/pictures/stages.html', '')
    """
    drawn = PICTURES.get(name, name)
    return f"searches/pictures/{drawn}.html" if drawn in DRAWN else ""


@register.filter
def is_upload(dataset: object) -> bool:
    """Whether a configuration's data set is somebody's own.

    >>> is_upload("upload:6f"), is_upload("digits")
    (True, False)
    """
    return str(dataset).startswith(UPLOAD)


@register.filter
def item(mapping: Any, key: str) -> Any:
    """The value of a key; None where there is none."""
    return mapping.get(key) if isinstance(mapping, dict) else None


@register.filter
def asked(value: object) -> str:
    """A setting as people read it.

    >>> asked(True), asked((1, 3)), asked(0.15), asked(""), asked({"params": None, "macs": "30%"})
    ('yes', '1, 3', '0.15', '—', 'macs 30%')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{name} {item}" for name, item in value.items() if item is not None]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text or NOTHING


@register.filter
def control(field: BoundField) -> SafeString:
    """A field's widget with the style sheet's class for its kind; help and error are read out with it."""
    widget = field.field.widget
    if isinstance(widget, CheckboxInput | CheckboxSelectMultiple | RadioSelect):
        kind = "form-check-input"
    else:
        kind = "form-select" if isinstance(widget, Select) else "form-control"
    help_text = f"{field.auto_id}_helptext " if field.help_text else ""
    return field.as_widget(attrs={"class": kind, "aria-describedby": f"{help_text}{field.auto_id}_error"})


def _is_number(n: object) -> TypeGuard[float]:
    return isinstance(n, int | float) and not isinstance(n, bool)


def _three(x: float) -> str:
    size = abs(x)
    return f"{x:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
