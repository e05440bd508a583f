"""Where the WebSockets live."""

from django.urls import URLPattern, path

from whatsapp.consumers import MarketplaceConsumer

websocket_urlpatterns: list[URLPattern] = [
    path("ws/marketplace/", MarketplaceConsumer.as_asgi()),  # type: ignore[arg-type]
]
