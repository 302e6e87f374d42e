"""Whatever is sent to the API is answered as its document says; form and command line say the same of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpResponse
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nasengine import __main__ as command_line
from tests.webapp.cast import config, progress, say
from webapp import services
from webapp.api import api
from webapp.forms import NewSearchForm, settings_of
from webapp.models import Search

pytestmark = [pytest.mark.django_db]

bounded = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

SOUND = (
    config(),
    config(space={"kind": "chain", "layers": 5}, target={"value": "40%", "also": ["30%"]}),
    config(
        data={"dataset": "digits", "limit": 300}, strategy={"cuts": [1, 2], "recipe": "published"},
        search={"epochs": 40}, target={"metric": "macs", "value": "50%", "limits": {"params": 30_000}},
    ),
)  # fmt: skip
PLACES = (*(setting.dotted for setting in settings_of()), "data.path", "data", "space", "strategy", "target", "search")
NASTY = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, -0.0, 0.5, 5e-324, 1.7e308, float("nan"), float("inf"),
    "", " ", "0", "-1", "1e999", "1e999%", "nan%", "٤٠%", "40 %", "a\0b", "a\nb", "\x1b[2J", "\u202egnp", "\ud800",
    "x" * 5000, "../../etc/passwd", "upload:../../x", "upload:", "zip", "folder", "file", "quick", "chain", "mgas",
    "macs",
    [], [[]], [0], [1, 1], [-1], [10**400], ["\ud800"], [None], list(range(300)), {}, {"kind": "chain"}, {"": 0}, [{}],
)  # fmt: skip

anything = st.recursive(
    st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def nearly_sound(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration of which one to three places hold something else."""
    raw = copy.deepcopy(draw(st.sampled_from(SOUND)))
    unknown = st.text(max_size=6) | st.sampled_from(("epoch", "data.epochs", "kind", "\ud800", "__class__"))
    for place in draw(st.lists(st.sampled_from(PLACES) | unknown, min_size=1, max_size=3)):
        *parts, name = place.split(".")
        inner: Any = raw
        for part in parts:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[name] = draw(anything)
    return raw


BODIES = {
    "nothing": b"",
    "blank": b" \n",
    "not text": b"\xff\xfe\xfa",
    "half a text": b'{"name": "\xc3"}',
    "UTF-16": json.dumps(config()).encode("utf-16"),
    "a zero byte": b'{"name": "a\0b"}',
    "cut short": json.dumps(config()).encode()[:-5],
    "two documents": b"{}{}",
    "a name twice": b'{"name": "a", "name": "b"}',
    "a name twice inside": b'{"data": {"dataset": "digits", "dataset": "cifar10"}}',
    "half a character": b'{"name": "\\ud800"}',
    "half a character as a target": b'{"target": {"value": "\\ud800"}}',
    "half a character as a setting": b'{"\\ud800": 1}',
    "no number": b'{"target": {"value": NaN}}',
    "a number without end": b'{"seed": %s}' % (b"9" * 5000),
    "an infinite number": b'{"target": {"value": 1e400}}',
    "minus infinity": b'{"search": {"lr": -Infinity}}',
    "a list": b"[]",
    "a word": b'"digits"',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"data":' * 100_000,
    "deep and sound JSON": b'{"name":' + b"[" * 600 + b"]" * 600 + b"}",
    "many unknown settings": json.dumps({f"s{i}": 0 for i in range(20_000)}).encode(),
    "a long word": json.dumps(config(preset="x" * 1_900_000)).encode(),
    "too wide": json.dumps(
        config(
            data={"dataset": "cifar10", "image_size": 256},
            space={"kind": "chain", "layers": 40, "channels": 64, "reductions": list(range(7))},
        )
    ).encode(),
}


@pytest.fixture
def script(alice: User) -> Client:
    """A script with Alice's token."""
    return Client(headers=bearer(alice))


def bearer(user: User) -> dict[str, str]:
    return {"authorization": f"Bearer {services.api_token_create(user=user, name='fuzz')}"}


def post(script: Client, body: bytes) -> HttpResponse:
    return script.post("/api/v1/searches", body, content_type="application/json")  # type: ignore[return-value]


@pytest.fixture
def described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes], list[list[str]]]:
    """What `python -m nasengine describe` says is wrong with a file of these bytes."""

    def describe(body: bytes) -> list[list[str]]:
        (tmp_path / "config.json").write_bytes(body)
        code = command_line.main(["describe", str(tmp_path / "config.json")])
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert code == (2 if said.get("kind") == "search_failed" else 0), said
        problems: list[list[str]] = said["problems"]
        return problems

    return describe


def form_sentences(owner: User, raw: Any) -> set[str]:
    """What the form says of it."""
    form = NewSearchForm({}, owner=owner)
    form.raw = lambda: raw  # type: ignore[method-assign]
    form.full_clean()
    return {str(sentence) for sentences in form.errors.values() for sentence in sentences}


def names_files(raw: Any) -> bool:
    """Whether it names files, which are for the command line alone, or an upload, which is for the web alone."""
    parts = [raw.get(part) for part in ("data", "space", "strategy")] if isinstance(raw, dict) else []
    data, space, strategy = (part if isinstance(part, dict) else {} for part in parts or ({}, {}, {}))
    named = str(data.get("dataset"))
    of_images = data.get("path") is not None or named in ("zip", "folder") or named.startswith("upload:")
    of_weights = space.get("path") is not None or space.get("weights") == "file"
    of_a_teacher = strategy.get("teacher_path") is not None or strategy.get("teacher_weights") == "file"
    return of_images or of_weights or of_a_teacher


@pytest.mark.slow
@settings(bounded, max_examples=120)
@given(raw=nearly_sound())
def test_a_nearly_sound_configuration_is_judged_alike_at_every_door(
    script: Client, alice: User, described: Callable[[bytes], list[list[str]]], raw: dict[str, Any]
) -> None:
    body, before = json.dumps(raw).encode(), Search.objects.count()
    answer = post(script, body)
    assert answer.status_code in (201, 422), answer.content
    created = answer.status_code == 201
    assert Search.objects.count() == before + created
    said = answer.json()  # type: ignore[attr-defined]
    problems = [] if created else said["problems"]
    assert created or (problems and all(isinstance(text, str) for pair in problems for text in pair))
    if not names_files(raw):
        assert problems == _without_place(described(body))
    if b"\\ud" not in body:  # fields of a form hold text
        shown = form_sentences(alice, raw)
        assert bool(shown) == bool(problems)
        assert shown <= {sentence for _, sentence in problems}


def _without_place(problems: list[list[str]]) -> list[list[str]]:
    """The command line names its file where the API says 'the body'."""
    for pair in problems:
        if " is not valid JSON (" in pair[1]:
            pair[1] = f"the body is not JSON ({pair[1].partition(' is not valid JSON (')[2]}"
            pair[1] += "; send the configuration as one JSON object"
    return problems


@pytest.mark.timeout(20)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_hostile_body_is_answered_with_a_sentence_and_leaves_no_row(
    script: Client, described: Callable[[bytes], list[list[str]]], body: bytes
) -> None:
    answer = post(script, body)
    assert answer.status_code == 422
    problems = answer.json()["problems"]  # type: ignore[attr-defined]
    assert problems == _without_place(described(body))
    assert 0 < len(problems) <= 50
    assert not Search.objects.exists()


def test_a_body_of_10_mb_is_refused_before_it_is_read_as_json(script: Client) -> None:
    answer = post(script, b'{"name": "' + b"x" * 10 * 2**20 + b'"}')
    assert answer.status_code == 413
    assert answer.json() == {  # type: ignore[attr-defined]
        "message": "The body is larger than 2 MB; a configuration has some kilobytes."
    }
    assert not Search.objects.exists()


@pytest.mark.parametrize("dataset", ["../../etc/passwd", "upload:../../etc/passwd", "upload:\0", "/etc/passwd", "zip"])
def test_no_data_set_is_a_path(script: Client, dataset: str) -> None:
    answer = post(script, json.dumps(config(data={"dataset": dataset})).encode())
    assert answer.status_code == 422
    ((field, sentence),) = answer.json()["problems"]  # type: ignore[attr-defined]
    assert field in ("data.dataset", "data.path") and "; " in sentence


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    (path, method.upper()) for path, item in api.get_openapi_schema()["paths"].items() for method in item
]  # fmt: skip


@pytest.fixture
def kept_connection() -> Iterator[None]:
    """The connection of the test's transaction outlives the requests, as with Django's own client."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.usefixtures("kept_connection")
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
@pytest.mark.parametrize("mode", GenerationMode)
def test_every_operation_answers_as_its_document_says(
    path: str, method: str, mode: GenerationMode, alice: User, new_search: Callable[..., Search]
) -> None:
    schema = schemathesis.openapi.from_dict(api.get_openapi_schema())
    schema.app = WSGIHandler()
    operation, headers = schema[path][method], bearer(alice)
    ids = (str(new_search().pk), str(uuid4())) if "{pk}" in path else ("",)

    @settings(bounded, max_examples=8)
    @given(case=operation.as_strategy(generation_mode=mode), pk=st.sampled_from(ids))
    def holds(case: Any, pk: str) -> None:
        if pk:  # what is no id at all is no address of the API
            case.path_parameters |= {"pk": pk}
        case.call_and_validate(headers=headers, checks=CHECKS)

    holds()


NUMBERS = (
    "",
    "0",
    "1",
    "-1",
    "2.5",
    "1e3",
    "nan",
    "x",
    "\0",
    "%00",
    "٣",
    "1_0",
    " 1",
    "9" * 30,
    "9" * 5000,
    "1&after=2",
)


@pytest.mark.parametrize("name", ["after", "rewinds"])
def test_any_place_in_a_feed_is_answered(page: Client, script: Client, running: Search, name: str) -> None:
    say(running, progress(1))
    token = services.search_share(search=running, days=1)
    feeds = {f"/searches/{running.pk}/events/": page, f"/shared/{token}/events/": Client()}
    for url, browser in (feeds | {f"/api/v1/searches/{running.pk}/events": script}).items():
        for number in NUMBERS:
            for answer in (browser.get(url, {name: number}), browser.get(f"{url}?{name}={number}")):
                assert answer.status_code in (200, 400, 422), answer.content
                assert answer.headers["Content-Type"].startswith("application/json")
                assert set(answer.json()) & {"events", "message", "problems"}
