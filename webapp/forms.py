"""Forms. The new-search form is read off SearchConfig: labels, help, units and bounds stand there, once.

A field only turns text into a plain value. What is wrong with it is said by the engine, in the words of the command
line, and put at the field it names. Where a part has several kinds, each kind has fields of its own, and those of the
chosen kind alone are read.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

from django import forms
from django.contrib.auth.models import User
from django.forms import BoundField
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nasengine import catalogue
from nasengine.config import KINDS, METHODS, PRESETS, SearchConfig, parse
from nasengine.errors import ConfigError
from webapp.again import leaves
from webapp.models import DatasetState, Search
from webapp.selectors import Asked, Unchosen, datasets_of, search_asked, weights_of
from webapp.surveys import Subject, Unsurveyed
from webapp.weight_files import WEIGHT_FILES

BASIC_ORDER = (
    "name", "preset", "data.dataset", "space.kind", "space.library", "space.model", "space.weights", "space.path",
    "strategy.kind", "target.metric", "target.value",
)  # fmt: skip
KIND = "kind"
HIDDEN = {"data.path": "data__dataset"}
"""Not for the web, as paths of the server are nobody's to give -> where the form says so."""
WEIGHTS = tuple(place.dotted for place in WEIGHT_FILES)
UPLOADED = ("data.dataset", *WEIGHTS)
"""Fields in which uploads are chosen."""
LISTED = {"space.model": "model-names", "strategy.teacher_model": "teacher-names"}
"""Field -> the list of the page that offers its values, which are names."""
GROUPS = {
    "": "General",
    "data": "Data",
    "space": "Space",
    "strategy": "Method",
    "target": "Target",
    "target.limits": "Limits beside the target",
    "search": "Search",
    "retrain": "Retraining",
    "baseline": "Comparison",
    "runtime": "Machine",
}
WITH_WEIGHTS = {"space__kind": "imported", "space__imported__weights": "file"}
WITH_TEACHER = {
    "space__kind": "chain", "strategy__kind": "dna", "strategy__dna__teacher": "library",
    "strategy__dna__teacher_weights": "file",
}  # fmt: skip
"""What a form begins with besides, where a file with weights is given: to the model, or to its teacher."""
TRAINED = {"file": "A file of yours", "pretrained": "Trained, from its library"}
LABELS: dict[str, dict[str, str]] = {
    "preset": {name: entry.label for name, entry in catalogue.PRESETS.items()},
    "space.kind": {name: entry.label for name, entry in catalogue.SPACES.items()},
    "space.weights": {"none": "Random", **TRAINED},
    "strategy.teacher_weights": TRAINED,
    "strategy.teacher": {"own": "Its own, trained first", "library": "A model of a library"},
    "strategy.kind": {name: entry.label for name, entry in catalogue.STRATEGIES.items()},
    "target.metric": {name: label.capitalize() for name, label in catalogue.METRICS.items()}
    | {"latency_ms": "Time for one image"},
}
YES_NO = {"true": "Yes", "false": "No"}
AMOUNTS = re.compile(r"\d{1,3}(?:,\d{3})+(?!,?\d)%?|[^\s,]+")
"""One item of a list of sizes: a comma before three digits belongs to the number, as in 12,000."""


@dataclass(frozen=True)
class Setting:
    """One leaf of SearchConfig."""

    dotted: str
    info: FieldInfo
    kind: type | None
    """What a plain text is turned into: int, float, bool; None for text."""
    takes_text: bool
    """Whether a text may stay one, such as 40%."""
    choices: tuple[str, ...]
    is_list: bool
    only: str = ""
    """The kind of its part that alone has it, such as chain; empty if all have."""

    @property
    def group(self) -> str:
        return self.dotted.rpartition(".")[0]

    @property
    def name(self) -> str:
        """In the form."""
        return form_name(self.dotted, self.only)

    @property
    def is_kind(self) -> bool:
        """Whether it says of which kind its part is."""
        return self.dotted.endswith(f".{KIND}")

    @property
    def ticks(self) -> bool:
        """Whether several of a few can be chosen."""
        return self.is_list and bool(self.choices)

    @property
    def is_basic(self) -> bool:
        """Whether it is shown at once, in the order of BASIC_ORDER."""
        return not _extra(self.info).get("advanced")


def settings_of(model: type[BaseModel] = SearchConfig, prefix: str = "") -> Iterator[Setting]:
    """Every leaf of the configuration, in its order; of a part with several kinds the kind, then what each has."""
    for name, info in model.model_fields.items():
        dotted = f"{prefix}{name}"
        parts = [leaf for leaf in _leaves(info.annotation) if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
        if len(parts) > 1:
            yield from _alternatives(parts, f"{dotted}.")
        elif parts:
            yield from settings_of(parts[0], f"{dotted}.")
        elif dotted not in HIDDEN:
            yield _setting(dotted, info, info.annotation)


class SettingField(forms.CharField):
    """Text, or several texts, turned into the plain value that a JSON configuration would hold."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        self.setting = setting
        super().__init__(required=False, strip=True, **options)

    def to_python(self, value: Any) -> Any:
        if self.setting.is_list:
            texts = value if isinstance(value, list | tuple) else _items(str(value or ""), self.setting)
            return [_plain(str(text).strip(), self.setting.kind) for text in texts] or None
        text = str(value or "").strip()
        return _plain(text, self.setting.kind) if text else None

    def validate(self, value: Any) -> None:
        """Nothing: the engine says what is wrong."""

    def run_validators(self, value: Any) -> None:
        """Nothing: the engine says what is wrong."""


@dataclass(frozen=True)
class FieldGroup:
    """Fields under one title."""

    title: str
    fields: list[BoundField]
    kind_field: str
    """Name of the field that chooses the kind; empty if the fields always count."""
    only: str
    """The kind for which they count."""


class NewSearchForm(forms.Form):
    """What a person may ask for. An advanced field that is left empty has the preset's value.

    When valid, `asked` is what `services.search_create` wants.

    Args:
        dataset: the data set to begin with; an unknown one changes nothing.
        weights: the weights to begin with, of a known model; unknown ones change nothing.
        teacher: the same of a teacher of DNA.
    """

    asked: Asked
    is_filled_further: bool
    """Whether an advanced field begins with a value of its own."""
    unsurveyed: Subject | None = None
    """The known model of which has to be found out what may be cut before this can be valid."""

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        owner: User,
        dataset: str | None = None,
        weights: str | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__(data)
        self.owner = owner
        spaces = {kind: {"space": {"kind": kind}} for kind in KINDS["space"]}
        methods = {
            kind: spaces[entry.spaces[0]] | {"strategy": {"kind": kind}} for kind, entry in catalogue.STRATEGIES.items()
        }
        kinds: dict[str, dict[str, Any]] = {"": {}, **spaces, **methods}
        self.presets = {
            (kind, preset): parse({"preset": preset, "data": {"dataset": "cifar10"}, **part})
            for kind, part in kinds.items()
            for preset in PRESETS
        }
        self.settings = list(settings_of())
        for setting in self.settings:
            self.fields[setting.name] = self._field(setting)
        if dataset in dict(self.fields["data__dataset"].widget.choices):
            self.initial["data__dataset"] = dataset
        self._begin(weights, "space__imported__path", WITH_WEIGHTS)
        self._begin(teacher, "strategy__dna__teacher_path", WITH_TEACHER)
        self.is_filled_further = "strategy__dna__teacher_path" in self.initial

    def _begin(self, weights: str | None, name: str, others: Mapping[str, str]) -> None:
        if weights and weights in dict(self.fields[name].widget.choices):
            self.initial.update({**others, name: weights})

    def fill(self, raw: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Begins with what a configuration says; gives (dotted name, value) of what no field can say.

        An upload that cannot be chosen any more is left as it was.
        """
        said = dict(leaves(raw))
        unsaid = []
        for setting in self.settings:
            if setting.dotted not in said or setting.only not in ("", said.get(f"{setting.group}.{KIND}")):
                continue
            value, field = said[setting.dotted], self.fields[setting.name]
            if setting.dotted in UPLOADED and value not in dict(field.widget.choices):
                continue
            typed = _typed(value, setting)
            if value is None:  # which an empty field only says where the preset fills in nothing
                can_say = self._preset_value(setting, str(said["preset"])) is None
            else:
                can_say = isinstance(value, str) or field.to_python(typed) == value
            if can_say:
                self.initial[setting.name] = typed
                self.is_filled_further |= not setting.is_basic
            else:
                unsaid.append((setting.dotted, _text(value, setting)))
        return unsaid

    def is_valid(self) -> bool:
        return super().is_valid() and self.unsurveyed is None

    @property
    def basic_fields(self) -> list[BoundField]:
        basic = sorted((setting for setting in self.settings if setting.is_basic), key=lambda one: _place(one.dotted))
        return [self[setting.name] for setting in basic]

    @property
    def advanced_groups(self) -> list[FieldGroup]:
        groups: dict[tuple[str, str], list[BoundField]] = {}
        for setting in self.settings:
            if not setting.is_basic:
                groups.setdefault((setting.group, setting.only), []).append(self[setting.name])
        return [_group(part, only, fields) for (part, only), fields in groups.items()]

    @property
    def idle(self) -> dict[str, dict[str, list[str]]]:
        """Name -> one of its values -> the names of the fields that say nothing beside it."""
        found = {}
        for kind, method in METHODS.items():
            for name, values in method.idle.items():
                others = {value: [form_name(f"strategy.{one}", kind) for one in idle] for value, idle in values.items()}
                found[form_name(f"strategy.{name}", kind)] = others
        return found

    def raw(self) -> dict[str, Any]:
        """The configuration as its JSON would be written by hand: only what was filled in."""
        result: dict[str, Any] = {}
        for setting in self._counting():
            value = self.cleaned_data.get(setting.name)
            if value is None:
                continue
            *parts, name = setting.dotted.split(".")
            inner = result
            for part in parts:
                inner = inner.setdefault(part, {})
            inner[name] = value
        return result

    def read(self) -> Asked | None:
        """What the fields ask for, whether it can start or not; None where errors prevent that."""
        return self._read(self.raw())

    def _read(self, raw: Mapping[str, Any]) -> Asked | None:
        try:
            return search_asked(owner=self.owner, raw=raw)
        except Unchosen as unchosen:
            self.add_problems(unchosen.problems)
            return self._read(unchosen.otherwise)
        except Unsurveyed as unknown:
            self.unsurveyed = unknown.subject
            return None
        except ConfigError as error:
            self.add_problems(error.problems)
            return None

    def add_problems(self, problems: Iterable[tuple[str, str]]) -> None:
        """Puts what the engine says first of each field at that field."""
        for dotted, sentence in problems:
            field = self._names().get(dotted)  # None: the form as a whole
            if field is None or field not in self.errors:
                self.add_error(field, sentence)

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """(field, sentence) of what may well go wrong, once it is filled in; it can be started all the same."""
        found = self.asked.outlook.warnings if hasattr(self, "asked") and not self.errors else ()
        return [(self._names().get(dotted, ""), sentence) for dotted, sentence in found]

    @property
    def greys(self) -> dict[str, str]:
        """Name -> what an empty field stands for beside all that was filled in; empty where errors prevent that."""
        if not hasattr(self, "asked"):
            return {}
        empty = (one for one in self._counting() if not one.is_basic and not self[one.name].value())
        return {setting.name: _text(_value(self.asked.config, setting.dotted), setting) for setting in empty}

    def clean(self) -> dict[str, Any]:
        asked = self.read()
        if asked is not None:
            self.asked = asked
            self.add_problems(asked.outlook.problems)
        return self.cleaned_data

    def _names(self) -> dict[str, str]:
        """Dotted name -> the form's, of the settings that are read."""
        names = {setting.dotted: setting.name for setting in self._counting()}
        return names | HIDDEN

    def _counting(self) -> list[Setting]:
        """The settings that are read: of a part with several kinds those of the chosen one."""
        chosen = {
            setting.group: self.cleaned_data.get(setting.name) or setting.info.default
            for setting in self.settings
            if setting.is_kind
        }
        return [setting for setting in self.settings if setting.only in ("", chosen.get(setting.group))]

    def _field(self, setting: Setting) -> SettingField:
        choices = self._choices(setting)
        extra = _extra(setting.info)
        basic = setting.is_basic
        attrs: dict[str, str] = {} if basic else {"data-presets": json.dumps(self._preset_texts(setting))}
        widget: forms.Widget
        if setting.ticks:
            widget = forms.CheckboxSelectMultiple(attrs=attrs, choices=list(choices.items()))
        elif choices or setting.dotted in WEIGHTS:
            first = [] if basic else [("", f"As the preset ({self._shown(setting, 'quick')})")]
            if basic and setting.dotted in WEIGHTS:
                first = [("", "Choose one")]
            widget = forms.Select(attrs=attrs, choices=[*first, *choices.items()])
        else:
            shown = {} if basic else {"placeholder": self._shown(setting, "quick")}
            if setting.dotted in LISTED:
                shown |= {"list": LISTED[setting.dotted], "spellcheck": "false", "autocapitalize": "none"}
            numeric = setting.kind in (int, float) and not setting.is_list
            # No number input: where a browser cannot read the number it sends nothing, and nobody is told.
            attrs |= shown | {"autocomplete": "off"} | ({"inputmode": "decimal"} if numeric else {})
            widget = forms.TextInput(attrs=attrs)
        field = SettingField(
            setting,
            label=GROUPS[setting.group] if setting.is_kind else setting.info.title or setting.dotted,
            help_text=f"{setting.info.description} {_hint(setting)}".strip(),
            initial=setting.info.default if basic or setting.ticks else None,
            widget=widget,
        )
        field.unit = str(extra.get("unit", ""))  # type: ignore[attr-defined]  # for the templates
        return field

    def _choices(self, setting: Setting) -> dict[str, str]:
        if setting.dotted == "data.dataset":
            ready = datasets_of(self.owner).filter(state=DatasetState.READY)
            uploads = {dataset.reference: dataset.name for dataset in ready}
            return uploads | {name: entry.label for name, entry in catalogue.DATASETS.items()}
        if setting.dotted in WEIGHTS:
            return {weights.reference: weights.name for weights in weights_of(self.owner)}
        if setting.kind is bool:
            return YES_NO
        labels = LABELS.get(setting.dotted, {})
        return {choice: labels.get(choice, choice) for choice in setting.choices}

    def _shown(self, setting: Setting, preset: str) -> str:
        return self._preset_texts(setting)[preset]

    def _preset_texts(self, setting: Setting) -> dict[str, str]:
        return {preset: _text(self._preset_value(setting, preset), setting) for preset in PRESETS}

    def _preset_value(self, setting: Setting, preset: str) -> Any:
        return _value(self.presets[setting.only, preset], setting.dotted)


class DescribeForm(forms.Form):
    """What its owner calls a search, notes on it and finds it by. What is wrong is said by the service."""

    name = forms.CharField(label="Name", required=False, strip=False)
    note = forms.CharField(
        label="Note", required=False, strip=False, help_text="Only you see it.", widget=forms.Textarea({"rows": 3})
    )
    tags = forms.CharField(
        label="Tags",
        required=False,
        strip=False,
        help_text="With commas between; the list can be asked for one of them.",
    )

    @classmethod
    def of(cls, search: Search) -> DescribeForm:
        """What it is called now."""
        return cls(initial={"name": search.name, "note": search.note, "tags": ", ".join(search.tags)})


class TokenForm(forms.Form):
    """A new API token."""

    name = forms.CharField(
        label="Name",
        max_length=80,
        help_text="What it is for; only you see it.",
        error_messages={"required": "It has no name; say what it is for, such as 'nightly script'."},
    )


class WebhookForm(forms.Form):
    """Where a user's own program is told."""

    address = forms.CharField(
        label="Address",
        help_text="It gets a POST when one of your searches finishes or fails.",
        widget=forms.TextInput({"inputmode": "url", "placeholder": "https://example.org/coppice"}),
        error_messages={"required": "It has no address; write it like https://example.org/coppice."},
    )


class ShareForm(forms.Form):
    """How long a link shows a search."""

    days = forms.TypedChoiceField(
        label="Shown for", choices=[(1, "one day"), (7, "a week"), (30, "a month"), (365, "a year")], initial=7,
        coerce=int,
    )  # fmt: skip


class _NamedFileForm(forms.Form):
    name = forms.CharField(max_length=80, required=False, label="Name", help_text="Empty: the name of the file.")


class UploadForm(_NamedFileForm):
    """A zip of class folders."""

    file = forms.FileField(
        label="Zip file",
        help_text="One folder a class, with or without train, val and test folders above.",
        widget=forms.ClearableFileInput(attrs={"accept": ".zip,application/zip"}),
        error_messages={
            "required": "No file was chosen; choose a zip of class folders.",
            "empty": "The chosen file is empty; choose a zip of class folders.",
        },
    )


class WeightsForm(_NamedFileForm):
    """A trained model's state dict."""

    file = forms.FileField(
        label="Safetensors file",
        help_text="The state dict of a model of timm or torchvision.",
        widget=forms.ClearableFileInput(attrs={"accept": ".safetensors"}),
        error_messages={
            "required": "No file was chosen; choose one that ends with .safetensors.",
            "empty": "The chosen file is empty; choose one that holds a state dict.",
        },
    )


def form_name(dotted: str, only: str = "") -> str:
    """The form's name of a setting, or of that which one kind of its part has.

    >>> form_name("target.value"), form_name("space.channels", "chain"), form_name("target.limits.macs")
    ('target__value', 'space__chain__channels', 'target__limits__macs')
    """
    part, _, name = dotted.rpartition(".")
    return "__".join(filter(None, (*part.split("."), only, name)))


def _place(dotted: str) -> int:
    return BASIC_ORDER.index(dotted) if dotted in BASIC_ORDER else len(BASIC_ORDER)


def _group(part: str, only: str, fields: list[BoundField]) -> FieldGroup:
    if not only:
        return FieldGroup(GROUPS[part], fields, "", "")
    kind = f"{part}.{KIND}"
    return FieldGroup(f"{GROUPS[part]}: {LABELS[kind][only]}", fields, form_name(kind), only)


def _alternatives(parts: list[type[BaseModel]], prefix: str) -> Iterator[Setting]:
    dotted, kinds = f"{prefix}{KIND}", [part.model_fields[KIND] for part in parts]
    yield _setting(dotted, kinds[0], *(kind.annotation for kind in kinds))
    for part, kind in zip(parts, kinds, strict=True):
        for setting in settings_of(part, prefix):
            if setting.dotted != dotted:
                yield replace(setting, only=str(kind.default))


def _setting(dotted: str, info: FieldInfo, *annotations: Any) -> Setting:
    leaves = [leaf for annotation in annotations for leaf in _leaves(annotation) if leaf is not type(None)]
    is_list = any(get_origin(leaf) is tuple for leaf in leaves)
    items = [item for leaf in leaves for item in (_leaves(get_args(leaf)[0]) if get_origin(leaf) is tuple else [leaf])]
    values = [value for item in items if get_origin(item) is Literal for value in get_args(item)]
    kinds = [item for item in (*items, *map(type, values)) if item in (bool, int, float)]
    return Setting(dotted, info, kinds[0] if kinds else None, str in items, tuple(map(str, values)), is_list)


def _leaves(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [leaf for part in get_args(annotation) for leaf in _leaves(part)]
    return [annotation]


def _hint(setting: Setting) -> str:
    """How to fill it in, where its help does not say so."""
    if setting.ticks:
        return "None ticked: as the preset."
    return "With commas between, such as 30%, 12000." if setting.is_list and setting.takes_text else ""


def _items(text: str, setting: Setting) -> list[str]:
    """A list as it was typed, with commas or blanks between its items."""
    return AMOUNTS.findall(text) if setting.takes_text else text.replace(",", " ").split()


def _plain(text: str, kind: type | None) -> Any:
    """`text` as the value it spells, or unchanged for the engine to complain about.

    >>> _plain("12", int), _plain("0.1", float), _plain("true", bool), _plain("40%", float), _plain("many", int)
    (12, 0.1, True, '40%', 'many')
    """
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is None:
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _value(config: SearchConfig, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _text(value: Any, setting: Setting) -> str:
    if value is None or value is PydanticUndefined:
        return str(_extra(setting.info)["empty"])
    if isinstance(value, bool):
        return YES_NO[str(value).lower()]
    if isinstance(value, list | tuple):
        return ", ".join(_text(item, setting) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _typed(value: Any, setting: Setting) -> str | list[str]:
    """A plain value as a person would fill it in, to the last digit."""
    if isinstance(value, list | tuple):
        texts = [str(_typed(item, setting)) for item in value]
        return texts if setting.ticks else ", ".join(texts)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _extra(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra
    return dict(extra) if isinstance(extra, Mapping) else {}
