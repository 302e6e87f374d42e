"""How this installation is set up: everything comes from the environment, with defaults for one machine.

| variable | meaning | default |
|---|---|---|
| DATA_DIR | folder of database, uploads, runs and packed images | data/ beside this project |
| REDIS_URL | broker and channel layer | redis://127.0.0.1:6379/0 |
| DATABASE_URL | another database than SQLite in DATA_DIR: postgres://user:password@host/name | |
| PORT | where the web server listens | 8000 |
| SECRET_KEY | signs cookies | made once, kept in DATA_DIR/secret_key |
| ALLOWED_HOSTS | names this site may be called by, with commas | this machine only |
| HTTPS | 1 behind a proxy that speaks TLS: everything is asked for over it, keys must be strong | 0 |
| ACCEL | 1 behind an nginx that hands out files itself (docker/nginx.conf.template) | 0 |
| WEBHOOK_PRIVATE | 1 lets webhooks reach this machine and private networks: where all who sign in may do that | 0 |
| DEBUG | 1 shows tracebacks in the browser | 0 |
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

LEAST_KEY = 50
BASE_DIR = Path(__file__).resolve().parent.parent


def _flag(name: str) -> bool:
    text = os.environ.get(name, "0").strip().lower()
    if text not in ("", "0", "1", "false", "true", "no", "yes"):
        raise ImproperlyConfigured(f"{name} is {text!r}; expected 1 or 0")
    return text in ("1", "true", "yes")


def _port() -> int:
    text = os.environ.get("PORT", "8000")
    if not (text.isdigit() and 0 < int(text) < 65536):
        raise ImproperlyConfigured(f"PORT is {text!r}; expected a number from 1 to 65535")
    return int(text)


def _secret_key(folder: Path) -> str:
    """SECRET_KEY, else the one in the folder, made by whichever process comes first."""
    if given := os.environ.get("SECRET_KEY"):
        if HTTPS and (len(given) < LEAST_KEY or len(set(given)) < 5 or given.startswith("django-insecure-")):
            raise ImproperlyConfigured(
                f"SECRET_KEY is easy to guess; expected at least {LEAST_KEY} random characters, or none at all: then "
                "one is made and kept in DATA_DIR"
            )
        return given
    path = folder / "secret_key"
    try:
        if not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=folder)  # readable by its owner alone
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(50))
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            Path(draft).unlink()
        return path.read_text()
    except OSError as error:
        raise ImproperlyConfigured(
            f"DATA_DIR {folder} cannot be used ({error.strerror}); expected a folder this user may write to"
        ) from None


DATA_DIR = Path(os.environ.get("DATA_DIR") or BASE_DIR / "data").expanduser().resolve()
REDIS_URL = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
PORT = _port()
DEBUG = _flag("DEBUG")
HTTPS = _flag("HTTPS")
ACCEL = _flag("ACCEL")
WEBHOOK_PRIVATE = _flag("WEBHOOK_PRIVATE")
if HTTPS and DEBUG:
    raise ImproperlyConfigured("DEBUG shows strangers the inside; expected 0 where HTTPS is 1")
SECRET_KEY = _secret_key(DATA_DIR)
ALLOWED_HOSTS = [
    host.strip() for host in os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",") if host.strip()
]

# What is ours

MEDIA_ROOT = DATA_DIR / "media"
ENGINE_CACHE = DATA_DIR / "cache"
ENGINE_COMMAND = [sys.executable, "-m", "nasengine"]
"""The engine's command line; tests put a small script here."""
ENGINE_CANCEL_SECONDS = 30.0
"""How long a cancelled engine may take to end by itself."""
ENGINE_SAVE_SECONDS = 30.0
"""How long an engine may take to save when its worker shuts down."""
ENGINE_KILL_SECONDS = 10.0
"""How long an engine may take after a SIGTERM before it is killed."""
ENGINE_ORPHAN_SECONDS = 30.0
"""How long a new attempt waits for the engine of a dead one to leave the run's folder."""
HEARTBEAT_SECONDS = 2.0
"""How often a supervisor stamps its row and looks what its owner asks."""
SILENT_SECONDS = 20.0
"""Without a heartbeat for so long, work that is shown as running counts as dead."""
MAX_LOSSES = 3
"""How often work may die without having saved anything new before it is given up."""
RESEND_SECONDS = 5.0
"""How long something may wait in an empty queue before its message is sent again; a message too many is harmless."""
SOCKET_REST_SECONDS = 0.2
"""How long an open socket rests after it has sent what is new."""
SOCKET_TRUST_SECONDS = 2.0
"""How long an open socket takes its session for valid; one that is ended by signing out closes its sockets at once."""
SOCKET_CHECK_SECONDS = 5.0
"""How often an open socket looks for news and permission by itself; doorbells may get lost."""
UPLOAD_MAX_BYTES = 4 * 2**30
WEIGHTS_MAX_BYTES = 2**30
"""Of a file with weights: in float32 those of the largest model that is looked at, with room to spare."""
UPLOAD_QUOTA_BYTES = 20 * 2**30
"""All uploads of one user together."""
UPLOAD_IMAGE_SIZE = 32
"""Pixels a side at which an uploaded data set is packed and shown first; a search may ask for another size."""
TRY_MAX_BYTES = 16 * 2**20
TRY_MAX_PIXELS = 2**25
"""Of an image that a network is tried on here, by the server; browsers that can do it themselves."""
TRY_WAIT_SECONDS = 10.0
"""How long such an image waits for the one before it."""
TRY_IN_BROWSER = True
"""Whether browsers run found networks, where onnxruntime-web is among the static files; else the server does."""
SIGN_IN_MINUTES = 30
MAX_API_TOKENS = 20
"""Of one user."""
MAX_SURVEYS = 2
"""Known models that workers look at, or are to look at, for one user at a time."""
SURVEY_SECONDS = 180.0
"""How long a worker looks at one of them: what the engine allows itself, building the model, and a busy machine."""
MAX_SHARE_LINKS = 20
"""Of one search."""

# Django

INSTALLED_APPS = [
    "webapp",
    "ninja",
    "axes",
    "csp",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "webapp.middleware.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.middleware.LoginRequired",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",  # last: it answers for whoever tried too often
]
ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
USE_THOUSAND_SEPARATOR = False

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "searches"
SESSION_COOKIE_NAME = "coppice_session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_NAME = "coppice_csrf"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = HTTPS
CSRF_TRUSTED_ORIGINS = [f"https://{host.removeprefix('.')}" for host in ALLOWED_HOSTS if host != "*"] if HTTPS else []
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]  # asked from inside, past the proxy
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # other names of the domain are not ours to decide for
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'", "'unsafe-inline'"],  # Plotly writes styles
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

# Guessing passwords: so many tries from one address at one name, then a pause

AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_CLIENT_IP_CALLABLE = "webapp.middleware.client_address"
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "registration/locked_out.html"
AXES_HTTP_RESPONSE_CODE = 429
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False

MEDIA_URL = ""  # files are handed out by views that ask whose they are
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 2**20
DATA_UPLOAD_MAX_NUMBER_FIELDS = 200
DATA_UPLOAD_MAX_NUMBER_FILES = 1
FILE_UPLOAD_MAX_MEMORY_SIZE = 2 * 2**20

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # straight from where they lie: nothing to collect

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"webapp": {"handlers": ["stderr"], "level": "INFO", "propagate": True}},
    "root": {"level": "WARNING"},
}

# Database


def _database() -> dict[str, Any]:
    if url := os.environ.get("DATABASE_URL"):
        return dict(dj_database_url.parse(url, conn_max_age=0, conn_health_checks=True))
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_DIR / "db.sqlite3"}


DATABASES = {"default": _database()}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",  # a transaction that will write waits for its turn instead of failing midway
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }

# Redis: the channel layer and the broker share it, each under its own prefix

CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": "coppice.channels"},
    }
}

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": "coppice.celery.",
    "visibility_timeout": 24 * 3600,
    "socket_connect_timeout": 5,
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True  # the truth is in our own rows
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_ACKS_LATE = False  # what runs again is decided from our rows, never by the broker
CELERY_TASK_DEFAULT_QUEUE = "cpu"
CELERY_TASK_ROUTES = {
    "webapp.tasks.run_search": {"queue": "gpu"},
    "webapp.tasks.ingest_dataset": {"queue": "cpu"},
    "webapp.tasks.look_at_model": {"queue": "cpu"},
    "webapp.tasks.tell_webhook": {"queue": "hooks"},  # large zips and slow addresses do not wait for each other
    "webapp.tasks.reap": {"queue": "care"},  # a worker of its own: neither a search nor a large zip holds it up
}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True  # a busy worker reserves nothing: the idle one takes it
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {"reap": {"task": "webapp.tasks.reap", "schedule": 5.0, "options": {"expires": 5}}}
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "celerybeat-schedule")
