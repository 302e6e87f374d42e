"""Coppice with a storyteller in the engine's place."""

from __future__ import annotations

import sys
from pathlib import Path

from webapp.settings import *  # noqa: F403 -- the same settings, but for one

ENGINE_COMMAND = [sys.executable, str(Path(__file__).with_name("story.py"))]
SILENT_SECONDS = 5.0
CELERY_BEAT_SCHEDULE = {"reap": {"task": "webapp.tasks.reap", "schedule": 2.0, "options": {"expires": 2}}}
