"""What is stored: data sets, weights, searches with their states, their events and files, and one-time sign-in links.

The states say themselves what they mean, and MOVES says which may follow which; `services.search_move` alone writes
them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse

from nasengine import catalogue
from nasengine.spaces import imported

UPLOAD = "upload:"
"""Before the id of a data set or of weights, where a configuration names them: no path of this machine ever leaves or
enters it."""


class State(models.TextChoices):
    """A state with the one sentence that explains it."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> State:
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member


class DatasetState(State):
    UPLOADED = "uploaded", "Waits to be checked and packed.", "Waiting"
    PACKING = "packing", "The images are being checked and packed.", "Packing"
    READY = "ready", "Ready to be searched on.", "Ready"
    FAILED = "failed", "These images cannot be used.", "Failed"


class SearchState(State):
    QUEUED = "queued", "Waits for a free worker.", "Queued"
    RUNNING = "running", "A worker is on it.", "Running"
    PAUSING = "pausing", "Saves where it is, then frees its device.", "Pausing"
    PAUSED = "paused", "Saved; waits until it is resumed.", "Paused"
    STOPPING = "stopping", "Finishes early with the best network so far.", "Stopping"
    FINISHED = "finished", "Done; the network is ready to download.", "Finished"
    CANCELLED = "cancelled", "Ended on request, without a result.", "Cancelled"
    FAILED = "failed", "Ended without a result.", "Failed"
    INTERRUPTED = "interrupted", "Lost its worker; goes on from its last checkpoint.", "Interrupted"


class SurveyState(State):
    WAITING = "waiting", "Waits for a free worker; then it takes a minute or two.", "Waiting"
    LOOKING = "looking", "A worker tries what may be cut of it; that takes a minute or two.", "Looking"
    KNOWN = "known", "It is known by now what may be cut of it.", "Known"
    REFUSED = "refused", "It cannot be searched.", "Refused"


DATASET_MOVES: dict[DatasetState, tuple[DatasetState, ...]] = {
    DatasetState.UPLOADED: (DatasetState.PACKING,),
    DatasetState.PACKING: (DatasetState.READY, DatasetState.FAILED, DatasetState.UPLOADED),
    DatasetState.READY: (),
    DatasetState.FAILED: (),
}

SURVEY_MOVES: dict[SurveyState, tuple[SurveyState, ...]] = {
    SurveyState.WAITING: (SurveyState.LOOKING,),
    SurveyState.LOOKING: (SurveyState.KNOWN, SurveyState.REFUSED, SurveyState.WAITING),
    SurveyState.KNOWN: (SurveyState.WAITING,),
    SurveyState.REFUSED: (SurveyState.WAITING,),
}

MOVES: dict[SearchState, tuple[SearchState, ...]] = {
    SearchState.QUEUED: (SearchState.RUNNING, SearchState.PAUSED, SearchState.CANCELLED),
    SearchState.RUNNING: (
        SearchState.PAUSING,
        SearchState.STOPPING,
        SearchState.FINISHED,
        SearchState.CANCELLED,
        SearchState.FAILED,
        SearchState.INTERRUPTED,
    ),
    SearchState.PAUSING: (
        SearchState.PAUSED,
        SearchState.FINISHED,
        SearchState.CANCELLED,
        SearchState.FAILED,
        SearchState.INTERRUPTED,
    ),
    SearchState.STOPPING: (
        SearchState.FINISHED,
        SearchState.CANCELLED,
        SearchState.FAILED,
        SearchState.INTERRUPTED,
    ),
    SearchState.PAUSED: (SearchState.QUEUED, SearchState.CANCELLED),
    SearchState.INTERRUPTED: (SearchState.QUEUED, SearchState.PAUSED, SearchState.CANCELLED, SearchState.FAILED),
    SearchState.FINISHED: (),
    SearchState.CANCELLED: (),
    SearchState.FAILED: (),
}

LIVE_STATES = tuple(state for state, following in MOVES.items() if following)
SURVEYING_STATES = (SurveyState.WAITING, SurveyState.LOOKING)
HELD_STATES = (SearchState.RUNNING, SearchState.PAUSING, SearchState.STOPPING)
"""An attempt is at work: it writes events and heartbeats, or is dead."""


class Request(models.TextChoices):
    """What the owner asked of a running search."""

    NONE = "none", "Nothing"
    STOP = "stop", "Stop searching"
    FINISH = "finish", "Stop training, too"
    PAUSE = "pause", "Pause"
    CANCEL = "cancel", "Cancel"


class Dataset(models.Model):
    """Images that somebody uploaded as a zip; built-in data sets have no row."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=80)
    file = models.CharField(max_length=255, help_text="The zip, relative to the media folder.")
    sha256 = models.CharField(max_length=64)
    bytes = models.PositiveBigIntegerField()
    state = models.CharField(max_length=12, choices=DatasetState.choices, default=DatasetState.UPLOADED)
    attempt = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(default=0)
    fraction = models.FloatField(default=0)
    message = models.TextField(blank=True)
    facts = models.JSONField(null=True)
    left_out = models.JSONField(default=list)
    left_out_total = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("dataset_detail", args=[self.pk])

    @property
    def url(self) -> str:
        return self.get_absolute_url()

    @property
    def reference(self) -> str:
        """What a configuration calls it."""
        return f"{UPLOAD}{self.pk}"

    @property
    def state_label(self) -> str:
        return DatasetState(self.state).label

    @property
    def sentence(self) -> str:
        return DatasetState(self.state).sentence

    @property
    def is_finished(self) -> bool:
        return not DATASET_MOVES[DatasetState(self.state)]

    @property
    def classes(self) -> int | None:
        return len(self.facts["class_names"]) if self.facts else None

    @property
    def images(self) -> int | None:
        return sum(sum(counts) for counts in self.facts["given"].values()) if self.facts else None


class Weights(models.Model):
    """A trained model's state dict that somebody uploaded as a safetensors file."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="weights")
    name = models.CharField(max_length=80)
    file = models.CharField(max_length=255, help_text="Relative to the media folder.")
    bytes = models.PositiveBigIntegerField()
    tensors = models.PositiveIntegerField()
    parameters = models.PositiveBigIntegerField(help_text="All numbers in it, those that are not learned, too.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created_at",)
        verbose_name_plural = "weights"

    def __str__(self) -> str:
        return self.name

    @property
    def reference(self) -> str:
        """What a configuration calls them."""
        return f"{UPLOAD}{self.pk}"


class Survey(models.Model):
    """What may be cut of a library's model, for images of this kind: found out once, for everybody."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    library = models.CharField(max_length=20)
    model = models.CharField(max_length=100)
    image_size = models.PositiveIntegerField()
    channels = models.PositiveIntegerField()
    classes = models.PositiveIntegerField()
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="surveys")
    state = models.CharField(max_length=12, choices=SurveyState.choices, default=SurveyState.WAITING)
    attempt = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(default=0)
    message = models.TextField(blank=True, help_text="Why it was refused.")
    found = models.JSONField(null=True, help_text="The engine's file, as it is.")
    queued_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("library", "model", "image_size", "channels", "classes"), name="survey_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.model} ({self.library})"

    @property
    def sentence(self) -> str:
        return self.message if self.state == SurveyState.REFUSED else SurveyState(self.state).sentence

    @property
    def is_readable(self) -> bool:
        """Whether what was found is what this version reads."""
        return self.found is not None and self.found.get("format") == imported.FORMAT


class Search(models.Model):
    """One search: what was asked, where it stands, what came of it.

    `attempt` numbers the engine processes; each write of one carries its number, so that a stale one changes nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="searches")
    name = models.CharField(max_length=80)
    config = models.JSONField(help_text="Everything that was asked, presets filled in.")
    dataset = models.ForeignKey(Dataset, on_delete=models.SET_NULL, null=True, related_name="searches")
    dataset_label = models.CharField(max_length=80)
    weights = models.ForeignKey(Weights, on_delete=models.SET_NULL, null=True, related_name="searches")
    weights_label = models.CharField(max_length=80, blank=True, help_text="Empty if it began with none of its owner's.")
    note = models.TextField(blank=True)
    tag_lines = models.TextField(
        blank=True, help_text="A line each, with an empty one before and after: databases can look for whole lines."
    )
    state = models.CharField(max_length=12, choices=SearchState.choices, default=SearchState.QUEUED)
    requested = models.CharField(max_length=8, choices=Request.choices, default=Request.NONE)
    attempt = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(
        default=0, help_text="Attempts in a row that died without saving anything new."
    )
    host = models.CharField(max_length=255, blank=True)
    pid = models.PositiveIntegerField(null=True, help_text="The supervising process.")
    message = models.TextField(blank=True)
    problems = models.JSONField(default=list)
    report = models.JSONField(null=True)
    ended_early = models.JSONField(
        default=list, help_text="Of search, comparison and retraining what its owner ended before its time."
    )
    rewinds = models.JSONField(
        default=list, help_text="For each restart that said events again: the number before them."
    )
    fraction = models.FloatField(default=0)
    size = models.FloatField(null=True)  # milliseconds, where the target is a time
    curve = models.JSONField(default=list, help_text="Validation accuracy in a few points (see webapp/curve.py).")
    stage = models.CharField(max_length=80, blank=True)
    eta_seconds = models.FloatField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at",)
        verbose_name_plural = "searches"
        indexes = (
            models.Index(fields=("owner", "-created_at"), name="search_by_owner"),
            models.Index(fields=("state", "queued_at"), name="search_by_state"),
        )

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("search_detail", args=[self.pk])

    @property
    def url(self) -> str:
        return self.get_absolute_url()

    @property
    def tags(self) -> list[str]:
        return self.tag_lines.strip("\n").split("\n") if self.tag_lines else []

    @property
    def is_finished(self) -> bool:
        return not MOVES[SearchState(self.state)]

    @property
    def is_held(self) -> bool:
        """Whether an attempt is at work on it."""
        return self.state in HELD_STATES

    @property
    def is_cancelling(self) -> bool:
        return self.is_held and self.requested == Request.CANCEL

    @property
    def is_training(self) -> bool:
        """Whether the search is over and its networks are trained."""
        return self.stage == TRAINING

    @property
    def can_end_early(self) -> bool:
        """Whether it has begun and more of it could be left out."""
        is_going = self.attempt > 0 and not self.is_finished and self.state != SearchState.PAUSING
        return is_going and self.requested not in (Request.FINISH, Request.CANCEL)

    @property
    def can_stop(self) -> bool:
        """Whether it still searches, and may have found something by now."""
        return self.can_end_early and not self.is_training and self.requested != Request.STOP

    @property
    def state_label(self) -> str:
        if self.is_cancelling:
            return "Cancelling"
        return "Finished early" if self.ended_early else SearchState(self.state).label

    @property
    def sentence(self) -> str:
        if self.is_cancelling:
            return "Ends at its next step."
        if self.state == SearchState.STOPPING and self.requested == Request.STOP:
            return "Trains the network as it stands; then it is finished."
        return " ".join(filter(None, (SearchState(self.state).sentence, self.early_text, self.message)))

    @property
    def early_text(self) -> str:
        """What it means that it was ended early; empty if it was not."""
        return early_text(self.ended_early)

    @property
    def plain_sentence(self) -> str:
        """For others than its owner: without files, nor what its engine or its machine said."""
        if self.state == SearchState.FINISHED:
            return f"Done. {self.early_text}".rstrip()
        return self.sentence.removesuffix(self.message).rstrip() if self.message else self.sentence

    @property
    def method_label(self) -> str:
        """The method that it searches with."""
        return catalogue.STRATEGIES[self.config["strategy"]["kind"]].label

    @property
    def model_name(self) -> str:
        """Of the known model that it makes smaller; empty if its space is our own."""
        return str(self.config["space"].get("model", ""))

    @property
    def operations_word(self) -> str:
        """What the units of its operation choices are: in a known model blocks that may be left out."""
        return "blocks" if self.model_name else "operations"

    @property
    def stage_label(self) -> str:
        return stage_text(self.stage)

    @property
    def target_text(self) -> str:
        return target_text(self.config["target"])

    @property
    def also_text(self) -> str:
        """Its further targets; empty if there are none."""
        return also_text(self.config["target"])

    @property
    def accuracy(self) -> float | None:
        """On the test images; known when finished."""
        measured: dict[str, Any] = (self.report or {}).get("accuracy") or {}
        return measured.get("test")


class SearchEvent(models.Model):
    """One event of a search, as the engine said it. Numbers rise without being dense: old progress is thinned out."""

    search = models.ForeignKey(Search, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    attempt = models.PositiveIntegerField()
    kind = models.CharField(max_length=32)
    payload = models.JSONField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("search", "seq")
        constraints = (models.UniqueConstraint(fields=("search", "seq"), name="search_event_once"),)

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"


TRAINING = "retraining"
"""The stage of a search that is over, while its networks are trained."""
RESULT, FAMILY = "result", "family/"
"""Within a run's folder: where the main network's files are, and before the sizes of further targets."""


WEIGHTS = "model.safetensors"


class Artifact(models.Model):
    """A file of a finished search: `model.onnx` of the main network, `family/12000/model.onnx` of a further target."""

    search = models.ForeignKey(Search, on_delete=models.CASCADE, related_name="artifacts")
    name = models.CharField(max_length=255)
    bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)

    class Meta:
        ordering = ("search", "name")
        constraints = (models.UniqueConstraint(fields=("search", "name"), name="artifact_once"),)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def name_of(cls, folder: str, file: str) -> str:
        """What a file of one of the run's folders is called."""
        return file if folder == RESULT else f"{folder}/{file}"

    @property
    def folder(self) -> str:
        """Of the network that it belongs to, within the run's."""
        return self.name.rpartition("/")[0] if self.name.startswith(FAMILY) else RESULT

    @property
    def file(self) -> str:
        """Its name in that folder."""
        return self.name.removeprefix(f"{self.folder}/")

    @property
    def size_bytes(self) -> int:
        return self.bytes

    @property
    def url(self) -> str:
        return reverse("search_file", args=[self.search_id, self.name])


class SignInLink(models.Model):
    """A link that signs one user in, once. Only its hash is stored."""

    token_hash = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="sign_in_links")
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"for {self.user}, until {self.expires_at:%H:%M}"


class ShareLink(models.Model):
    """Shows one search to whoever has the link, until it expires or is revoked. Only its hash is stored."""

    token_hash = models.CharField(max_length=64, unique=True)
    search = models.ForeignKey(Search, on_delete=models.CASCADE, related_name="share_links")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"of {self.search}, until {self.expires_at:%Y-%m-%d}"


class ApiToken(models.Model):
    """Lets a script act as its user, until it is revoked. Only its hash is stored."""

    token_hash = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    created_at = models.DateTimeField(auto_now_add=True)
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return self.name


class Webhook(models.Model):
    """Where a user's own program is told that one of their searches finished or failed."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="webhook")
    address = models.CharField(max_length=500)
    nonce = models.CharField(max_length=64, help_text="Its secret is made of this and our own key.")
    site = models.CharField(max_length=255, help_text="Where this Coppice is, as its user sees it.")
    told_at = models.DateTimeField(null=True, help_text="When it was last tried, whether that was taken or not.")
    problem = models.TextField(blank=True, help_text="Why the last try failed; empty if it was taken.")

    def __str__(self) -> str:
        return self.address


class Delivery(models.Model):
    """A webhook is still to be told of a search."""

    search = models.OneToOneField(Search, on_delete=models.CASCADE, related_name="delivery")
    tries = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return f"of {self.search}, try {self.tries + 1}"


CUT_SHORT = {"search": "its search", "retraining": "its training"}


def target_text(target: dict[str, Any]) -> str:
    """A target and the limits beside it as people say them.

    >>> target_text({"metric": "params", "value": 20000}), target_text({"metric": "macs", "value": "40%"})
    ('20,000 parameters', '40% of the multiply-adds')
    >>> target_text({"metric": "params", "value": 20000, "limits": {"params": None, "macs": "30%"}})
    '20,000 parameters and 30% of the multiply-adds'
    >>> target_text({"metric": "latency_ms", "value": 0.25}), target_text({"metric": "latency_ms", "value": "40%"})
    ('0.25 ms', '40% of the time for one image')
    """
    limits = [(metric, value) for metric, value in target.get("limits", {}).items() if value is not None]
    return " and ".join(_limit_text(metric, value) for metric, value in [(target["metric"], target["value"]), *limits])


def stage_text(name: str) -> str:
    """A stage as people say it; the page has the same in static/js/names.js.

    >>> stage_text("on to 12,000 params"), stage_text("cells 1 to 3")
    ('down to 12,000 parameters', 'cells 1 to 3')
    """
    found = re.fullmatch(r"on to (.+) (params|macs|latency_ms)", name)
    return f"down to {found[1]} {catalogue.METRICS[found[2]]}" if found else name


def usual_name(dataset_label: str, target: dict[str, Any]) -> str:
    """What a search is called if nobody says.

    >>> usual_name("Digits", {"metric": "params", "value": "40%"})
    'Digits, 40% of the parameters'
    """
    return f"{dataset_label}, {target_text(target)}"[:80]


def also_text(target: dict[str, Any]) -> str:
    """Further targets as people say them.

    >>> also_text({"also": ["60%", 12000.0, 8000]}), also_text({})
    ('60%, 12,000 and 8,000', '')
    """
    *others, last = map(_amount_text, target.get("also") or [""])
    return f"{', '.join(others)} and {last}" if others else last


def early_text(phases: Collection[str]) -> str:
    """What follows from phases that were ended early, as an engine's report names them.

    >>> early_text(["search", "comparison", "retraining"])
    'On request its search and its training were cut short; a full run may find a better network.'
    >>> early_text(["comparison"]), early_text([])
    ('The random networks to compare it with were left out.', '')
    """
    cut = [phrase for phase, phrase in CUT_SHORT.items() if phase in phases]
    if cut:
        were = "was" if len(cut) == 1 else "were"
        return f"On request {' and '.join(cut)} {were} cut short; a full run may find a better network."
    return "The random networks to compare it with were left out." if phases else ""


def _limit_text(metric: str, value: float | str) -> str:
    name, text = catalogue.METRICS.get(metric, metric), _amount_text(value)
    whole = "time for one image" if metric == "latency_ms" else name
    return f"{text} of the {whole}" if text.endswith("%") else f"{text} {name}"


def _amount_text(value: float | str) -> str:
    return f"{value:,.12g}" if isinstance(value, int | float) else value.strip()
