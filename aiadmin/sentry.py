"""Reports errors to Sentry, without what could open a salon's WhatsApp."""

from typing import Any

import sentry_sdk
from sentry_sdk.types import Event, Hint

from aiadmin.scrubber import scrub

# What we and the libraries write; the rest (times, ids, versions) is Sentry's own.
TEXTS = (
    *("message", "logentry", "exception", "threads", "extra", "contexts"),
    *("tags", "user", "request", "transaction", "breadcrumbs"),
)


def before_send(event: Event, _hint: Hint) -> Event:
    """Scrub an event before it leaves."""
    scrubbed: Any = dict(event)
    for name in TEXTS:
        if name in scrubbed:
            scrubbed[name] = scrub(scrubbed[name])
    for name in ("data", "cookies", "env"):
        scrubbed.get("request", {}).pop(name, None)
    result: Event = scrubbed
    return result


def before_breadcrumb(crumb: dict[str, Any], _hint: Hint) -> dict[str, Any]:
    """Scrub a breadcrumb before it is kept."""
    return {
        name: value if name == "timestamp" else scrub(value)
        for name, value in crumb.items()
    }


def init(dsn: str, **options: Any) -> None:
    """Report errors to ``dsn``, and nothing that could open a salon's WhatsApp."""
    sentry_sdk.init(
        dsn=dsn,
        before_send=before_send,
        before_breadcrumb=before_breadcrumb,
        include_local_variables=False,
        max_request_body_size="never",
        **options,
    )
