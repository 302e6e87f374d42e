"""How names that strangers give are told and compared: of files, classes, searches."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 1000
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What breaks a line, steers a screen, turns the order of reading, or is no character at all."""


def shown(name: str) -> str:
    r"""A name as it may be told: on one line, in its order, and not endless.

    >>> print(shown("cat/\x1b[2J\n1.png"))
    cat/\x1b[2J\n1.png
    """
    plain = CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name[: LONGEST + 1])
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}…"


def folded(name: str) -> str:
    """What a name is to systems for which upper and lower case are one.

    >>> folded("Straße") == folded("STRASSE")
    True
    """
    return unicodedata.normalize("NFC", name.casefold())
