"""Where the WebSockets live."""

from django.urls import URLPattern, path

from whatsapp.consumers import (
    MarketplaceConsumer,
    SalonConsumer,
    SessionStatusConsumer,
)

websocket_urlpatterns: list[URLPattern] = [
    path("ws/marketplace/", MarketplaceConsumer.as_asgi()),  # type: ignore[arg-type]
    path("ws/admin/salon/<int:pk>/", SalonConsumer.as_asgi()),  # type: ignore[arg-type]
    path("ws/admin/status/", SessionStatusConsumer.as_asgi()),  # type: ignore[arg-type]
]
