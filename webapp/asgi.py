"""The web server's way in: pages over HTTP, live searches over sockets."""

from __future__ import annotations

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
pages = get_asgi_application()
os.environ["COPPICE_CACHE"] = str(settings.ENGINE_CACHE)  # what is known of models lies where engines look for it

from webapp.consumers import SearchConsumer, SharedConsumer  # noqa: E402 -- models exist only after the line above

sockets = URLRouter(
    [
        path("ws/searches/<uuid:pk>/", SearchConsumer.as_asgi()),  # type: ignore[arg-type, list-item]
        path("ws/shared/<str:token>/", SharedConsumer.as_asgi()),  # type: ignore[arg-type, list-item]
    ]
)
application = ProtocolTypeRouter(
    {"http": pages, "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(sockets))}
)
