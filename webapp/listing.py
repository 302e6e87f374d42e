"""Which searches does the list show, and in which order? Asked by query string alone, so that a link keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib.auth.models import User
from django.db.models import Case, F, FloatField, QuerySet, Value, When
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Lower

from webapp import descriptions
from webapp.models import LIVE_STATES, Search, SearchState
from webapp.selectors import searches_of

GROUPS: dict[str, tuple[SearchState, ...]] = {
    "live": LIVE_STATES,
    "ended": tuple(state for state in SearchState if state not in LIVE_STATES),
}
STATES = [("", "any"), ("live", "not ended"), ("ended", "ended")] + [(s.value, s.label.lower()) for s in SearchState]
NEWEST = "newest"
SORTS = {NEWEST: "newest first", "name": "name", "accuracy": "accuracy", "size": "size", "state": "state"}
ORDERS: dict[str, tuple[Any, ...]] = {
    NEWEST: (),
    "name": (Lower("name"),),
    "accuracy": (Cast(KT("report__accuracy__test"), FloatField()).desc(nulls_last=True),),
    "size": (F("size").asc(nulls_last=True),),
    "state": (Case(*(When(state=state, then=Value(place)) for place, state in enumerate(SearchState))),),
}
"""What comes before the usual order, newest first."""


class ListForm(forms.Form):
    """What of the list is asked for; empty fields ask for all. What is unknown is said, and asks for nothing."""

    name = forms.CharField(label="Name has", required=False, max_length=80)
    state = forms.ChoiceField(
        label="State",
        choices=STATES,
        required=False,
        error_messages={"invalid_choice": "There is no state '%(value)s'; choose one of those below."},
    )
    tag = forms.CharField(label="Tag", required=False, max_length=80, widget=forms.Select)
    sort = forms.ChoiceField(
        label="Order",
        choices=list(SORTS.items()),
        required=False,
        error_messages={"invalid_choice": "The list cannot be sorted by '%(value)s'; choose one of the orders below."},
    )

    def __init__(self, data: Mapping[str, Any], *, owner: User) -> None:
        super().__init__(data)
        self.owner = owner
        self.tags = tags_of(owner)
        shown = sorted({*self.tags, str(data.get("tag", "")).strip()} - {""})
        self.fields["tag"].widget.choices = [("", "any"), *((tag, tag) for tag in shown)]
        for name in ("name", "tag"):
            self.fields[name].widget.attrs["maxlength"] = 80

    @property
    def asks(self) -> bool:
        """Whether it leaves anything out."""
        return any(self.cleaned_data.get(name) for name in ("name", "state", "tag"))

    @property
    def asked_text(self) -> str:
        """What is asked for, after `none of your searches has`."""
        asked = self.cleaned_data
        parts = {
            "name": f"“{asked.get('name')}” in its name",
            "state": f"the state “{dict(STATES).get(asked.get('state', ''))}”",
            "tag": f"the tag “{asked.get('tag')}”",
        }
        return " and ".join(text for name, text in parts.items() if asked.get(name))

    @property
    def is_newest_first(self) -> bool:
        return self.cleaned_data.get("sort") in (None, "", NEWEST)

    def found(self) -> QuerySet[Search]:
        """The user's searches that were asked for, in the order that was."""
        self.full_clean()  # what is wrong with one field leaves the others as they are
        asked = self.cleaned_data
        searches = searches_of(self.owner)
        if name := asked.get("name"):
            searches = searches.filter(name__icontains=name)
        if state := asked.get("state"):
            searches = searches.filter(state__in=GROUPS.get(state, (state,)))
        if tag := asked.get("tag"):
            searches = searches.filter(tag_lines__contains=f"\n{descriptions.tag(tag)}\n")
        return searches.order_by(*ORDERS[asked.get("sort") or NEWEST], "-created_at")


def tags_of(owner: User) -> list[str]:
    """All that its searches carry, in order."""
    lines = Search.objects.filter(owner=owner).exclude(tag_lines="").order_by().values_list("tag_lines", flat=True)
    return sorted({tag for each in lines.distinct() for tag in each.strip("\n").split("\n")})
