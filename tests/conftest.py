"""What every test gets: a database file of its own, and a process for each half of the suite."""

from __future__ import annotations

import pytest
from django.db import connections


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engine and web run beside each other; within each, tests share runs and servers, so they stay together."""
    for item in items:
        is_web = item.nodeid.startswith(("webapp/", "tests/webapp/"))
        item.add_marker(pytest.mark.xdist_group("web" if is_web else "engine"))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file, as in real life: threads and processes share it, which SQLite in memory does not allow."""
    if connections["default"].vendor == "sqlite":
        connections["default"].settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
