"""Coppice with the fake engine and little patience, for tests with real processes."""

from __future__ import annotations

import sys
from pathlib import Path

from webapp.settings import *  # noqa: F403 -- the same settings, but for these

ENGINE_COMMAND = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
HEARTBEAT_SECONDS = 0.5
SILENT_SECONDS = 4.0
RESEND_SECONDS = 1.0
CELERY_BEAT_SCHEDULE = {"reap": {"task": "webapp.tasks.reap", "schedule": 1.0, "options": {"expires": 5}}}
