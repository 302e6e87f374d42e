"""Settings come from the environment; a wrong one is a sentence; nothing heavy is imported."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code]
    env = {key: value for key, value in os.environ.items() if key not in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")}
    return subprocess.run(command, cwd=ROOT, env=env | environment, capture_output=True, text=True, check=False)


def test_web_processes_start_without_torch(tmp_path: Path) -> None:
    done = python("import webapp.settings, nasengine.config", "-X", "importtime", DATA_DIR=str(tmp_path))
    assert done.returncode == 0 and "nasengine.config" in done.stderr
    for heavy in ("torch", "numpy", "sklearn", "PIL"):
        assert f" {heavy}\n" not in done.stderr, heavy


def test_neither_workers_nor_pages_import_torch(tmp_path: Path) -> None:
    code = (
        "import django, os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'webapp.settings'; django.setup();"
        "import webapp.asgi, webapp.tasks, webapp.urls, webapp.admin;"
        "print([name for name in ('torch', 'numpy', 'sklearn', 'onnx') if name in sys.modules])"
    )
    assert python(code, DATA_DIR=str(tmp_path)).stdout.strip() == "[]"


def test_the_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    ask = "import webapp.settings as s; print(s.SECRET_KEY)"
    first, second = (python(ask, DATA_DIR=str(tmp_path / "new")).stdout for _ in range(2))
    assert first == second and len(first) > 50
    assert stat.S_IMODE((tmp_path / "new" / "secret_key").stat().st_mode) == 0o600
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "secret_key"]
    assert python(ask, DATA_DIR=str(tmp_path), SECRET_KEY="given").stdout == "given\n"


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import webapp.settings as s; print(s.SECRET_KEY)"]
    env = {key: value for key, value in os.environ.items() if key != "SECRET_KEY"} | {"DATA_DIR": str(tmp_path)}
    together = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE) for _ in range(4)]
    assert len({process.communicate()[0] for process in together}) == 1


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "PORT is 'http'; expected a number from 1 to 65535"),
        ("DEBUG", "maybe", "DEBUG is 'maybe'; expected 1 or 0"),
        ("DATA_DIR", "/proc/nowhere", "DATA_DIR /proc/nowhere cannot be used"),
    ],
)
def test_a_wrong_setting_is_a_sentence(name: str, value: str, sentence: str, tmp_path: Path) -> None:
    done = python("import webapp.settings", **({"DATA_DIR": str(tmp_path)} | {name: value}))
    assert done.returncode == 1
    assert sentence in done.stderr.strip().splitlines()[-1]


def test_another_database_by_its_address(tmp_path: Path) -> None:
    ask = "import webapp.settings as s; print(s.DATABASES['default']['ENGINE'], s.DATABASES['default']['NAME'])"
    done = python(ask, DATA_DIR=str(tmp_path), DATABASE_URL="postgres://u:p@host/coppice")
    assert done.stdout == "django.db.backends.postgresql coppice\n"


def test_migrations_are_complete(tmp_path: Path) -> None:
    command = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run", "webapp"]
    env = os.environ | {"DATA_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
