"""Forms. The new-search form is read off SearchConfig: labels, help, units and bounds stand there, once.

A field only turns text into a plain value. What is wrong with it is said by the engine, in the words of the command
line, and put at the field it names.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from django import forms
from django.contrib.auth.models import User
from django.forms import BoundField
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nasengine import catalogue
from nasengine.config import PRESETS, SearchConfig, parse
from nasengine.errors import ConfigError
from webapp.models import METRICS, DatasetState
from webapp.selectors import Asked, datasets_of, search_asked

BASIC_ORDER = ("name", "preset", "data.dataset", "space.kind", "strategy.kind", "target.metric", "target.value")
HIDDEN = ("data.path",)
"""Not for the web: paths of the server are nobody's to give."""
GROUPS = {
    "": "General",
    "data": "Data",
    "space": "Space",
    "strategy": "Method",
    "search": "Search",
    "retrain": "Retraining",
    "baseline": "Comparison",
    "runtime": "Machine",
}
LABELS: dict[str, dict[str, str]] = {
    "preset": {"quick": "Quick", "standard": "Standard", "thorough": "Thorough"},
    "space.kind": {name: entry.label for name, entry in catalogue.SPACES.items()},
    "strategy.kind": {name: entry.label for name, entry in catalogue.STRATEGIES.items()},
    "target.metric": {name: label.capitalize() for name, label in METRICS.items()},
}
YES_NO = {"true": "Yes", "false": "No"}
ENDLESS = re.compile(r"(\S{40})[^\s'\"]{60,}")
"""A word that is too long to be shown whole."""


@dataclass(frozen=True)
class Setting:
    """One leaf of SearchConfig."""

    dotted: str
    info: FieldInfo
    kind: type | None
    """What a plain text is turned into: int, float, bool; None for text."""
    choices: tuple[str, ...]
    is_list: bool

    @property
    def group(self) -> str:
        return self.dotted.rpartition(".")[0]

    @property
    def ticks(self) -> bool:
        """Whether several of a few can be chosen."""
        return self.is_list and bool(self.choices)

    @property
    def is_basic(self) -> bool:
        """Whether it is shown at once, in the order of BASIC_ORDER."""
        return not _extra(self.info).get("advanced")


def settings_of(model: type[BaseModel] = SearchConfig, prefix: str = "") -> Iterator[Setting]:
    """Every leaf of the configuration, in its order."""
    for name, info in model.model_fields.items():
        dotted = f"{prefix}{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from settings_of(info.annotation, f"{dotted}.")
        elif dotted not in HIDDEN:
            yield _setting(dotted, info)


class SettingField(forms.CharField):
    """Text, or several texts, turned into the plain value that a JSON configuration would hold."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        self.setting = setting
        super().__init__(required=False, strip=True, **options)

    def to_python(self, value: Any) -> Any:
        if self.setting.is_list:
            texts = value if isinstance(value, list | tuple) else str(value or "").replace(",", " ").split()
            return [_plain(str(text).strip(), self.setting.kind) for text in texts] or None
        text = str(value or "").strip()
        return _plain(text, self.setting.kind) if text else None

    def validate(self, value: Any) -> None:
        """Nothing: the engine says what is wrong."""

    def run_validators(self, value: Any) -> None:
        """Nothing: the engine says what is wrong."""


class NewSearchForm(forms.Form):
    """What a person may ask for. An advanced field that is left empty has the preset's value.

    When valid, `asked` is what `services.search_create` wants.

    Args:
        dataset: the data set to begin with; an unknown one changes nothing.
    """

    asked: Asked

    def __init__(self, data: Mapping[str, Any] | None = None, *, owner: User, dataset: str | None = None) -> None:
        super().__init__(data)
        self.owner = owner
        self.presets = {preset: parse({"preset": preset, "data": {"dataset": "cifar10"}}) for preset in PRESETS}
        for setting in settings_of():
            self.fields[form_name(setting.dotted)] = self._field(setting)
        if dataset in dict(self.fields["data__dataset"].widget.choices):
            self.initial["data__dataset"] = dataset

    @property
    def basic_fields(self) -> list[BoundField]:
        basic = [setting.dotted for setting in settings_of() if setting.is_basic]
        return [self[form_name(dotted)] for dotted in sorted(basic, key=_place)]

    @property
    def advanced_groups(self) -> list[tuple[str, list[BoundField]]]:
        groups: dict[str, list[BoundField]] = {}
        for setting in settings_of():
            if not setting.is_basic:
                groups.setdefault(setting.group, []).append(self[form_name(setting.dotted)])
        return [(GROUPS[group], fields) for group, fields in groups.items()]

    def raw(self) -> dict[str, Any]:
        """The configuration as its JSON would be written by hand: only what was filled in."""
        result: dict[str, Any] = {}
        for setting in settings_of():
            value = self.cleaned_data.get(form_name(setting.dotted))
            if value is None:
                continue
            part, _, name = setting.dotted.rpartition(".")
            (result.setdefault(part, {}) if part else result)[name] = value
        return result

    def read(self) -> Asked | None:
        """What the fields ask for, whether its target is in reach or not; None where errors prevent that."""
        try:
            return search_asked(owner=self.owner, raw=self.raw())
        except ConfigError as error:
            self.add_problems(error.problems)
            return None

    def add_problems(self, problems: Iterable[tuple[str, str]]) -> None:
        """Puts what the engine says first of each field at that field, without repeating a page of what was typed."""
        for dotted, sentence in problems:
            field = field_of(dotted, self.fields)
            if field is None or field not in self.errors:
                self.add_error(field, ENDLESS.sub(r"\1…", sentence))

    def clean(self) -> dict[str, Any]:
        asked = self.read()
        if asked is not None:
            self.asked = asked
            self.add_problems(asked.outlook.problems)
        return self.cleaned_data

    def _field(self, setting: Setting) -> SettingField:
        choices = self._choices(setting)
        extra = _extra(setting.info)
        basic = setting.is_basic
        attrs: dict[str, str] = {} if basic else {"data-presets": json.dumps(self._preset_texts(setting))}
        widget: forms.Widget
        if setting.ticks:
            widget = forms.CheckboxSelectMultiple(attrs=attrs, choices=list(choices.items()))
        elif choices:
            first = [] if basic else [("", f"As the preset ({self._shown(setting, 'quick')})")]
            widget = forms.Select(attrs=attrs, choices=[*first, *choices.items()])
        else:
            shown = {} if basic else {"placeholder": self._shown(setting, "quick")}
            numeric = setting.kind in (int, float) and not setting.is_list
            # No number input: where a browser cannot read the number it sends nothing, and nobody is told.
            attrs |= shown | {"autocomplete": "off"} | ({"inputmode": "decimal"} if numeric else {})
            widget = forms.TextInput(attrs=attrs)
        field = SettingField(
            setting,
            label=setting.info.title or setting.dotted,
            help_text=f"{setting.info.description} {'None ticked: as the preset.' if setting.ticks else ''}".strip(),
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
        if setting.kind is bool:
            return YES_NO
        labels = LABELS.get(setting.dotted, {})
        return {choice: labels.get(choice, choice) for choice in setting.choices}

    def _shown(self, setting: Setting, preset: str) -> str:
        return self._preset_texts(setting)[preset]

    def _preset_texts(self, setting: Setting) -> dict[str, str]:
        return {name: _text(_value(config, setting.dotted)) for name, config in self.presets.items()}


class UploadForm(forms.Form):
    """A zip of class folders."""

    name = forms.CharField(max_length=80, required=False, label="Name", help_text="Empty: the name of the file.")
    file = forms.FileField(
        label="Zip file",
        help_text="One folder a class, with or without train, val and test folders above.",
        widget=forms.ClearableFileInput(attrs={"accept": ".zip,application/zip"}),
        error_messages={
            "required": "No file was chosen; choose a zip of class folders.",
            "empty": "The chosen file is empty; choose a zip of class folders.",
        },
    )


def form_name(dotted: str) -> str:
    """The form's name of a setting.

    >>> form_name("target.value")
    'target__value'
    """
    return dotted.replace(".", "__")


def field_of(dotted: str, fields: Iterable[str]) -> str | None:
    """The form field where a problem of a setting is shown; None for the form as a whole."""
    name = "data__dataset" if dotted in HIDDEN else form_name(dotted)
    return name if name in fields else None


def _place(dotted: str) -> int:
    return BASIC_ORDER.index(dotted) if dotted in BASIC_ORDER else len(BASIC_ORDER)


def _setting(dotted: str, info: FieldInfo) -> Setting:
    leaves = [leaf for leaf in _leaves(info.annotation) if leaf is not type(None)]
    is_list = any(get_origin(leaf) is tuple for leaf in leaves)
    items = [item for leaf in leaves for item in (_leaves(get_args(leaf)[0]) if get_origin(leaf) is tuple else [leaf])]
    choices = tuple(str(value) for item in items if get_origin(item) is Literal for value in get_args(item))
    kinds = [item for item in items if item in (bool, int, float)]
    return Setting(dotted, info, kinds[0] if kinds else None, choices, is_list)


def _leaves(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [leaf for part in get_args(annotation) for leaf in _leaves(part)]
    return [annotation]


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


def _text(value: Any) -> str:
    if value is None or value is PydanticUndefined:
        return "automatic"
    if isinstance(value, bool):
        return YES_NO[str(value).lower()]
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _extra(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra
    return dict(extra) if isinstance(extra, Mapping) else {}
