"""What pydantic refuses, in people's words: what is wrong, and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

WHOLE, NUMBER = "is no whole number; write one such as 12", "is no number; write one such as 0.5"
SENTENCES = {
    "greater_than": "{it} is too small; give more than {gt}",
    "greater_than_equal": "{it} is too small; give {ge} or more",
    "less_than": "{it} is too large; give less than {lt}",
    "less_than_equal": "{it} is too large; give {le} or less",
    "multiple_of": "{it} is no multiple of {multiple_of}; give one",
    "int_type": f"{{it}} {WHOLE}",
    "int_from_float": f"{{it}} {WHOLE}",
    "int_parsing": f"{{it}} {WHOLE}",
    "float_type": f"{{it}} {NUMBER}",
    "float_parsing": f"{{it}} {NUMBER}",
    "finite_number": f"{{it}} {NUMBER}",
    "bool_type": "{it} is neither true nor false; give one of them",
    "string_type": "{it} is no text; write it in quotes",
    "string_too_long": "it has {length} characters; leave at most {max_length}",
    "literal_error": "{it} is not among the choices; use {expected}",
    "too_short": "too few are given; give at least {min_length}",
    "too_long": "{actual_length} are too many; give at most {max_length}",
    "tuple_type": "{it} is no list; write one in brackets, with commas between",
    "list_type": "{it} is no list; write one in brackets, with commas between",
    "dict_type": "{it} is no JSON object; write one in braces",
    "model_attributes_type": "{it} is no JSON object; write one in braces",
    "model_type": "{it} is no JSON object; write one in braces",
    "extra_forbidden": "there is no such field; leave it out",
}
"""Type of the error -> sentence, with what pydantic tells of it."""


def refusal(error: Mapping[str, Any]) -> str:
    """The sentence for one of pydantic's errors; its own where it is of a type that is not known here.

    >>> refusal({"type": "greater_than_equal", "input": 1, "ctx": {"ge": 4}, "msg": "Input should be"})
    '1 is too small; give 4 or more'
    """
    given = error.get("input", ...)
    if error["type"] not in SENTENCES:
        return str(error["msg"][0].lower() + error["msg"][1:])
    length = len(given) if isinstance(given, str) else 0
    told = {name: _short(value) for name, value in {**error.get("ctx", {}), "length": length}.items()}
    return SENTENCES[error["type"]].format(it=named(given), **told)


def named(given: object) -> str:
    """A value as a sentence begins with it.

    >>> named(None), named("x"), named([1])
    ('null', "'x'", 'this')
    """
    if given is ...:
        return "it"
    if given is None or isinstance(given, bool):
        return json.dumps(given)
    return "this" if isinstance(given, dict | list | tuple) else repr(given)


def _short(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
