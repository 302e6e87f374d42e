"""How it starts: what it refuses and in which words, one real start, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery.exceptions import SecurityWarning
from celery.platforms import ROOT_DISCOURAGED
from celery.signals import celeryd_init
from django.core.management import call_command

from webapp import health, launch, parts
from webapp.launch import CannotStart
from webapp.management.commands import fetch_assets, run

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 90
MARK = "COPPICE_TEST_MARK"


@dataclass
class Launcher:
    """A launcher in a session of its own, and all that carries its mark."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: str
    port: int

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def link(self) -> str:
        """The path of the link that it printed."""
        found = re.search(rf"http://127\.0\.0\.1:{self.port}(/sign-in/\S+/)", self.said)
        assert found is not None, self.said
        return found[1]

    def await_text(self, text: str) -> None:
        self.wait_until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said, self.said

    def end(self, number: signal.Signals) -> int:
        """Signal the whole group, as a terminal does; gives the exit status."""
        os.killpg(self.process.pid, number)
        return self.process.wait(PATIENCE_SECONDS)

    def wait_until(self, question: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not question():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def left(self) -> list[psutil.Process]:
        """Every process on this machine that inherited the mark."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def part(self, word: str) -> psutil.Process:
        """The part whose command line has this word."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if word in " ".join(child.cmdline()))

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        return False


@contextlib.contextmanager
def launched(command: list[str], folder: Path, **settings: str) -> Iterator[Launcher]:
    port, mark = launch.free_port(), uuid.uuid4().hex
    without = {"REDIS_URL", "DATABASE_URL", "SECRET_KEY", "DEBUG", "HTTPS", "ALLOWED_HOSTS"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"DATA_DIR": str(folder / "data"), "PORT": str(port), MARK: mark, **settings}
    log = folder / f"{mark}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    launcher = Launcher(process, log, mark, port)
    try:
        yield launcher
    finally:
        for left in launcher.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def coppice(folder: Path, **settings: str) -> contextlib.AbstractContextManager[Launcher]:
    return launched([sys.executable, "manage.py", "run"], folder, **settings)


def refusal(folder: Path, **settings: str) -> str:
    """What a start says that does not come to be, after the words that all of them begin with."""
    with coppice(folder, **settings) as launcher:
        assert launcher.process.wait(PATIENCE_SECONDS) == 1
        lines = launcher.said.splitlines()
        assert len(lines) == 1, launcher.said
        assert launcher.left() == []
        return lines[0]


def ask(port: int, path: str, cookie: str = "", *, post: dict[str, object] | None = None) -> http.client.HTTPResponse:
    headers = {"Cookie": cookie, "Content-Type": "application/json"}
    if token := re.search(r"coppice_csrf=([^;]+)", cookie):
        headers["X-CSRFToken"] = token[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST" if post else "GET", path, json.dumps(post) if post else None, headers)
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def sign_in(launcher: Launcher) -> str:
    """The cookies that the printed link gives."""
    response = ask(launcher.port, launcher.link)
    assert response.status == 302
    return "; ".join(cookie.split(";")[0] for cookie in response.headers.get_all("Set-Cookie", []))


# What it refuses


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} is in use by another program; end that, or choose another: make run PORT=" in refusal(
            tmp_path, PORT=str(port)
        )


def test_a_port_that_is_no_port_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "PORT is 'eighty'; expected a number from 1 to 65535" in refusal(tmp_path, PORT="eighty")


def test_a_data_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = refusal(tmp_path, DATA_DIR=str(tmp_path / "file" / "data"))
    assert f"DATA_DIR {tmp_path}/file/data cannot be used (Not a directory)" in said


def test_a_data_folder_that_is_a_file_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    mend = r"cannot be used \(File exists\); name a folder you may write to: make run DATA_DIR=/path"
    with pytest.raises(CannotStart, match=mend):
        launch.require_folder(tmp_path / "file")


def test_a_redis_that_does_not_answer_is_refused_in_one_line_without_its_password(tmp_path: Path) -> None:
    said = refusal(tmp_path, REDIS_URL=f"redis://:geheim@127.0.0.1:{launch.free_port()}/0")
    assert "no Redis answers at REDIS_URL redis://:***@127.0.0.1:" in said
    assert "leave REDIS_URL out and Coppice starts its own" in said
    assert "geheim" not in said


def test_a_redis_address_that_is_none_is_refused() -> None:
    with pytest.raises(CannotStart, match="no Redis answers at REDIS_URL localhost"):
        launch.require_redis("localhost")


def test_a_database_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "db.sqlite3").write_bytes(b"no database at all " * 100)
    assert "the database cannot be used (file is not a database)" in refusal(tmp_path)


def test_a_machine_without_redis_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotStart, match="no redis-server on this machine; install it: sudo apt install redis-server"):
        launch.redis_server()


def test_the_systems_redis_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "redis-server"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.redis_server() == str(mine)


def test_a_second_start_on_the_same_data_is_told_of_the_first(tmp_path: Path) -> None:
    with launch.alone(tmp_path, "http://127.0.0.1:8000"):
        sentence = (
            rf"another Coppice runs on this data folder: http://127.0.0.1:8000 \(process {os.getpid()}\); use that"
        )
        with pytest.raises(CannotStart, match=sentence), launch.alone(tmp_path, "http://127.0.0.1:8001"):
            pass
    with launch.alone(tmp_path, "http://127.0.0.1:8002"):
        pass  # the first is gone


def test_where_it_runs_is_told_while_it_runs(tmp_path: Path) -> None:
    never = "no Coppice runs on .*; start it with make run, which prints a link, too"
    with pytest.raises(CannotStart, match=never):
        launch.running_at(tmp_path)
    with launch.alone(tmp_path, "http://127.0.0.1:8000"):
        assert launch.running_at(tmp_path) == "http://127.0.0.1:8000"
    with pytest.raises(CannotStart, match=never):
        launch.running_at(tmp_path)


def test_a_link_to_parts_that_were_started_by_hand(settings: Any, db: None, capsys: pytest.CaptureFixture[str]) -> None:
    settings.HTTPS, settings.ALLOWED_HOSTS = True, ["coppice.example"]
    call_command("sign_in_link")
    assert re.fullmatch(r"https://coppice\.example/sign-in/[\w-]+/\n", capsys.readouterr().out)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Make in a folder with nothing but what installing needs, as if typed (not as part of the make that runs us)."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_too_old_a_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    result = make(tmp_path, "run", f"PYTHON={old}")
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert said == [
        f"Coppice needs Python 3.11 or newer, {old} is 3.9; install it, or name it: make run PYTHON=/path/to/python3.11"
    ]
    assert not (tmp_path / ".venv").exists()


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    bare = tmp_path / "python3"
    bare.write_text('#!/bin/sh\ncase "$2" in *version_info*) echo 3.12;; *) exit 1;; esac\n')
    bare.chmod(0o755)
    result = make(tmp_path, "run", f"PYTHON={bare}")
    assert result.returncode != 0
    assert "Python 3.12 comes without its venv module; install it: sudo apt install python3.12-venv" in result.stderr


def test_make_alone_lists_what_there_is(tmp_path: Path) -> None:
    result = make(tmp_path)
    assert result.returncode == 0
    listed = re.findall(r"^make ([\w-]+)", result.stdout, re.MULTILINE)
    assert listed == [
        "run",
        "link",
        "demo",
        "test",
        "test-long",
        "test-postgres",
        "pictures",
        "chaos",
        "load",
        "bench-page",
        "check",
        "clean",
    ]


# What it starts


def test_a_worker_of_roots_keeps_celerys_page_about_it_to_itself_and_nothing_else() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        celeryd_init.send(sender="gpu@here")
        warnings.warn(SecurityWarning(ROOT_DISCOURAGED.format(uid=0, euid=0, gid=0, egid=0)), stacklevel=1)
        warnings.warn(SecurityWarning("something else"), stacklevel=1)
    assert [str(warning.message) for warning in said] == ["something else"]


def test_the_procfile_names_the_parts_and_their_queues() -> None:
    commands = parts.procfile(ROOT / "Procfile")
    assert list(commands) == ["web", "gpu", "cpu", "hooks", "care", "beat"]
    assert "webapp.asgi:application" in commands["web"]
    assert "worker --queues gpu --concurrency 1" in commands["gpu"]
    assert "worker --queues cpu" in commands["cpu"]
    assert "--queues care" in commands["care"] and "care" not in commands["cpu"], "nothing holds the reaper up"
    assert "--queues hooks" in commands["hooks"] and "solo" not in commands["hooks"], "a try has a time limit"


def test_every_job_has_a_worker_that_is_asked_for(settings: Any) -> None:
    commands = parts.procfile(ROOT / "Procfile").values()
    served = {found[1] for command in commands if (found := re.search(r"--queues (\w+) ", command))}
    assert {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()} == served == set(health.QUEUES)


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        (["localhost", "127.0.0.1"], "127.0.0.1"),
        (["coppice.example"], "coppice.example"),
        ([".coppice.example", "*"], "coppice.example"),
        (["*"], "127.0.0.1"),
    ],
)
def test_the_site_is_asked_under_a_name_that_it_answers_to(hosts: list[str], host: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = hosts
    assert run.own_name() == host


def test_vendor_files_are_copied_once_and_renewed_when_the_package_changes(tmp_path: Path) -> None:
    source, target = tmp_path / "source.js", tmp_path / "vendor" / "target.js"
    source.write_text("one")
    fetch_assets.copy(source, target)
    first = target.stat().st_mtime_ns
    fetch_assets.copy(source, target)
    assert target.read_text() == "one"
    assert target.stat().st_mtime_ns == first
    source.write_text("two")
    fetch_assets.copy(source, target)
    assert target.read_text() == "two"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("name", fetch_assets.ASSETS)
def test_every_vendor_file_is_in_its_package(name: str) -> None:
    assert fetch_assets.inside(*fetch_assets.ASSETS[name]).stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.redis
def test_a_start_prints_a_link_that_signs_in_once_and_no_end_leaves_anything(tmp_path: Path) -> None:
    """Neither SIGTERM, nor Ctrl-C in the middle of a search, whose engine ends, too."""
    with coppice(tmp_path) as launcher:
        launcher.await_text("/sign-in/")
        assert ask(launcher.port, "/healthz").status == 200
        session = sign_in(launcher)
        assert ask(launcher.port, "/", session).status == 200
        second = ask(launcher.port, launcher.link)
        assert second.status == 410
        assert "coppice_session" not in str(second.headers.get_all("Set-Cookie"))
        assert ask(launcher.port, "/").status == 302
        another = subprocess.run(
            [sys.executable, "manage.py", "sign_in_link"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
            | {"DATA_DIR": str(tmp_path / "data")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        address, path = another.split("/sign-in/")
        assert address == f"http://127.0.0.1:{launcher.port}"
        assert "coppice_session" in str(ask(launcher.port, f"/sign-in/{path}").headers.get_all("Set-Cookie"))
        assert len(launcher.left()) >= 6  # the launcher, Redis and the four parts, at least
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.process.wait(PATIENCE_SECONDS) == 0
        assert launcher.left() == []
        assert "Traceback" not in launcher.said and "superuser" not in launcher.said

    begun = time.monotonic()
    with coppice(tmp_path) as launcher:
        launcher.await_text("/sign-in/")
        assert time.monotonic() - begun < 30
        assert ask(launcher.port, "/", session).status == 200  # who was signed in still is
        wanted = {"preset": "quick", "data": {"dataset": "digits"}, "target": {"metric": "params", "value": 20000}}
        assert ask(launcher.port, "/api/v1/searches", session, post=wanted).status == 201
        launcher.wait_until(lambda: list((tmp_path / "data").rglob("events.jsonl")))
        assert any("nasengine" in process.cmdline() for process in launcher.left())
        assert launcher.end(signal.SIGINT) == 0
        assert launcher.left() == []
        assert "Traceback" not in launcher.said


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.parametrize(
    ("name", "word"), [pytest.param("gpu", "--queues gpu", marks=pytest.mark.long), ("redis", "redis-server")]
)
def test_when_a_part_dies_the_rest_ends_and_says_which(tmp_path: Path, name: str, word: str) -> None:
    with coppice(tmp_path) as launcher:
        launcher.await_text("/sign-in/")
        launcher.part(word).kill()
        assert launcher.process.wait(PATIENCE_SECONDS) == 1
        assert (
            f"the part '{name}' ended by itself (killed by SIGKILL), so all the others were ended too" in launcher.said
        )
        assert launcher.left() == []


@pytest.mark.slow
@pytest.mark.redis
def test_when_the_launcher_is_killed_its_parts_end_too(tmp_path: Path) -> None:
    with coppice(tmp_path) as launcher:
        launcher.await_text("/sign-in/")
        launcher.process.kill()
        launcher.process.wait()
        launcher.wait_until(lambda: launcher.left() == [])


# The same with small parts: what a worker leaves behind

TOGETHER = """
import asyncio, json, os, sys
from pathlib import Path
from typing import Any
from webapp import launch, parts
parts.READY_SECONDS, parts.SAVE_SECONDS, parts.KILL_SECONDS = json.loads(sys.argv[2])
place = {"data": Path(os.environ["DATA_DIR"]), "host": "127.0.0.1", "port": int(os.environ["PORT"])}
together = parts.run_together(json.loads(sys.argv[1]), os.environ, **place, greeting="up")
try:
    asyncio.run(together)
except launch.CannotStart as reason:
    sys.exit(str(reason))
"""
WEB = """
import http.server, os
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Healthy).serve_forever()
"""
WORKER = """
import subprocess, sys
engine = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, start_new_session=True)
engine.wait()
"""
ENGINE_THAT_SAVES = """
import pathlib, sys
print("searching", flush=True)
sys.stdin.read()
pathlib.Path(sys.argv[1]).write_text("saved")
"""
ENGINE_THAT_IS_DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("searching", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def small(
    tmp_path: Path, programs: dict[str, list[str]], *, ready: float = 60, save: float = 60, kill: float = 5
) -> Iterator[Launcher]:
    """These Python programs, each a text and its arguments, launched together without a Redis."""
    commands = {name: shlex.join([sys.executable, "-c", *program]) for name, program in programs.items()}
    command = [sys.executable, "-c", TOGETHER, json.dumps(commands), json.dumps([ready, save, kill])]
    with launched(command, tmp_path, REDIS_URL="unused") as launcher:
        yield launcher


def test_an_engine_whose_worker_was_killed_is_waited_for_until_it_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    programs = {"web": [WEB], "gpu": [WORKER, "-c", ENGINE_THAT_SAVES, str(saved)]}
    with small(tmp_path, programs) as launcher:
        launcher.await_text("searching")
        launcher.part("engine.wait()").kill()
        assert launcher.process.wait(PATIENCE_SECONDS) == 1
        assert saved.read_text() == "saved"
        assert launcher.left() == []


def test_what_neither_saves_nor_listens_is_killed(tmp_path: Path) -> None:
    with small(tmp_path, {"web": [WEB], "gpu": [WORKER, "-c", ENGINE_THAT_IS_DEAF]}, save=0.3, kill=0.3) as launcher:
        launcher.await_text("searching")
        launcher.await_text("up")
        assert launcher.end(signal.SIGTERM) == 0
        assert launcher.left() == []


def test_a_part_that_does_not_come_up_is_named_with_its_exit_status_and_its_lines(tmp_path: Path) -> None:
    with small(tmp_path, {"web": [WEB], "cpu": ["import sys; sys.exit('no such queue')"]}) as launcher:
        assert launcher.process.wait(PATIENCE_SECONDS) == 1
        assert "cpu     | no such queue" in launcher.said
        assert "the part 'cpu' ended by itself (exit status 1), so all the others were ended too" in launcher.said
        assert launcher.left() == []


def test_a_web_server_that_never_answers_ends_the_start(tmp_path: Path) -> None:
    with small(tmp_path, {"web": ["import time; time.sleep(600)"]}, ready=0.2) as launcher:
        assert launcher.process.wait(PATIENCE_SECONDS) == 1
        assert "the web server does not answer; its lines are above (waited 0.2 s)" in launcher.said
        assert launcher.left() == []


def test_a_closed_terminal_ends_it_like_ctrl_c(tmp_path: Path) -> None:
    with small(tmp_path, {"web": [WEB]}) as launcher:
        launcher.await_text("up")
        assert launcher.end(signal.SIGHUP) == 0
        assert launcher.left() == []
