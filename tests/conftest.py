"""What every test gets: a database file of its own, and neighbours that share what is expensive to make."""

from __future__ import annotations

import pytest
from django.db import connections
from xdist.scheduler import LoadScopeScheduling

BROWSERS = ("", "compare_", "form_", "model_", "own_weights_", "trial_")
SERVED = ("launch", "deploy", "looks", "drawing", *(f"{what}browser" for what in BROWSERS))
"""Tests that start all of Coppice, most of them with a browser: one at a time, and about as long as all the rest."""
TOGETHER = {
    "servers": ("tests/chaos/", *(f"tests/webapp/test_{name}.py" for name in SERVED)),
    "web": ("webapp/", "tests/webapp/"),
    "finished searches": tuple(
        f"tests/engine/test_{name}.py" for name in ("command_line", "compact", "export", "mistakes", "sparse_file")
    ),
    "searches": tuple(
        f"tests/engine/test_{name}.py" for name in ("search", "early_end", "distillation", "msgdas_verifying")
    ),
    "known models": tuple(f"tests/engine/test_{name}.py" for name in ("survey", "borrowed", "latency", "scale_model")),
}
"""Parts of the suite whose tests share servers, finished searches or known models. What takes longest comes first, and
the web before the engine: no test of it runs where torch was imported."""


def part_of(nodeid: str) -> str:
    """The part of the suite that a test belongs to; any other test file is one of its own."""
    return next((part for part, places in TOGETHER.items() if nodeid.startswith(places)), nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = list(TOGETHER)
    items.sort(key=lambda item: order.index(part) if (part := part_of(item.nodeid)) in order else len(order))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """A worker takes a whole part at a time.

    Marks for `--dist loadgroup` do not do it: what that adds to a test's name is lost on this version of pytest.
    """
    return PartScheduling(config, log)


class PartScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it carries no types
    def _split_scope(self, nodeid: str) -> str:
        return part_of(nodeid)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, as in real life: threads and processes share it, which SQLite in memory does not allow."""
    if connections["default"].vendor == "sqlite":
        connections["default"].settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
