"""The same verbs over HTTP, for scripts: /api/v1/, with its page at /api/v1/docs.

A configuration is read by the engine's own `parse`, not by the framework, so that a wrong one is answered with the
sentences of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import User
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, reverse
from ninja import NinjaAPI, Query, Schema, Status
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.security import HttpBearer, django_auth
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as WrongFields

from nasengine.config import SearchConfig, document
from nasengine.errors import ConfigError
from nasengine.refusals import refusal
from webapp import selectors, services
from webapp.files import all_files, one_file
from webapp.models import Artifact, Search, SurveyState
from webapp.surveys import Unsurveyed


class Token(HttpBearer):
    """`Authorization: Bearer coppice_...`: a script that acts as whoever made the token."""

    def authenticate(self, request: HttpRequest, token: str) -> User:
        user = services.api_token_user(token=token)
        if user is None:
            raise AuthenticationError  # whoever shows a token is not asked for a session as well
        request.user = user
        return user


api = NinjaAPI(
    title="Coppice",
    version="1",
    description="Scripts send a token (see API tokens): `Authorization: Bearer coppice_...`. "
    "In the browser the session of whoever is signed in counts.",
    auth=[Token(), django_auth],
    urls_namespace="api",
)

ABOUT = ("openapi-json", "openapi-view", "api-root")
"""Names of the pages about the API."""
RETRY_SECONDS = 5
LARGEST = 10**12
"""No list is as long; databases refuse numbers that need more than 63 bits."""


class FileOut(Schema):
    """A file of a result. Those of further targets have a folder in their name: `family/12000/model.onnx`."""

    name: str
    bytes: int
    sha256: str
    url: str

    @staticmethod
    def resolve_url(artifact: Artifact) -> str:
        return reverse("api:get_file", args=[artifact.search_id, artifact.name])


class SearchOut(Schema):
    """A search as it stands."""

    id: UUID
    name: str
    state: str
    ended_early: list[str] = Field(
        description="Of search, comparison and retraining what you ended early; empty if it went its whole length."
    )
    sentence: str
    note: str
    tags: list[str]
    dataset: str = Field(alias="dataset_label")
    config: dict[str, Any]
    attempt: int
    fraction: float
    size: float | None
    message: str
    problems: list[list[str]]
    report: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    url: str
    files: list[FileOut] = Field(alias="artifacts", description="Of the result; empty until it is finished.")


class DescribedOut(Schema):
    """What a configuration amounts to. `problems` keep it from starting, `warnings` do not."""

    config: dict[str, Any]
    metric: str
    full_size: int | None = Field(
        description="It, the smallest size and the targets are null where the target is a time: no device is measured "
        "before the search begins."
    )
    smallest_size: int | None
    target: int | None
    also: list[int]
    limits: dict[str, int]
    reach: dict[str, list[int]]
    feasible: bool
    problems: list[list[str]]
    warnings: list[list[str]]
    choices: dict[str, int]
    estimate: dict[str, float]
    cuttable: dict[str, Any] | None = Field(
        description="Of a known model: what of it can be made smaller, what stays whole and why. Else null."
    )


class Description(BaseModel):
    """What a search is called; what is left out, or null, stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = Field(None, description="1 to 80 characters.")
    note: str | None = Field(None, description="At most 2,000 characters; only you see it.")
    tags: list[str] | None = Field(None, description="At most 8, of at most 24 characters each, without commas.")


class DatasetOut(Schema):
    """An uploaded data set; `reference` is its name in a configuration."""

    id: UUID
    reference: str
    name: str
    state: str
    message: str
    fraction: float
    classes: int | None
    images: int | None
    left_out_total: int
    url: str


class WeightsOut(Schema):
    """Uploaded weights; `reference` is their name in a configuration."""

    id: UUID
    reference: str
    name: str
    bytes: int
    tensors: int
    parameters: int
    created_at: datetime


class FeedOut(Schema):
    """Events after a number, in order. `rewind`: drop everything with a larger number first."""

    rewind: int | None
    events: list[dict[str, Any]]
    last_seq: int
    more: bool
    state: dict[str, Any]


class StillLooking(Exception):
    """It can be answered soon."""


class Problems(Schema):
    """What is wrong with what was sent: [field, sentence] each."""

    problems: list[list[str]]


class Message(Schema):
    message: str


LOOKED_AT = (
    " A known model that nobody here has asked for before is looked at first, a minute or two: until then the answer "
    "is 409 with `Retry-After`; ask again. One that cannot be searched is 422, and looked at anew after an hour."
)
BINARY = {"schema": {"type": "string", "format": "binary"}}
STRANGER: dict[int, Any] = {401: Message}
FOUND = STRANGER | {404: Message}
TOLD = FOUND | {200: SearchOut, 403: Message, 409: Message}
"""What operations answer beside their own: to strangers; to an unknown id; when something is asked of a search. 403 is
for a session without its CSRF token."""


class Page(Schema):
    """Which part of a list."""

    limit: int = Field(50, ge=1, le=200)
    offset: int = Field(0, ge=0, le=LARGEST)


class After(Schema):
    """What the reader has: the last event's number and how many rewinds it knows (`state.rewinds`)."""

    after: int = Field(0, ge=0, le=LARGEST, description="Number of the last event that you have: last_seq.")
    rewinds: int | None = Field(
        None,
        ge=0,
        le=LARGEST,
        description="How many restarts you know of: state.rewinds. Give it to be told when numbers are said anew; "
        "without it a list is simply paged through.",
    )


def config_schema() -> dict[str, Any]:
    """JSON schema of SearchConfig without references, to stand inside another document."""
    whole = SearchConfig.model_json_schema()
    parts = whole.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).removeprefix("#/$defs/")
            # What tells alternatives apart is a table of references; the one `kind` that each allows says the same.
            plain = {key: item for key, item in node.items() if not ("oneOf" in node and key == "discriminator")}
            return inlined(parts[name]) if name else {key: inlined(item) for key, item in plain.items()}
        return [inlined(item) for item in node] if isinstance(node, list) else node

    result: dict[str, Any] = inlined(whole)
    return result


def api_urls() -> Any:
    """The addresses. Operations answer strangers with 401; the pages about them send them to the sign-in page."""
    found, app_name, namespace = api.urls
    patterns = [pattern for pattern in found if isinstance(pattern, URLPattern)]
    for pattern in patterns:
        if pattern.callback is not None and pattern.name not in ABOUT:
            pattern.callback = login_not_required(_in_json(pattern.callback))
    return patterns, app_name, namespace


@api.get("/searches", response=STRANGER | {200: list[SearchOut], 422: Problems}, summary="Your searches, newest first")
def list_searches(request: HttpRequest, page: Query[Page]) -> Any:
    return selectors.searches_of(_user(request)).prefetch_related("artifacts")[page.offset : page.offset + page.limit]


@api.post(
    "/searches",
    response=STRANGER | {201: SearchOut, 403: Message, 409: Message, 413: Message, 422: Problems},
    summary="Start a search",
    description="The body is the configuration of the command line. An upload is named by its reference: "
    '`"data": {"dataset": "upload:<id>"}`, `"space": {"weights": "file", "path": "upload:<id>"}`, for DNA '
    '`"strategy": {"teacher_weights": "file", "teacher_path": "upload:<id>"}`; paths of the server are refused.'
    + LOOKED_AT,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": config_schema()}}}},
)
def create_search(request: HttpRequest) -> Any:
    return Status(201, services.search_create(owner=_user(request), asked=_asked(request)))


@api.post(
    "/describe",
    response=STRANGER | {200: DescribedOut, 403: Message, 409: Message, 413: Message, 422: Problems},
    summary="What a configuration would lead to, without starting it",
    description="Reachable sizes, problems, warnings and an estimate, as `python -m nasengine describe` tells them."
    + LOOKED_AT,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": config_schema()}}}},
)
def describe(request: HttpRequest) -> Any:
    asked = _asked(request)
    cuttable = asked.subject and asked.subject.facts
    return {"config": asked.stored(), **asked.outlook.to_json(), "cuttable": cuttable}


@api.get("/searches/{uuid:pk}", response=FOUND | {200: SearchOut}, summary="One search")
def get_search(request: HttpRequest, pk: UUID) -> Any:
    return _search(request, pk)


@api.patch(
    "/searches/{uuid:pk}",
    response=FOUND | {200: SearchOut, 403: Message, 413: Message, 422: Problems},
    summary="Change its name, note and tags",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": Description.model_json_schema()}},
        }
    },
)
def describe_search(request: HttpRequest, pk: UUID) -> Any:
    search = _search(request, pk)
    try:
        given = Description.model_validate(_json(request, "name, note and tags"))
    except WrongFields as error:
        raise ConfigError(
            (".".join(str(part) for part in item["loc"]), refusal(item)) for item in error.errors(include_url=False)
        ) from None
    services.search_describe(search=search, name=given.name, note=given.note, tags=given.tags)
    return _search(request, pk)


@api.get(
    "/searches/{uuid:pk}/events",
    response=FOUND | {200: FeedOut, 422: Problems},
    summary="Its events after a number",
)
def list_events(request: HttpRequest, pk: UUID, reader: Query[After]) -> Any:
    mine = selectors.search_of(_user(request).pk, pk)
    rewinds = LARGEST if reader.rewinds is None else reader.rewinds
    feed = selectors.search_feed(of=mine, after=reader.after, rewinds=rewinds)
    if feed is None:
        raise Http404
    return feed


@api.post("/searches/{uuid:pk}/cancel", response=TOLD, summary="End it without a result")
def cancel_search(request: HttpRequest, pk: UUID) -> Any:
    return _told(request, pk, "cancel")


@api.post("/searches/{uuid:pk}/pause", response=TOLD, summary="Save it and free its device")
def pause_search(request: HttpRequest, pk: UUID) -> Any:
    return _told(request, pk, "pause")


@api.post("/searches/{uuid:pk}/resume", response=TOLD, summary="Let it go on where it was")
def resume_search(request: HttpRequest, pk: UUID) -> Any:
    return _told(request, pk, "resume")


@api.post("/searches/{uuid:pk}/stop", response=TOLD, summary="Train what was found so far")
def stop_search(request: HttpRequest, pk: UUID) -> Any:
    return _told(request, pk, "stop")


@api.post("/searches/{uuid:pk}/keep", response=TOLD, summary="End its training, too")
def keep_search(request: HttpRequest, pk: UUID) -> Any:
    return _told(request, pk, "keep")


@api.get(
    "/searches/{uuid:pk}/files/{path:name}",
    response=FOUND,
    summary="A file of its result",
    description="As `files` of the search names it. Parts of it can be asked for (`Range`).",
    openapi_extra={"responses": {200: {"description": "The file", "content": {"*/*": BINARY}}}},
)
def get_file(request: HttpRequest, pk: UUID, name: str) -> Any:
    search = _search(request, pk)
    try:
        return one_file(request, search, name)
    except Http404:
        raise HttpError(404, "This search has no such file; `files` of its answer lists those that it has.") from None


@api.get(
    "/searches/{uuid:pk}/files.zip",
    response=FOUND,
    summary="All files of its result in one zip",
    openapi_extra={"responses": {200: {"description": "The zip", "content": {"application/zip": BINARY}}}},
)
def get_files(request: HttpRequest, pk: UUID) -> Any:
    search = _search(request, pk)
    try:
        return all_files(request, search)
    except Http404:
        raise HttpError(404, "This search has no files; wait until it is finished.") from None


@api.get("/datasets", response=STRANGER | {200: list[DatasetOut]}, summary="Your data sets")
def list_datasets(request: HttpRequest) -> Any:
    return selectors.datasets_of(_user(request))


@api.get("/weights", response=STRANGER | {200: list[WeightsOut]}, summary="Your weights for known models")
def list_weights(request: HttpRequest) -> Any:
    return selectors.weights_of(_user(request))


@api.api_operation(["GET", "POST", "PUT", "PATCH", "DELETE"], "/{path:rest}", include_in_schema=False)
def nothing(request: HttpRequest, rest: str) -> Any:
    """Any other address: a misspelt one, or an id that is none."""
    raise HttpError(404, "There is nothing at this address; /api/v1/docs lists what there is, lists tell the ids.")


@api.exception_handler(ConfigError)
def _say_problems(request: HttpRequest, error: ConfigError) -> HttpResponse:
    problems = [list(problem) for problem in error.problems]
    return api.create_response(request, {"problems": problems}, status=422)


@api.exception_handler(ValidationError)
def _say_parameters(request: HttpRequest, error: ValidationError) -> HttpResponse:
    problems = [[str(item["loc"][-1]), refusal(item)] for item in error.errors]
    return api.create_response(request, {"problems": problems}, status=422)


@api.exception_handler(AuthenticationError)
def _say_stranger(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    sentence = (
        "Nobody is known by this; sign in, or send a token that is not revoked: Authorization: Bearer coppice_..."
    )
    return api.create_response(request, {"message": sentence}, status=401)


@api.exception_handler(Http404)
def _say_missing(request: HttpRequest, error: Http404) -> HttpResponse:
    return api.create_response(request, {"message": "There is no such search of yours; look at the list."}, status=404)


@api.exception_handler(RequestDataTooBig)
def _say_too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE / 2**20
    sentence = f"The body is larger than {most:g} MB; a configuration has some kilobytes."
    return api.create_response(request, {"message": sentence}, status=413)


@api.exception_handler(HttpError)
def _say_what_the_framework_refuses(request: HttpRequest, error: HttpError) -> HttpResponse:
    """A session without its CSRF token."""
    return api.create_response(request, {"message": str(error)}, status=error.status_code)


@api.exception_handler(StillLooking)
def _say_later(request: HttpRequest, still: StillLooking) -> HttpResponse:
    told = api.create_response(request, {"message": str(still)}, status=409)
    told["Retry-After"] = str(RETRY_SECONDS)
    return told


@api.exception_handler(services.Refused)
def _say_refused(request: HttpRequest, refused: services.Refused) -> HttpResponse:
    return api.create_response(request, {"message": str(refused)}, status=409)


def _in_json(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view, whose refusal of a method has a sentence, too."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        said = view(request, *args, **kwargs)
        if not isinstance(said, HttpResponseNotAllowed):
            return said
        allowed = " and ".join(sorted(said["Allow"].split(", ")))
        sentence = f"{request.method} is not for this address; it takes {allowed}."
        told = api.create_response(request, {"message": sentence}, status=405)
        told["Allow"] = said["Allow"]
        return told

    return answer


def _asked(request: HttpRequest) -> selectors.Asked:
    user, raw = _user(request), _json(request, "the configuration")
    try:
        return selectors.search_asked(owner=user, raw=raw)
    except Unsurveyed as unknown:
        survey = services.survey_want(owner=user, subject=unknown.subject)
    if survey.state == SurveyState.KNOWN:  # by now
        return selectors.search_asked(owner=user, raw=raw)
    if survey.state == SurveyState.REFUSED:
        raise ConfigError.at("space.model", survey.message)
    raise StillLooking(f"What may be cut of {survey} is not known yet. {survey.sentence} Ask again then.")


def _json(request: HttpRequest, what: str) -> Any:
    try:
        return document(request.body)
    except ValueError as error:
        raise ConfigError.at("", f"the body is not JSON ({error}); send {what} as one JSON object") from None


def _told(request: HttpRequest, pk: UUID, wish: str) -> Search:
    services.WISHES[wish](search=_search(request, pk))
    return _search(request, pk)


def _search(request: HttpRequest, pk: UUID) -> Search:
    return get_object_or_404(Search, pk=pk, owner=_user(request))


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # django_auth lets nobody else in
    return request.user
