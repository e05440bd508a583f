"""What a browser may load on our pages, who may frame them; static files."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware

from whatsapp import origins

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
}
# The admin's widgets (Alpine.js in django-unfold) are expressions in attributes, and
# set styles by them. Inline scripts stay forbidden.
ADMIN_POLICY = {
    **POLICY,
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
}
EMBEDDABLE = "/marketplace/"
POLICIES = {
    "/admin/": ADMIN_POLICY,
    # Swagger UI sets styles by attributes.
    "/api/v1/docs": {**POLICY, "style-src": "'self' 'unsafe-inline'"},
}


class ContentSecurityPolicyMiddleware:
    """Adds the policy; the salon's page may be framed by the marketplace only."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Keep the rest of the chain."""
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, with the policy."""
        response = self.get_response(request)
        frames = "'none'"
        if request.path.startswith(EMBEDDABLE):
            frames = " ".join(["'self'", *_embedders(request)])
            # Says less than frame-ancestors and would forbid all of it.
            response.headers.pop("X-Frame-Options", None)
            response.headers["Vary"] = _with_referer(response.headers.get("Vary"))
        policy = next(
            (POLICIES[part] for part in POLICIES if request.path.startswith(part)),
            POLICY,
        )
        policy = {**policy, "connect-src": _sockets(request), "frame-ancestors": frames}
        response.headers.setdefault(
            "Content-Security-Policy",
            "; ".join(f"{name} {value}" for name, value in policy.items()),
        )
        return response


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # untyped
    """WhiteNoise for ASGI, where Django reads a file whole and warns about it."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        """Answer with the whole file at once: ours are small."""
        with closing(WhiteNoiseMiddleware.serve(static_file, request)) as response:
            return HttpResponse(
                b"".join(response),
                status=response.status_code,
                headers=response.headers,
            )


def _sockets(request: HttpRequest) -> str:
    # 'self' does not cover ws: in every browser that salons use.
    scheme = "wss" if request.is_secure() else "ws"
    return f"'self' {scheme}://{request.get_host()}"


def _embedders(request: HttpRequest) -> list[str]:
    """The origins that may frame this answer.

    A pattern such as https://n*.example.com cannot be said in a policy: there, the
    frame's own page is judged, which a browser names as the referrer.
    """
    allowed = settings.MARKETPLACE_ALLOWED_ORIGINS
    embedders = [origin for origin in allowed if "*" not in origin]
    referrer = origins.of_url(request.headers.get("Referer", ""))
    if referrer and origins.matches(referrer, allowed) and referrer not in embedders:
        embedders.append(referrer)
    return embedders


def _with_referer(vary: str | None) -> str:
    return f"{vary}, Referer" if vary else "Referer"
