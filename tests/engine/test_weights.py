"""Promises of `weights`: a file is read like its own library reads it, a stranger's is refused in a sentence."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save

from nasengine.errors import ConfigError
from nasengine.weights import MOST_HEADER_BYTES, left_over, shapes

TYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
STATE = {"conv.weight": np.ones((4, 3, 3, 3), np.float32), "norm.count": np.array(7), "fc.weight": np.ones((2, 4))}
WHOLE = save(STATE)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
states = st.dictionaries(
    names,
    st.sampled_from(TYPES).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, min_side=0))),
    min_size=1,
    max_size=5,
)


def read(content: bytes) -> dict[str, tuple[int, ...]]:
    return shapes(io.BytesIO(content))


def written(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header, which may be a text, and these bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def tensor(begin: Any = 0, end: Any = 4, shape: Any = (1,), kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@given(state=states, notes=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
def test_what_the_formats_own_library_writes_is_read(state: dict[str, np.ndarray], notes: Mapping[str, str]) -> None:
    content = save(state, metadata=None if notes is None else dict(notes))
    assert read(content) == {name: value.shape for name, value in state.items()}


@given(data=st.data())
def test_what_is_read_the_formats_own_library_reads_alike(data: st.DataObject) -> None:
    """Files of which a few bytes were changed, left out or put in: never less strict than the reader behind us."""
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 260))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"0", b"]"])
        )
    try:
        found = read(bytes(content))
    except ValueError:
        return
    theirs = dict(safetensors.deserialize(bytes(content)))
    assert found == {name: tuple(entry["shape"]) for name, entry in theirs.items()}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is too short"),
    "a few bytes": (b"\x02\0\0\0\0\0\0\0{", "it is too short"),
    "a text": (b"conv.weight = 1, 2, 3", "it does not begin with the length of a header"),
    "an endless header": (written({"a": tensor()}, b"1234", length=2**63), "it does not begin with the length of"),
    "a huge header": (written({}, length=MOST_HEADER_BYTES + 1), "it does not begin with the length of a header"),
    "cut in its header": (WHOLE[:40], "it ends before its header does"),
    "cut in its tensors": (WHOLE[:-1], "its tensors take 504 bytes, and it has 503 for them"),
    "more than its tensors": (WHOLE + b"x", "its tensors take 504 bytes, and it has 505 for them"),
    "no object": (written(b"[1, 2, 3]"), "it has no header"),
    "no JSON": (written(b"{'a': 1}"), "its header is not as it should be: Expecting property name"),
    "no text": (written(b'{"\xff": 1}'), "its header is not as it should be: 'utf-8' codec can't decode byte 0xff"),
    "half a character": (written(b'{"\\ud800": {}}'), "its header is not as it should be: one of its \\u escapes"),
    "a name twice": (
        written(b'{"a": %s, "a": %s}' % ((json.dumps(tensor()).encode(),) * 2), b"1234"),
        "its header is not as it should be: 'a' is given twice",
    ),
    "deep": (written(b'{"a":' * 99_999 + b"1" + b"}" * 99_999), "its header is not as it should be: maximum recursion"),
    "a number without end": (
        written(b'{"a": %s}' % (b"9" * 5000)), "its header is not as it should be: Exceeds the limit (4300 digits)",
    ),
    "nothing in it": (written({}), "it holds no tensors"),
    "notes alone": (written({"__metadata__": {"format": "pt"}}), "it holds no tensors"),
    "odd notes": (written({"__metadata__": {"a": 1}, "a": tensor()}, b"1234"), "the notes in its header are no texts"),
    "no tensor": (written({"a": 1}), "what its header says of a is no tensor"),
    "no shape": (written({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"), "what its header says of a is no"),
    "three offsets": (
        written({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, b"1234"), "what its header says of a",
    ),
    "before its beginning": (written({"a": tensor(-4, 0)}, b"1234"), "what its header says of a is no tensor"),
    "backwards": (written({"a": tensor(4, 0)}, b"1234"), "a has [1] numbers, which its bytes are not"),
    "a shape below zero": (written({"a": tensor(shape=[-1, -1])}, b"1234"), "what its header says of a is no tensor"),
    "yes as a number": (written({"a": tensor(shape=[True])}, b"1234"), "what its header says of a is no tensor"),
    "half a number": (written({"a": tensor(shape=[1.0])}, b"1234"), "what its header says of a is no tensor"),
    "more than can be counted": (written({"a": tensor(shape=[2**64])}, b"1234"), "what its header says of a is no"),
    "endless dimensions": (written({"a": tensor(shape=[1] * 90_000)}, b"1234"), "what its header says of a is no"),
    "fewer bytes than numbers": (written({"a": tensor(shape=[2])}, b"1234"), "a has [2] numbers, which its bytes are"),
    "overlapping": (
        written({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456"), "the bytes of b do not follow those before them",
    ),
    "the same bytes twice": (written({"a": tensor(), "b": tensor()}, b"1234"), "the bytes of b do not follow those"),
    "a gap": (written({"a": tensor(0, 4), "b": tensor(8, 12)}, b"x" * 12), "the bytes of b do not follow those before"),
    "outside of the file": (written({"a": tensor(0, 4), "b": tensor(4, 8)}, b"1234"), "its tensors take 8 bytes, and"),
    "an odd type": (written({"a": tensor(0, 1, kind="F8_E4M3")}, b"1"), "a is of the type F8_E4M3; known are F64, F32"),
    "no type": (written({"a": tensor(kind=["F32"])}, b"1234"), "a is of the type ['F32']; known are F64, F32"),
    "a long name": (written({"x" * 9000: 1}), f"what its header says of {'x' * 40}… is no tensor"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94", "it does not begin with the length of a header"),
}  # fmt: skip


@pytest.mark.timeout(5)
@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_whole_file_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as refusal:
        read(content)
    assert str(refusal.value).startswith(reason) and len(str(refusal.value)) < 250


def test_only_the_header_is_read(tmp_path: Path) -> None:
    """A gigabyte that was never written."""
    file = tmp_path / "large.safetensors"
    with file.open("wb") as stream:
        stream.write(written({"a": tensor(0, 2**30, [2**28])}))
        stream.truncate(stream.tell() + 2**30)
    with file.open("rb") as stream:
        assert shapes(stream) == {"a": (2**28,)}


def test_a_file_fits_or_is_refused_by_the_tensor(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    wanted = {name: list(value.shape) for name, value in STATE.items()}

    def left(**changes: Any) -> set[str]:
        state = {name: value for name, value in (STATE | changes).items() if value is not None}
        file.write_bytes(save(state))
        return left_over(file, wanted, {"fc.weight"}, "oak (timm)")

    def refused(**changes: Any) -> str:
        with pytest.raises(ConfigError) as refusal:
            left(**changes)
        ((field, sentence),) = refusal.value.problems
        assert field == "space.path"
        return sentence

    assert left() == set()
    assert left(**{"fc.weight": np.ones((9, 4))}) == {"fc.weight"}, "for other classes"
    fits = "the weights in mine.safetensors do not fit oak (timm): "
    mend = "; give those of this model for such images"
    assert refused(**{"fc.weight": np.ones((2, 5))}) == f"{fits}fc.weight is [2, 5], expected [2, 4]{mend}"
    assert refused(**{"conv.weight": np.ones(4)}) == f"{fits}conv.weight is [4], expected [4, 3, 3, 3]{mend}"
    none = refused(**{"conv.weight": None})
    assert none == "the weights in mine.safetensors have no conv.weight; give those of oak (timm)"
    assert refused(more=np.ones(1)) == "the weights in mine.safetensors have more, which oak (timm) has not"
    file.unlink()
    with pytest.raises(ConfigError, match=r"mine\.safetensors cannot be read \(No such file or directory\); give a"):
        left_over(file, wanted, set(), "oak (timm)")
