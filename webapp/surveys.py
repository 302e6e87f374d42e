"""Which survey does a configuration need, and is it here? What workers found out of a known model, as rows keep it.

A survey says what may be cut of a model (``nasengine.spaces.imported``). The engine reads it from a file of the cache;
the row is what every machine has, so that each fills its own cache from there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nasengine.cache import whole
from nasengine.config import ImportedSpace, SearchConfig
from nasengine.errors import ConfigError
from nasengine.outlook import Outlook
from nasengine.spaces import imported
from nasengine.spaces.imported import UnknownModelError
from nasengine.splits import DataFacts
from webapp.models import Survey, SurveyState


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model as it takes these images."""

    library: str
    model: str
    image_size: int
    channels: int
    classes: int

    @classmethod
    def of(cls, config: SearchConfig, facts: DataFacts) -> Subject | None:
        """That of a configuration; None if its space is our own."""
        space = config.space
        if not isinstance(space, ImportedSpace):
            return None
        return cls(
            library=space.library,
            model=space.model,
            image_size=config.data.image_size,
            channels=facts.channels,
            classes=len(facts.class_names),
        )

    @classmethod
    def of_survey(cls, survey: Survey) -> Subject:
        """That of a row."""
        return cls(**{field.name: getattr(survey, field.name) for field in fields(cls)})

    @property
    def file(self) -> Path:
        """Where the engine looks for the survey."""
        return imported.file(**asdict(self))

    @property
    def facts(self) -> dict[str, Any] | None:
        """What the survey tells people; None if it is not here."""
        found = imported.survey(self.file)
        return found and found["facts"]


class Unsurveyed(UnknownModelError):
    """Nobody knows yet what may be cut of this model; a worker has to look."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        super().__init__(
            [("space.model", f"what may be cut of {subject.model} is not known yet; it is looked at first")]
        )


def judged(look: Outlook, config: SearchConfig, facts: DataFacts) -> Outlook:
    """The outlook of a search, with why the weights of a file that it is to begin with are not its model's."""
    if not isinstance(config.space, ImportedSpace):
        return look
    size, classes = config.data.image_size, len(facts.class_names)
    try:
        imported.check_weights(config.space, image_size=size, channels=facts.channels, classes=classes)
    except ConfigError as refusal:
        return replace(look, problems=(*look.problems, *refusal.problems), warnings=())
    return look


def bring(subject: Subject) -> None:
    """Puts what a row knows into the cache of this machine.

    Raises:
        Unsurveyed: if no row knows it.
        DataError: if there is no room.
    """
    survey = Survey.objects.filter(**asdict(subject), state=SurveyState.KNOWN).first()
    if survey is None or not survey.is_readable:
        raise Unsurveyed(subject)
    with whole(subject.file) as stream:
        stream.write(json.dumps(survey.found).encode())
