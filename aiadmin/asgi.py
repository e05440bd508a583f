"""HTTP to Django, WebSockets to Channels, both with the client's own address.

Origins and tokens of a WebSocket are judged by its consumer, which can say why
before it closes.
"""

import os
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiadmin.settings")
django_application = get_asgi_application()

# Models can be imported only now.
from aiadmin.proxies import ClientAddress  # noqa: E402
from whatsapp.routing import websocket_urlpatterns  # noqa: E402


async def no_such_socket(_scope: Any, receive: Any, send: Any) -> None:
    """Refuse a WebSocket at an unknown path; Channels would log an error.

    It is accepted first: only then does a client hear the code.
    """
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4404})


# Django's types know views only.
refusal: Any = no_such_socket
sockets: list[Any] = [*websocket_urlpatterns, re_path(r"", refusal)]
application = ClientAddress(
    ProtocolTypeRouter(
        {
            "http": django_application,
            "websocket": AuthMiddlewareStack(URLRouter(sockets)),
        }
    )
)
