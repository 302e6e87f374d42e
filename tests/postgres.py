"""A PostgreSQL of one's own while a command or a test runs, from Debian's programs; nothing of it is left.

python -m tests.postgres -- command...    runs the command with its DATABASE_URL
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg.sql import SQL, Identifier

HURRY = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
"""What is thrown away needs no care for power cuts."""


class Missing(Exception):
    """What this machine lacks."""


def program(name: str) -> str:
    """The newest of this name; Debian keeps them out of the way."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if found := shutil.which(name, path=os.pathsep.join(map(str, reversed(versions)))) or shutil.which(name):
        return found
    raise Missing("there is no PostgreSQL server on this machine; install it: sudo apt install postgresql")


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Its address, as DATABASE_URL wants it: a socket in a folder that only this user may enter."""
    initdb, control = program("initdb"), program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    as_its_user: list[str] = []
    user = getpass.getuser()
    try:
        if os.geteuid() == 0:  # which it refuses to run as
            user, as_its_user = "postgres", ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, user)
        cluster = folder / "cluster"

        def run(*command: str) -> None:
            subprocess.run([*as_its_user, *command], cwd=folder, stdout=subprocess.DEVNULL, check=True)

        run(initdb, "-D", str(cluster), "-U", user, "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync")
        options = f"-c listen_addresses='' -k {folder} {HURRY}"
        run(control, "-D", str(cluster), "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgres://{user}@{quote(str(folder), safe='')}/postgres"
        finally:
            run(control, "-D", str(cluster), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def database_beside(url: str | None) -> Iterator[str | None]:
    """Address of an empty database on the same server, for what starts processes of its own; None for SQLite."""
    if not (url and urlsplit(url).scheme.startswith("postgres")):
        yield None
        return
    name = f"beside_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            server.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is ended, too
    try:
        with running() as address:
            sys.exit(subprocess.run(sys.argv[2:], env={**os.environ, "DATABASE_URL": address}, check=False).returncode)
    except Missing as reason:
        sys.exit(str(reason))
