"""How large the found network may be, and what else it may not exceed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nasengine import catalogue
from nasengine.config.part import Part, option
from nasengine.errors import ConfigError
from nasengine.sizes import LATENCY, unit

NO_AMOUNT = "is neither a number nor a percentage; write for example 20000 or 40%"


class LimitsConfig(Part):
    """Limits beside the target."""

    params: float | str | None = option(
        None, "At most so many parameters as well, where the target is on multiply-adds; a number or a percentage of "
        "the full space (with DNA, of its largest network). Empty: no such limit.",
        title="Limit on parameters", empty="none",
    )  # fmt: skip
    macs: float | str | None = option(
        None, "At most so many multiply-adds as well, where the target is on parameters: equal parameters is not equal "
        "time. A number or a percentage of the full space (with DNA, of its largest network). Empty: no such limit.",
        title="Limit on multiply-adds", empty="none",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def milliseconds_are_a_target(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "latency_ms" in given:
            raise ConfigError.at(
                "target.limits.latency_ms",
                "milliseconds can be the target alone; give them there (target.metric: latency_ms), and params or macs "
                "as limits beside it",
            )
        return given


class TargetConfig(Part):
    """How large the found network may be."""

    metric: Literal["params", "macs", "latency_ms"] = option(
        "params",
        "What is limited: stored non-zero weights, multiply-adds for one image, or milliseconds for one image, "
        "measured on the device that searches.",
        title="Limit on",
        advanced=False,
    )
    value: float | str = option(
        "40%",
        "A number, or a percentage of the full space such as 40%; with DNA, of its largest network, which has one "
        "operation a layer. How many milliseconds can be reached is known once a search has begun and measured its "
        "device.",
        title="Target",
        advanced=False,
    )

    also: tuple[float | str, ...] = option(
        (), "Further targets of the same search, each with a trained network of its own; not with DNA.",
        title="Further targets", max_length=8, strict=False,
    )  # fmt: skip
    limits: LimitsConfig = Field(default_factory=LimitsConfig)

    @model_validator(mode="after")
    def values_are_amounts(self) -> Self:
        _check_amount("target.value", self.value, self.metric)
        for value in self.also:
            _check_amount("target.also", value, self.metric)
        for metric, value in self.limits:
            if value is None:
                continue
            _check_amount(f"target.limits.{metric}", value, metric)
            if metric == self.metric:
                raise ConfigError.at(
                    f"target.limits.{metric}",
                    f"the target is on {catalogue.METRICS[metric]} already; leave it empty, or limit another",
                )
        return self

    def resolved(self, full: int) -> int:
        """The target as a whole number (of nanoseconds, if it is a time), given the size of the full space.

        >>> TargetConfig(value="40%").resolved(1000), TargetConfig(value=250).resolved(1000)
        (400, 250)
        >>> TargetConfig(metric="latency_ms", value=0.25).resolved(10**6)
        250000
        """
        return _resolved("target.value", self.value, full, self.metric)

    def family(self, full: int) -> tuple[int, ...]:
        """All targets from large to small, the main one among them.

        >>> TargetConfig(value="40%", also=("60%", 250)).family(1000)
        (600, 400, 250)
        """
        further = (_resolved("target.also", value, full, self.metric) for value in self.also)
        return tuple(sorted({self.resolved(full), *further}, reverse=True))

    def further_limits(self, full: Callable[[str], int]) -> dict[str, int]:
        """Metric -> what is not to be exceeded beside the target; `full` gives the size of the full space.

        >>> TargetConfig(value="40%", limits=LimitsConfig(macs="30%")).further_limits(lambda metric: 2000)
        {'macs': 600}
        """
        return {
            metric: _resolved(f"target.limits.{metric}", value, full(metric), metric)
            for metric, value in self.limits
            if value is not None
        }


def _check_amount(field: str, value: float | str, metric: str) -> None:
    fraction, amount = _amount(field, value)
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError.at(field, f"{value} is out of range; give a percentage above 0% and up to 100%")
    if amount is not None and metric == LATENCY and not 0.000001 <= amount < math.inf:
        raise ConfigError.at(field, f"{value} is out of range; give milliseconds above 0, or a percentage such as 40%")
    if amount is not None and metric != LATENCY and not 1 <= amount < math.inf:
        raise ConfigError.at(
            field, f"{value} is out of range; give a number of at least 1, or a percentage such as 40%"
        )


def _resolved(field: str, value: float | str, full: int, metric: str) -> int:
    fraction, amount = _amount(field, value)
    return int(amount * unit(metric) if amount is not None else (fraction or 0) * full)


def _amount(field: str, value: float | str) -> tuple[float | None, float | None]:
    """(fraction, None) for a percentage, (None, number) for a number."""
    text = str(value).strip().replace(",", "").replace("_", "")
    try:
        return (float(text[:-1]) / 100, None) if text.endswith("%") else (None, float(text))
    except ValueError:
        raise ConfigError.at(field, f"'{value}' {NO_AMOUNT}") from None
