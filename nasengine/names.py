"""How names that strangers give are told and compared: of files, classes, searches."""

from __future__ import annotations

import re
import unicodedata

LONGEST, READABLE = 1000, 600
ENDLESS = re.compile(r"([^\s'\"]{40})[^\s'\"]{60,}")
"""A word that is too long to be told whole."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What breaks a line, steers a screen, turns the order of reading, or is no character at all."""


def shown(name: str) -> str:
    r"""A name as it may be told: on one line, in its order, and not endless.

    >>> print(shown("cat/\x1b[2J\n1.png"))
    cat/\x1b[2J\n1.png
    """
    plain = CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name[: LONGEST + 1])
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}…"


def brief(text: str) -> str:
    """A sentence, or a name, without a page of what somebody typed: its long words are cut, and so is its middle.

    >>> brief(f"there is no 'x{'y' * 200}'; use z"), len(brief("a b " * 1000))
    ("there is no 'xyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy…'; use z", 601)
    """
    short = ENDLESS.sub(r"\1…", text)
    return short if len(short) <= READABLE else f"{short[: READABLE // 2]}…{short[-READABLE // 2 :]}"


def folded(name: str) -> str:
    """What a name is to systems for which upper and lower case are one.

    >>> folded("Straße") == folded("STRASSE")
    True
    """
    return unicodedata.normalize("NFC", name.casefold())
