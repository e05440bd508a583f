"""The marketplace page. It carries no data: everything comes over its WebSocket."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import translation
from django.views.decorators.http import require_safe


@require_safe
def connect(request: HttpRequest) -> HttpResponse:
    """Show the page on which a salon links its WhatsApp.

    The token is in the URL's fragment, which browsers keep to themselves.
    """
    # Not the browser's language: many salons have an English one and speak Russian.
    wish = request.GET.get("lang", "")
    language = wish if wish in dict(settings.LANGUAGES) else settings.LANGUAGE_CODE
    with translation.override(language):
        response = render(request, "whatsapp/marketplace.html")
    response.headers["Content-Language"] = language
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response
