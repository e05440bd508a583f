"""Where the WebSockets live."""

from django.urls import URLPattern

websocket_urlpatterns: list[URLPattern] = []
