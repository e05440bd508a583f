"""Reports errors to Sentry, without what could open a salon's WhatsApp."""

import logging
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.logging import EventHandler
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


class OperationHandler(EventHandler):
    """Reports what is no error but what operators shall know of.

    Such a record has an ``operation``; errors are reported without our help.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Report the record, if it is one."""
        if hasattr(record, "operation") and record.levelno < logging.ERROR:
            super().emit(record)


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
