"""Which tensors a safetensors file holds, and whether they are a model's: by its header alone, without torch.

The format: 8 bytes with the length of the header, the header as JSON, then the tensors' bytes without a gap. A stranger
may have written it, so nothing in it is believed before it was compared with the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeGuard, TypeVar

from nasengine.config import DNAConfig, SearchConfig, document
from nasengine.errors import ConfigError
from nasengine.names import brief

FIELD = "space.path"
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 4 * 2**20
"""A tensor takes some hundred; the largest models have some thousands of them."""
MOST_DIMENSIONS, MOST = 16, 2**63
"""Of a tensor; and above any count, so that no product of a stranger's numbers takes its time."""
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Of a number of each type."""
WRAPPER = "module."
"""Before every name where a model was trained in a wrapper for several GPUs."""

Shapes = Mapping[str, Sequence[int]]
T = TypeVar("T")


def shapes(stream: IO[bytes]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a file.

    Raises:
        ValueError: if it is no whole safetensors file, with the reason.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    begun = stream.read(LENGTH_BYTES)
    length = int.from_bytes(begun, "little")
    if len(begun) < LENGTH_BYTES or size < LENGTH_BYTES + 2:
        raise ValueError("it is too short")
    if length > MOST_HEADER_BYTES:
        raise ValueError("it does not begin with the length of a header")
    if length > size - LENGTH_BYTES:
        raise ValueError("it ends before its header does")
    found = _header(stream.read(length))
    end, spans = 0, sorted((*_span(name, entry), name) for name, entry in found.items())
    for begin, then, name in spans:
        if begin != end:
            raise ValueError(f"the bytes of {brief(name)} do not follow those before them")
        end = then
    held = size - LENGTH_BYTES - length
    if end != held:
        raise ValueError(f"its tensors take {end:,} bytes, and it has {held:,} for them")
    return {name: tuple(entry["shape"]) for name, entry in found.items()}


def left_over(file: Path, wanted: Shapes, last: Collection[str], whose: str) -> set[str]:
    """Names of what a model cannot take from the file of its weights: a last layer for other classes.

    Args:
        file: with the weights.
        wanted: shapes in the model's state dict.
        last: names of its last layer's.
        whose: the model, in words.

    Raises:
        ConfigError: if the file cannot be read, or holds the weights of something else.
    """
    given = unwrapped(_read(file))
    left: set[str] = set()
    for name, shape in wanted.items():
        if name not in given:
            if name.endswith("num_batches_tracked"):  # older files have none, and nobody reads it
                continue
            raise ConfigError.at(FIELD, f"the weights in {file.name} have no {name}; give those of {whose}")
        own = list(given[name])
        if own == list(shape):
            continue
        if name in last and own[1:] == list(shape)[1:]:
            left.add(name)
            continue
        raise ConfigError.at(
            FIELD,
            f"the weights in {file.name} do not fit {whose}: {name} is {brief(str(own))}, expected {list(shape)}; give "
            "those of this model for such images",
        )
    if unknown := sorted(given.keys() - wanted.keys()):
        raise ConfigError.at(FIELD, f"the weights in {file.name} have {brief(unknown[0])}, which {whose} has not")
    return left


def check_teacher(config: SearchConfig) -> None:
    """That the file which is to hold the weights of a teacher can be read, if there is one; no model is built.

    Raises:
        ConfigError: if it cannot.
    """
    method = config.strategy
    if isinstance(method, DNAConfig) and method.teacher_path:
        _read(Path(method.teacher_path), "strategy.teacher_path")


def unwrapped(state: Mapping[str, T]) -> dict[str, T]:
    """The names as the model has them.

    >>> unwrapped({"module.fc.bias": 1}), unwrapped({"module.fc.bias": 1, "fc.bias": 2})
    ({'fc.bias': 1}, {'module.fc.bias': 1, 'fc.bias': 2})
    """
    is_wrapped = all(name.startswith(WRAPPER) for name in state)
    return {name.removeprefix(WRAPPER) if is_wrapped else name: value for name, value in state.items()}


def _read(file: Path, field: str = FIELD) -> dict[str, tuple[int, ...]]:
    try:
        with file.open("rb") as stream:
            return shapes(stream)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError.at(
            field, f"the weights in {file.name} cannot be read ({reason}); give a safetensors file"
        ) from None


def _header(text: bytes) -> dict[str, Any]:
    """What it says of each tensor; notes of whoever wrote it are left out."""
    if not text.startswith(b"{"):
        raise ValueError("it has no header")
    try:
        header = document(text)
    except ValueError as error:
        raise ValueError(f"its header is not as it should be: {brief(str(error))}") from None
    notes = header.pop("__metadata__", {})
    if not (isinstance(notes, Mapping) and all(isinstance(note, str) for note in notes.values())):
        raise ValueError("the notes in its header are no texts")
    if not header:
        raise ValueError("it holds no tensors")
    return dict(header)


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor's bytes begin and end, once its type and its shape say the same."""
    parts = entry if isinstance(entry, Mapping) else {}
    kind, shape, offsets = (parts.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise ValueError(f"what its header says of {brief(name)} is no tensor")
    if not isinstance(kind, str) or kind not in BYTES:
        raise ValueError(f"{brief(name)} is of the type {brief(str(kind))}; known are {', '.join(BYTES)}")
    begin, end = offsets
    if end - begin != BYTES[kind] * math.prod(shape):
        raise ValueError(f"{brief(name)} has {brief(str(shape))} numbers, which its bytes are not")
    return begin, end


def _are_counts(numbers: Any) -> TypeGuard[list[int]]:
    """Whether it is a short list of numbers that count something."""
    is_short = isinstance(numbers, list) and len(numbers) <= MOST_DIMENSIONS
    return is_short and all(type(number) is int and 0 <= number < MOST for number in numbers)
