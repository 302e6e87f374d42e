"""Names of the models that timm and torchvision have for sorting images, without asking the libraries.

``model_names.json`` is written by ``python -m benchmarks.zoo --names``; a test holds it equal to what is installed.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path

from nasengine.names import brief

LIBRARIES = ("timm", "torchvision")


@cache
def names(library: str) -> tuple[str, ...]:
    """All of a library's models that sort images into classes, in alphabetical order; none of an unknown library."""
    known = json.loads(Path(__file__).with_name("model_names.json").read_text())
    return tuple(known.get(library, ()))


def unknown(library: str, name: str) -> str:
    """What is wrong with a model's name, and the nearest that are right; nothing if it is known."""
    known = names(library)
    if name in known:
        return ""
    if not known:
        return f"'{brief(library)}' is no library of models; use {' or '.join(LIBRARIES)}"
    near = difflib.get_close_matches(name, known, n=3)
    mend = f"did you mean {' or '.join(near)}?" if near else f"{library} has {len(known):,} others, such as resnet18"
    return f"{library} has no model '{brief(name)}' that sorts images into classes; {mend}"
