"""Figures of this installation in Prometheus' format, read from the rows at each scrape.

So every web process says the same, and none has to remember anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from django.conf import settings
from django.db.models import Count, Max, Min, Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from webapp import health
from webapp.models import HELD_STATES, Dataset, DatasetState, Search, SearchState, Survey, SurveyState, Weights


def exposition() -> bytes:
    """All of them, as text (format 0.0.4 and later)."""
    registry = CollectorRegistry()
    registry.register(_Figures())
    return generate_latest(registry)


class _Figures(Collector):
    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        yield _by_state("coppice_searches", "Searches in each state.", _counts(Search), SearchState.values)
        yield _by_state("coppice_datasets", "Data sets in each state.", _counts(Dataset), DatasetState.values)
        yield _by_state("coppice_surveys", "Looks at known models in each state.", _counts(Survey), SurveyState.values)
        waiting = Search.objects.filter(state=SearchState.QUEUED).aggregate(since=Min("queued_at"))["since"]
        yield GaugeMetricFamily(
            "coppice_queue_wait_seconds",
            "How long the search that waits longest has been queued.",
            (now - waiting).total_seconds() if waiting else 0.0,
        )
        held = Search.objects.filter(state__in=HELD_STATES).aggregate(oldest=Min("heartbeat_at"), losses=Max("losses"))
        yield GaugeMetricFamily(
            "coppice_heartbeat_age_seconds",
            "Age of the oldest heartbeat among searches under way; above half a minute something hangs.",
            (now - held["oldest"]).total_seconds() if held["oldest"] else 0.0,
        )
        yield GaugeMetricFamily(
            "coppice_search_losses",
            "The most attempts in a row that a search under way has lost.",
            held["losses"] or 0,
        )
        yield GaugeMetricFamily(
            "coppice_upload_bytes",
            "All uploads together.",
            sum(model.objects.aggregate(total=Sum("bytes"))["total"] or 0 for model in (Dataset, Weights)),
        )
        yield GaugeMetricFamily(
            "coppice_disk_free_bytes",
            "Left where data sets and runs are kept.",
            shutil.disk_usage(settings.DATA_DIR).free,
        )
        parts = GaugeMetricFamily("coppice_up", "1 if /healthz calls the part ok.", labels=["part"])
        for part, said in health.health().items():
            parts.add_metric([part], float(said == "ok"))
        yield parts


def _counts(model: type[Search] | type[Dataset] | type[Survey]) -> dict[str, int]:
    return dict(model.objects.order_by().values_list("state").annotate(Count("pk")))


def _by_state(name: str, about: str, counts: dict[str, int], states: list[str]) -> Metric:
    found = GaugeMetricFamily(name, about, labels=["state"])
    for state in states:
        found.add_metric([state], counts.get(state, 0))
    return found
