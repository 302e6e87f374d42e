"""How do several searches differ: in what was asked, on their way, in what they found? Reads, and plain arithmetic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.db.models import Q

from webapp.again import briefly, leaves
from webapp.models import Search, SearchEvent, also_text, target_text
from webapp.templatetags import words
from webapp.weight_files import WEIGHT_FILES, WeightFile

FEWEST, MOST = 2, 8
"""Searches side by side."""
MOST_POINTS = 500
"""Of a line."""
MOST_ROWS = 100
"""Of the table beside the lines."""
UNSAID = ("name", "data.path", "data.dataset", *(place.dotted for place in WEIGHT_FILES))
"""Settings that stand elsewhere: in the heads of columns, in a row of their own."""

LATENCY = "Time for one image"

Points = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table says of each search, in their order."""

    label: str
    values: list[str]
    best: frozenset[int] = frozenset()
    """Places of the best; empty where there is nothing to choose between."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Accuracy on validation images by epoch: while searching, then while the found network was trained."""

    searching: Points
    training: Points
    """Epochs are counted on from the last of the search, also where that had no accuracy to tell."""

    @property
    def all(self) -> Points:
        return [*self.searching, *self.training]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A found network: the main one of a search, or that of a further target."""

    place: int
    """Of its search among those compared."""
    target: str
    params: int
    accuracy: float
    is_best: bool
    """Whether no other is at once as small and as good."""


# What was asked


def setting_rows(searches: Sequence[Search]) -> list[Row]:
    """The settings in which they differ; of what only some can have (a chain's layers) what was not left to presets."""
    asked = [dict(leaves(search.config)) for search in searches]
    names = dict.fromkeys(name for settings in asked for name in settings if name not in UNSAID)
    uploads = [
        Row(label="data.dataset", values=[search.dataset_label for search in searches]),
        *(Row(label=place.dotted, values=[_weights(search, place) for search in searches]) for place in WEIGHT_FILES),
    ]
    rows = uploads + [Row(label=name, values=[_told(settings, name) for settings in asked]) for name in names]
    chosen = {name for search in searches for name, _ in leaves(briefly(search.config))}
    return [row for row in rows if _differs(row.values) or (words.NOTHING in row.values and row.label in chosen)]


def _weights(search: Search, place: WeightFile) -> str:
    return words.NOTHING if place.of(search.config) is None else search.weights_label


def _differs(values: Iterable[str]) -> bool:
    return len({value for value in values if value != words.NOTHING}) > 1


def _told(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return words.NOTHING
    value = settings[name]
    if name == "target.value":
        return target_text({"metric": settings["target.metric"], "value": value})
    if name == "target.also":
        return also_text({"also": value}) or "none"
    return "automatic" if value is None else words.asked(value)


# What was found


def figure_rows(searches: Sequence[Search]) -> list[Row]:
    """Accuracy, sizes and times of the main networks, with the best of each; without rows that nobody has."""
    reports = [search.report or {} for search in searches]
    devices = {_at("achieved", "latency_device")(report) for report in reports if report}
    rows = [
        _figures(label, [_number(read(report)) for report in reports], write, better)
        for label, read, write, better in FIGURES
    ]
    if len(devices) > 1:  # times of different machines say nothing of the networks
        rows = [replace(row, best=frozenset()) if row.label == LATENCY else row for row in rows]
    return [row for row in rows if any(value != words.NOTHING for value in row.values)]


def _figures(
    label: str, numbers: Sequence[float | None], write: Callable[[Any], str], better: Callable[[Iterable[float]], float]
) -> Row:
    r"""A row with its best.

    >>> _figures("Size", [12, 9, None, 9], str, min).best == {1, 3}, _figures("Size", [9, None, 9], str, min).best
    (True, frozenset())
    """
    known = [number for number in numbers if number is not None]
    best = better(known) if len(set(known)) > 1 else None
    return Row(
        label=label,
        values=[words.NOTHING if number is None else write(number) for number in numbers],
        best=frozenset(place for place, number in enumerate(numbers) if best is not None and number == best),
    )


def _seconds(report: Mapping[str, Any]) -> float | None:
    taken = report.get("seconds") or {}
    return sum(taken.values()) if taken else None


def _at(part: str, name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda report: (report.get(part) or {}).get(name)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


FIGURES: tuple[
    tuple[str, Callable[[Mapping[str, Any]], Any], Callable[[Any], str], Callable[[Iterable[float]], float]], ...
] = (
    ("Test accuracy", _at("accuracy", "test"), words.percent, max),
    ("Validation accuracy", _at("accuracy", "validation"), words.percent, max),
    ("Parameters (non-zero)", _at("achieved", "params"), words.whole, min),
    ("Multiply-adds per image", _at("achieved", "macs"), words.count, min),
    ("File", _at("achieved", "bytes"), words.size, min),
    (LATENCY, _at("achieved", "latency_ms"), words.milliseconds, min),
    ("Search and training took", _seconds, words.duration, min),
)


def members(searches: Sequence[Search]) -> list[Member]:
    """Every found network by its size; those that no other beats in both are marked."""
    found = []
    for place, search in enumerate(searches):
        report = search.report or {}
        achieved, accuracy = report.get("achieved") or {}, report.get("accuracy") or {}
        networks = [(search.target_text, achieved.get("params"), accuracy.get("test"))] + [
            (also_text({"also": [member["target"]]}), member.get("params"), member.get("test"))
            for member in report.get("family") or []
        ]
        found += [
            (place, target, params, test)
            for target, params, test in networks
            if isinstance(params, int) and isinstance(test, float | int)
        ]
    front = undominated([(params, test) for _, _, params, test in found])
    return sorted(
        (
            Member(place=place, target=target, params=params, accuracy=test, is_best=number in front)
            for number, (place, target, params, test) in enumerate(found)
        ),
        key=lambda member: (member.params, -member.accuracy),
    )


def undominated(networks: Sequence[tuple[int, float]]) -> set[int]:
    """Places of (size, accuracy) for which no other is smaller and as good, or as small and better.

    >>> sorted(undominated([(10, 0.9), (20, 0.9), (20, 0.95), (30, 0.94), (10, 0.9)]))
    [0, 2, 4]
    """
    return {
        place
        for place, (size, good) in enumerate(networks)
        if not any((s <= size and g > good) or (s < size and g >= good) for s, g in networks)
    }


# On their way


def ways(searches: Sequence[Search]) -> list[Way]:
    """How accuracy went in each, whole."""
    epochs: dict[UUID, Points] = defaultdict(list)
    trained: dict[UUID, Points] = defaultdict(list)
    searched: dict[UUID, int] = defaultdict(int)
    said = SearchEvent.objects.filter(search__in=searches, kind__in=("epoch_finished", "retrain_epoch"))
    columns = ("search_id", "kind", "payload__epoch", "payload__network", "payload__validation__accuracy")
    for search_id, kind, epoch, network, accuracy in said.order_by("search", "seq").values_list(*columns):
        if kind == "epoch_finished":
            searched[search_id] = max(searched[search_id], epoch)
        if accuracy is None or network not in (None, "found"):
            continue
        (epochs if kind == "epoch_finished" else trained)[search_id].append((epoch, accuracy))
    return [
        Way(
            searching=epochs[search.pk],
            training=[(epoch + searched[search.pk], accuracy) for epoch, accuracy in trained[search.pk]],
        )
        for search in searches
    ]


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most so many of them: the lowest and the highest of each stretch, so that no spike is lost, and both ends.

    >>> line = [(n, 0.5) for n in range(1000)]
    >>> line[500] = (500, 0.1)
    >>> few = thinned(line, 20)
    >>> len(few) <= 20, few[0][0], few[-1][0], (500, 0.1) in few
    (True, 0, 999, True)
    """
    if len(points) <= most:
        return points
    inner, stretches = points[1:-1], (most - 2) // 2
    kept = {0: points[0], len(points): points[-1]}
    for n in range(stretches):
        part = range(n * len(inner) // stretches, (n + 1) * len(inner) // stretches)
        for place in (min(part, key=lambda i: inner[i][1]), max(part, key=lambda i: inner[i][1])):
            kept[place + 1] = inner[place]
    return [kept[place] for place in sorted(kept)]


def way_rows(found: Sequence[Way]) -> list[Row]:
    """The lines as numbers: a row an epoch, or every nth where there are many."""
    accuracies = [dict(way.all) for way in found]
    epochs = sorted({epoch for each in accuracies for epoch in each})
    step = -(-len(epochs) // MOST_ROWS) or 1
    shown = epochs[::step] + ([epochs[-1]] if epochs and (len(epochs) - 1) % step else [])
    return [Row(label=f"{epoch:,}", values=[words.percent(each.get(epoch)) for each in accuracies]) for epoch in shown]


def pictures(searches: Sequence[Search]) -> list[list[dict[str, Any]]]:
    """For each the events that its network is drawn from: the space, where the search stands, and what stayed.

    That is the last commit; of a finished search with further targets the last for its own.
    """
    drawn = SearchEvent.objects.filter(search__in=searches, kind__in=("search_started", "stage_started", "committed"))
    places: dict[UUID, dict[str, int]] = defaultdict(dict)
    targets: dict[UUID, Any] = {}
    columns = ("search_id", "seq", "kind", "payload__target")
    over = {search.pk for search in searches if search.report}
    for search_id, seq, kind, target in drawn.order_by("search", "seq").values_list(*columns):
        if kind == "search_started":
            targets[search_id] = target
        if kind == "committed" and search_id in over and target == targets.get(search_id):
            places[search_id]["own"] = seq
        places[search_id][kind] = seq
    wanted = Q(pk__in=())
    for search_id, found in places.items():
        if own := found.pop("own", None):
            found["committed"] = own
        wanted |= Q(search=search_id, seq__in=list(found.values()))
    said: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
    rows = SearchEvent.objects.filter(wanted).order_by("search", "seq").values_list("search_id", "payload")
    for search_id, payload in rows:
        said[search_id].append(payload | ({"changes": []} if payload["kind"] == "committed" else {}))
    return [said[search.pk] for search in searches]
