"""The REST interface for programs, under /api/v1/. Who it is for: docs/api.md."""

from typing import Any

from django.urls import URLPattern, URLResolver, re_path
from ninja import NinjaAPI

from whatsapp.api import attempts, credentials, history, problems, sessions
from whatsapp.api.keys import KeyAuth

DESCRIPTION = """
Salons' WhatsApp links, for programs.

`Authorization: Bearer wak_…`: a key of one salon, or a service key for all of them, with
some of the scopes `read`, `link` and `operate`. A salon that a key does not open looks
like one that does not exist.

What goes wrong is `application/problem+json` with a `code` for programs and a `detail`
for people, in Russian or English (`Accept-Language`). After 429, and after 503 if it is
there, `Retry-After` says how many seconds to wait.

A change with an `Idempotency-Key` is done once in 24 hours, however often it is sent.
"""


class _Api(NinjaAPI):
    """Names the media type of problems, which ninja takes for that of everything."""

    def get_openapi_schema(self, **options: Any) -> Any:
        schema = super().get_openapi_schema(**options)
        for path in schema["paths"].values():
            for operation in path.values():
                problems.describe(operation["responses"])
        return schema


api = _Api(
    title="AI Admin: WhatsApp of the salons",
    version="1",
    description=DESCRIPTION,
    auth=KeyAuth(),
    urls_namespace="api-v1",
)
problems.handle(api)
for router in (
    sessions.router,
    attempts.router,
    credentials.router,
    history.router,
):
    api.add_router("", router)


def _urls() -> tuple[list[URLPattern | URLResolver], str, str]:
    patterns, app, namespace = api.urls
    for pattern in patterns:
        if isinstance(pattern, URLPattern) and pattern.callback is not None:
            pattern.callback = problems.answering(pattern.callback)
    # What is under no route is told as every other problem is.
    return [*patterns, re_path(r"", problems.nothing_here)], app, namespace


urls = _urls()
