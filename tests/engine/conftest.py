"""What every engine test gets: one packed copy of the images, and runs that several tests read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small import VARIANTS, StopAt, called, configuration, raw, written

from nasengine.events import Event
from nasengine.search import search

QUICK_DIGITS = {
    "name": "d",
    "preset": "quick",
    "seed": 0,
    "data": {"dataset": "digits", "limit": 900},
    "space": {"kind": "cells"},
    "strategy": {"kind": "mgas"},
    "target": {"metric": "params", "value": 20_000},
}


@dataclass(frozen=True)
class Finished:
    """A search that the command line has run to its end."""

    config: dict[str, Any]
    out: Path
    stdout: str
    stderr: str
    code: int

    @property
    def result(self) -> Path:
        return self.out / "result"

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.result / "report.json").read_text())

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packed images go to a folder of this session; child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPPICE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def finished(config: dict[str, Any], folder: Path) -> Finished:
    (folder / "config.json").write_text(json.dumps(config))
    run = called("search", folder / "config.json", "--out", folder / "run")
    return Finished(config, folder / "run", run.stdout, run.stderr, run.returncode)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Finished:
    """One tiny search with a random network beside it, by the command line."""
    return finished(raw({"baseline.random": 1}), tmp_path_factory.mktemp("tiny"))


@dataclass(frozen=True)
class Whole:
    """A search that this process has run to its end; `looks`: how often it looked whether to stop."""

    folder: Path
    said: list[Event]
    looks: int

    def of(self, *kinds: type[Event]) -> list[Any]:
        """Its events of some kinds."""
        return [event for event in self.said if isinstance(event, kinds)]


@pytest.fixture(scope="session")
def whole_of(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Callable[[str], Whole]:
    """The uninterrupted run of a variant, made when it is first asked for."""
    made: dict[str, Whole] = {}

    def of(name: str) -> Whole:
        if name not in made:
            folder, control = tmp_path_factory.mktemp(name), StopAt(float("inf"))
            said = list(search(configuration(VARIANTS[name]), folder, control=control))
            made[name] = Whole(folder, said, control.looks)
        return made[name]

    return of


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Finished:
    """The quick preset on half of the digits, by the command line; some minutes."""
    return finished(QUICK_DIGITS, tmp_path_factory.mktemp("digits"))


@pytest.fixture(params=["tiny_run", pytest.param("digits_run", marks=pytest.mark.long)])
def run(request: pytest.FixtureRequest) -> Finished:
    """A finished search: the tiny one, and among long tests the quick one on digits."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The configuration of the tiny search as a file."""
    return written(tmp_path)
