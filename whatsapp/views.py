"""The marketplace page. It carries no data: everything comes over its WebSocket."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.translation.trans_real import parse_accept_lang_header
from django.views.decorators.cache import cache_control
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_safe

from whatsapp import phones

LINK = {
    "link_socket": "/ws/marketplace/",
    "link_auth": "token",
    "link_may": "link disconnect reset",
    "link_embedded": "page",
}
"""How the linking component (templates/whatsapp/link.html) behaves on this page."""


@require_safe
def connect(request: HttpRequest) -> HttpResponse:
    """Show the page on which a salon links its WhatsApp.

    The token is in the URL's fragment, which browsers keep to themselves; what it says
    about the language is for the page's script.
    """
    language = _language(request)
    with translation.override(language):
        response = render(request, "whatsapp/marketplace.html", LINK)
    patch_vary_headers(response, ["Accept-Language"])
    response.headers["Content-Language"] = language
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response


def _language(request: HttpRequest) -> str:
    accepted = parse_accept_lang_header(request.headers.get("Accept-Language", ""))
    wishes = [request.GET.get("lang", ""), *(tag[:2] for tag, _weight in accepted)]
    ours = dict(settings.LANGUAGES)
    return next((wish for wish in wishes if wish in ours), settings.LANGUAGE_CODE)


@require_safe
@cache_control(public=True, max_age=86400)
@gzip_page
def regions(_request: HttpRequest) -> HttpResponse:
    """Tell the page's phone field how the world's numbers look."""
    home = settings.WHATSAPP_DEFAULT_REGION
    return JsonResponse(
        {
            "home": home,
            "regions": phones.numbering_plan(),
            "abroad": phones.dialling_abroad(home),
            "stateless": phones.stateless_codes(),
        },
        json_dumps_params={"separators": (",", ":")},
    )
