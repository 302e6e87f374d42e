"""What every test gets: a database file of its own, and a process for each half of the suite."""

from __future__ import annotations

import pytest
from django.db import connections
from xdist.scheduler import LoadScopeScheduling


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Engine and web run beside each other; within each, tests share runs and servers, so they stay together.

    Marks for `--dist loadgroup` do not do it: what that adds to a test's name is lost on this version of pytest.
    """
    return Halves(config, log)


class Halves(LoadScopeScheduling):  # type: ignore[misc]  # it carries no types
    def _split_scope(self, nodeid: str) -> str:
        return "web" if nodeid.startswith(("webapp/", "tests/webapp/", "tests/chaos/")) else "engine"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, as in real life: threads and processes share it, which SQLite in memory does not allow."""
    if connections["default"].vendor == "sqlite":
        connections["default"].settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
