"""What may a search be called, noted and tagged? Pure: texts in, texts out, or a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from nasengine.config import parse
from nasengine.errors import ConfigError
from nasengine.names import CONTROL, shown

MOST_NOTE, MOST_TAGS, LONGEST_TAG = 2000, 8, 24


def described(*, name: str | None, note: str | None, tags: Iterable[str] | None) -> dict[str, str]:
    """The columns of a search that change, as they are stored; what is None is left out.

    Raises:
        ConfigError: with a sentence for each that cannot be.
    """
    reads: dict[str, Callable[[], str]] = {}
    if name is not None:
        reads["name"] = partial(name_of, name)
    if note is not None:
        reads["note"] = partial(note_of, note)
    if tags is not None:
        reads["tag_lines"] = partial(tag_lines, tags)
    columns: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for column, read in reads.items():
        try:
            columns[column] = read()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return columns


def name_of(given: str) -> str:
    """A name: what a configuration may be called, and not empty.

    >>> name_of("  Small  one ")
    'Small  one'
    """
    text = given.strip()
    if not text:
        raise ConfigError.at("name", "it has no name; give it one of 1 to 80 characters")
    return parse({"name": text}).name


def note_of(given: str) -> str:
    r"""A note of several lines.

    >>> note_of("First.\r\nThen.\n")
    'First.\nThen.'
    """
    text = given.replace("\r\n", "\n").replace("\r", "\n").strip()
    if len(text) > MOST_NOTE:
        raise ConfigError.at("note", f"it has {len(text):,} characters; leave at most {MOST_NOTE:,}")
    if strange := CONTROL.search(text.replace("\n", "").replace("\t", "")):
        raise ConfigError.at("note", f"it has the control character {shown(strange[0])}; leave it out")
    return text


def tag_lines(given: Iterable[str]) -> str:
    r"""Tags as they are stored: a line each, in their order, once, between empty ones.

    >>> tag_lines(["Low  light", "mnist", "low light", " "]), tag_lines([])
    ('\nlow light\nmnist\n', '')
    """
    found = list(dict.fromkeys(filter(None, (tag(each) for each in given))))
    if len(found) > MOST_TAGS:
        raise ConfigError.at("tags", f"{len(found)} tags are too many; keep at most {MOST_TAGS}")
    for each in found:
        if "," in each:
            raise ConfigError.at("tags", f"'{shown(each)}' has a comma, which stands between tags; leave it out")
        if CONTROL.search(each):
            raise ConfigError.at("tags", f"'{shown(each)}' has control characters; write it without them")
        if len(each) > LONGEST_TAG:
            raise ConfigError.at("tags", f"'{shown(each)}' has {len(each)} characters; keep at most {LONGEST_TAG}")
    return f"\n{chr(10).join(found)}\n" if found else ""


def tag(given: str) -> str:
    """One of them: tags differ neither in case nor in blanks.

    >>> tag(" Low  light")
    'low light'
    """
    return " ".join(given.lower().split())
