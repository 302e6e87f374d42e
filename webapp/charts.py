"""Which field of which event is drawn where? One literal table that the page interprets: a chart more is an entry more.

Paths are dotted field names of the event (``validation.accuracy``). Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict


class Series(TypedDict):
    """One line or one set of bars."""

    label: str
    event: str
    """Kind of the event that carries the value."""
    path: str
    measure: NotRequired[Literal["value", "ratio", "share"]]
    """``value`` (the default) as it is; ``ratio``: [some, all] as a percentage; ``share``: a count as a percentage of
    the units that the event's ``totals`` gives for the same granularity."""
    at: NotRequired[Literal["step", "epoch", "retraining", "commit", "everywhere"]]
    """Where on the horizontal axis: within an epoch, at the end of one (the default), after the search's last epoch, at
    the number of the commit, or as a level line over the whole width."""
    colour: str
    """Name of a colour of the style sheet (``--chart-<name>``)."""
    teacher_colour: NotRequired[str]
    """Of the line of a teacher among those of networks."""
    dash: NotRequired[Literal["dot", "dash"]]
    points: NotRequired[Literal[True]]
    """Points without a line: what lies between was not so."""
    by: NotRequired[str]
    """Field whose every value gets a line of its own."""
    only: NotRequired[str]
    """The one value of that field that is drawn."""
    sign: NotRequired[Literal[-1, 1]]


class Chart(TypedDict):
    id: str
    title: str
    sentence: str
    """What a newcomer should see in it."""
    kind: Literal["lines", "bars"]
    x_label: str
    y_label: str
    unit: Literal["", "percent", "size"]
    """How values are written: plain, 0..1 as a percentage, or a whole number such as 18.3 k."""
    series: list[Series]


SIGNS: tuple[tuple[str, Literal[-1, 1]], ...] = (("pruned", -1), ("regrown", 1))

CHARTS: list[Chart] = [
    {
        "id": "accuracy",
        "title": "Accuracy",
        "sentence": "Share of images put into the right class. Pruning costs some, training wins it back.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "accuracy",
        "unit": "percent",
        "series": [
            {"label": "training", "event": "epoch_finished", "path": "train.accuracy", "colour": "train"},
            {"label": "validation", "event": "epoch_finished", "path": "validation.accuracy", "colour": "validation"},
            {
                "label": "retraining, training",
                "event": "retrain_epoch",
                "path": "train.accuracy",
                "at": "retraining",
                "by": "network",
                "only": "found",
                "colour": "train",
                "dash": "dot",
            },
            {
                "label": "retraining, validation",
                "event": "retrain_epoch",
                "path": "validation.accuracy",
                "at": "retraining",
                "by": "network",
                "colour": "validation",
                "teacher_colour": "operation",
                "dash": "dot",
            },
        ],
    },
    {
        "id": "size",
        "title": "Size against target",
        "sentence": "The search steers the size down a ramp to the target and ends just below it.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "size",
        "unit": "size",
        "series": [
            {
                "label": "all units",
                "event": "search_started",
                "path": "full_size",
                "at": "everywhere",
                "colour": "quiet",
                "dash": "dot",
            },
            {
                "label": "ramp",
                "event": "progress",
                "path": "reference",
                "at": "step",
                "colour": "quiet",
                "dash": "dash",
            },
            {"label": "target", "event": "progress", "path": "target", "at": "step", "colour": "target"},
            {"label": "size now", "event": "progress", "path": "size", "at": "step", "colour": "size"},
            {"label": "committed", "event": "committed", "path": "size", "colour": "size", "points": True},
        ],
    },
    {
        "id": "losses",
        "title": "Losses",
        "sentence": "How wrong the network still is on its images; training makes this small.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "loss",
        "unit": "",
        "series": [
            {"label": "training", "event": "progress", "path": "losses.task", "at": "step", "colour": "train"},
            {"label": "validation", "event": "epoch_finished", "path": "validation.loss", "colour": "validation"},
        ],
    },
    {
        "id": "likeness",
        "title": "Distance from the teacher",
        "sentence": "How far the answers of the block that is learning are from those it is to learn from. Each block "
        "begins anew.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "loss",
        "unit": "",
        "series": [
            {"label": "mean square", "event": "progress", "path": "losses.feature", "at": "step", "colour": "train"},
        ],
    },
    {
        "id": "agreement",
        "title": "Agreement with the slow twins",
        "sentence": "How far what the block that is learning makes of an image is from what its slow twin makes of "
        "another view of it. Dispersion is added where different images are told apart too little. Each block begins "
        "anew.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "loss",
        "unit": "",
        "series": [
            {"label": "distance", "event": "progress", "path": "losses.agreement", "at": "step", "colour": "train"},
            {"label": "dispersion", "event": "progress", "path": "losses.dispersion", "at": "step", "colour": "filter"},
        ],
    },
    {
        "id": "pull",
        "title": "Pull towards the target",
        "sentence": "What training minimises beside its mistakes. Above zero it prunes; below zero units "
        "return, where the method lets them.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "loss",
        "unit": "",
        "series": [{"label": "size", "event": "progress", "path": "losses.size", "at": "step", "colour": "filter"}],
    },
    {
        "id": "kept",
        "title": "Units kept",
        "sentence": "Of all units in the open blocks, how many are still on, at each level that is searched.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "kept",
        "unit": "percent",
        "series": [
            {
                "label": "operations",
                "event": "epoch_finished",
                "path": "kept.operation",
                "measure": "ratio",
                "colour": "operation",
            },
            {
                "label": "filters",
                "event": "epoch_finished",
                "path": "kept.filter",
                "measure": "ratio",
                "colour": "filter",
            },
            {
                "label": "weights",
                "event": "epoch_finished",
                "path": "kept.weight",
                "measure": "ratio",
                "colour": "weight",
            },
        ],
    },
    {
        "id": "changes",
        "title": "Pruned and regrown",
        "sentence": "At each commit, as a share of all units of that level. Below the line: what was cut back. Above: "
        "what came back, where the method lets units return.",
        "kind": "bars",
        "x_label": "commit",
        "y_label": "share of units",
        "unit": "percent",
        "series": [
            {
                "label": label,
                "event": "committed",
                "path": f"{change}.{granularity}",
                "measure": "share",
                "at": "commit",
                "colour": granularity,
                "sign": sign,
            }
            for change, sign in SIGNS
            for granularity, label in (("operation", "operations"), ("filter", "filters"), ("weight", "weights"))
        ],
    },
    {
        "id": "speed",
        "title": "Speed",
        "sentence": "Images that pass through the network in a second of training: the more is pruned, the more.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "images a second",
        "unit": "",
        "series": [
            {"label": "training", "event": "progress", "path": "images_per_second", "at": "step", "colour": "train"}
        ],
    },
    {
        "id": "memory",
        "title": "Memory",
        "sentence": "The most that the engine has used so far, in MiB.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "MiB",
        "unit": "",
        "series": [{"label": "most so far", "event": "progress", "path": "memory_mib", "at": "step", "colour": "size"}],
    },
    {
        "id": "thresholds",
        "title": "Learned thresholds",
        "sentence": "A unit whose score falls below its threshold is off. Higher means stricter.",
        "kind": "lines",
        "x_label": "epoch",
        "y_label": "threshold",
        "unit": "",
        "series": [
            {"label": "operations", "event": "epoch_finished", "path": "thresholds.operation", "colour": "operation"},
            {"label": "filters", "event": "epoch_finished", "path": "thresholds.filter", "colour": "filter"},
            {"label": "weights", "event": "epoch_finished", "path": "thresholds.weight", "colour": "weight"},
        ],
    },
]


BLOCKWISE = ("dna",)
"""Methods whose blocks learn one by one, and are put together at the end."""
OF_BLOCKS: dict[str, str | None] = {
    "size": "Nothing is decided before the end: the line is the largest network, the dot under its end the network "
    "that was put together, which is no larger than the target.",
    "losses": None,
    "pull": None,
    "kept": None,
    "changes": None,
    "speed": "Images that the block in hand learns from in a second. Each block has a speed of its own.",
    "thresholds": None,
}
"""Another sentence for their charts, or None where they have nothing to tell."""
FLAT = ("full_size", "reference")
"""Lines beside the size that are the very line of the size there."""
NOT_CLASSED = "Share of images put into the right class. Blocks that learn one by one put none into a class. "


def charts_of(operations: str, /, kind: str, **settings: Any) -> list[Chart]:
    """The table as a search needs it: with this word for operations, by its method and the settings of that.

    >>> [series["label"] for series in charts_of("blocks", "mgas")[4]["series"]]
    ['blocks', 'filters', 'weights']
    >>> [chart["id"] for chart in charts_of("operations", "dna")]
    ['accuracy', 'size', 'likeness', 'speed', 'memory']
    >>> [chart["id"] for chart in charts_of("operations", "dna", recipe="dna++")]
    ['accuracy', 'size', 'agreement', 'speed', 'memory']
    """
    told = _told(kind, settings)
    return [
        {**chart, "sentence": sentence, "series": _called(chart["series"], operations, kind)}
        for chart in CHARTS
        if (sentence := told.get(chart["id"], chart["sentence"]))
    ]


def _told(kind: str, settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Other sentences than those of the table; None for a chart that has nothing to tell."""
    if kind not in BLOCKWISE:
        return {"likeness": None, "agreement": None}
    other = "likeness" if settings.get("recipe") == "dna++" else "agreement"
    return {**OF_BLOCKS, "accuracy": NOT_CLASSED + _lines_of_blocks(settings), other: None}


def _lines_of_blocks(settings: Mapping[str, Any]) -> str:
    """What the lines of accuracy are, by who teaches the blocks: only what is trained here has a line."""
    found = "Behind the search stands the network that was put together."
    if settings.get("generations", 1) > 1:
        if settings.get("teacher") == "library":
            return f"Teacher 1 has no line; that of each later one ends where blocks begin to learn from it. {found}"
        return f"Teacher 1's line ends at epoch 0, that of each later one where blocks begin to learn from it. {found}"
    if settings.get("recipe") == "dna++" or settings.get("teacher") == "library":
        return found
    return f"The teacher's line ends at epoch 0. {found}"


def _called(lines: list[Series], operations: str, kind: str) -> list[Series]:
    return [
        {**series, "label": operations} if series["label"] == "operations" else series
        for series in lines
        if not (kind in BLOCKWISE and series["path"] in FLAT)
    ]
