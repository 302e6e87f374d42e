"""A fresh link for whoever signed out: what `make link` calls while Coppice runs, or has its parts started by hand."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.urls import reverse

from webapp import launch, services
from webapp.management.commands.run import own_name


class Command(BaseCommand):
    help = "Print a one-time link that signs in the owner of this installation."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            address = f"https://{own_name()}" if settings.HTTPS else launch.running_at(settings.DATA_DIR)
        except launch.CannotStart as reason:
            self.stderr.write(f"There is no link to give: {reason}")
            sys.exit(1)
        token = services.sign_in_link_create(user=services.local_owner())
        self.stdout.write(address + reverse("sign_in", args=[token]))
