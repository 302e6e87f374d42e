"""The operator's view: look, do not touch. States are moved by the services alone."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from webapp.models import Dataset, Search, Survey, Weights


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Search)
class SearchAdmin(ReadOnly):
    list_display = ("name", "owner", "state", "attempt", "losses", "host", "heartbeat_at", "created_at")
    list_filter = ("state",)


@admin.register(Dataset)
class DatasetAdmin(ReadOnly):
    list_display = ("name", "owner", "state", "bytes", "heartbeat_at", "created_at")
    list_filter = ("state",)


@admin.register(Weights)
class WeightsAdmin(ReadOnly):
    list_display = ("name", "owner", "tensors", "parameters", "bytes", "created_at")


@admin.register(Survey)
class SurveyAdmin(ReadOnly):
    list_display = ("model", "library", "image_size", "channels", "classes", "state", "losses", "heartbeat_at")
    list_filter = ("state",)
    exclude = ("found",)
