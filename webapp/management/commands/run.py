"""Everything of one machine, until Ctrl-C: what `make run` calls."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.urls import reverse

from webapp import launch, parts, services

GREETING = """
    Coppice is ready. This link signs you in, once:

        {link}

    Everything it keeps is in {data}. Ctrl-C ends it; make link prints another link.
"""


class Command(BaseCommand):
    help = "Start the web server, the workers and a Redis, and print a link to sign in with."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            _run()
        except launch.CannotStart as reason:
            self.stderr.write(f"Coppice cannot go on: {reason}")
            sys.exit(1)
        except KeyboardInterrupt:  # before there was anything to end
            sys.exit(130)


def _run() -> None:
    data, port = settings.DATA_DIR, settings.PORT
    host = own_name()
    address = f"https://{host}" if settings.HTTPS else f"http://{host}:{port}"
    redis_url = os.environ.get("REDIS_URL")
    launch.require_folder(data)
    with launch.alone(data, address):
        launch.require_free_port(port)
        if redis_url:
            launch.require_redis(redis_url)
        else:
            launch.redis_server()  # or it says what to install
        _migrate()
        call_command("fetch_assets")
        token = services.sign_in_link_create(user=services.local_owner())
        commands = parts.procfile(settings.BASE_DIR / "Procfile")
        greeting = GREETING.format(link=address + reverse("sign_in", args=[token]), data=data)
        asyncio.run(
            parts.run_together(commands, _environment(redis_url), data=data, port=port, host=host, greeting=greeting)
        )


def own_name() -> str:
    """A name that this site answers to."""
    names = [host.removeprefix(".") for host in settings.ALLOWED_HOSTS if host != "*"]
    return "127.0.0.1" if "127.0.0.1" in names or not names else names[0]


def _migrate() -> None:
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except DatabaseError as error:
        reason = str(error).strip().splitlines()[0]
        raise launch.CannotStart(f"the database cannot be used ({reason}); check DATABASE_URL and DATA_DIR") from None


def _environment(redis_url: str | None) -> dict[str, str]:
    """What the parts are told: the same data folder, port and interpreter as ours, and a Redis if there is one."""
    ours = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    drafts = settings.DATA_DIR / "tmp"  # of uploads: the system's own may be small
    drafts.mkdir(mode=0o700, exist_ok=True)
    return {
        **ours,
        "DATA_DIR": str(settings.DATA_DIR),
        "PORT": str(settings.PORT),
        "TMPDIR": str(drafts),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        **({"REDIS_URL": redis_url} if redis_url else {}),
    }
