"""The storyteller's Coppice as it is where npm could not fetch what runs networks in browsers."""

from __future__ import annotations

from tests.webapp.story_settings import *  # noqa: F403 -- the same settings, but for one

TRY_IN_BROWSER = False
