"""Reports to Sentry what is logged, once, and nothing that is not on a list.

There is one way there: a record of the log (or an exception that nobody caught), made an
event by :func:`_event_of`, judged by :class:`Reporter`, and written anew by `allowlist.py`,
which takes over what is named and drops the rest. None of the SDK's integrations listens
at Django, asyncio or threads: each of them would report what the log has reported.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import sentry_sdk
from django.core.exceptions import ImproperlyConfigured
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import (
    BadDsn,
    capture_internal_exceptions,
    event_from_exception,
)

from aiadmin import allowlist
from aiadmin.logs import Pace
from whatsapp import alerts

FLUSH_SECONDS = 2
"""How long a process that ends may wait for what is still to be sent."""

BREADCRUMBS = 30

LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}

COMPONENTS_BY_PATH = {
    "/marketplace/": "marketplace",
    "/api/": "api",
    "/admin/": "admin",
}

OUTAGES = frozenset(
    {
        *("OperationalError", "InterfaceError", "PoolTimeout", "PoolClosed"),
        *("TimeoutError", "ConnectionError", "ConnectionRefusedError"),
        *("ConnectionResetError", "BrokenPipeError", "LocksLost"),
    }
)
"""Exceptions that come to all salons at once: whose it was first says nothing."""


KIND_TAGS = ("component", "mismatch_type", "session_health", "error")
"""Tags in which events of one place may differ, and are then told each for itself."""


class SentryHandler(logging.Handler):
    """Reports errors, and what else has an ``operation``; keeps the rest in mind."""

    def emit(self, record: logging.LogRecord) -> None:
        """Report the record, or keep it as something that went before."""
        if record.name.startswith(("sentry_sdk", "urllib3")):
            return  # its own troubles must not make new ones
        # Whoever logs must not fail by it; of a bad record the other handler complains.
        with capture_internal_exceptions():
            self._tell(record)

    def _tell(self, record: logging.LogRecord) -> None:
        if _is_reported(record):
            event, hint = _event_of(record)
            sentry_sdk.capture_event(event, hint)
        elif record.levelno >= logging.INFO:
            sentry_sdk.add_breadcrumb(
                category=record.name, level=_level(record), message=record.getMessage()
            )


def _is_reported(record: logging.LogRecord) -> bool:
    if getattr(record, "reported_elsewhere", False):
        return False
    if hasattr(record, "operation"):
        return True
    if record.levelno < logging.ERROR:
        return False
    # Django logs every answer of 500 and more once again, and what strangers do wrong.
    is_fault = getattr(record, "status_code", 500) >= 500
    return is_fault and (record.name != "django.request" or bool(record.exc_info))


def _level(record: logging.LogRecord) -> str:
    return LEVELS.get(record.levelno, "error")


def _event_of(record: logging.LogRecord) -> tuple[Any, dict[str, Any]]:
    """Return the event of a record, with what else judging it takes."""
    hint: dict[str, Any] = {}
    event: Any = {}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        event, hint = event_from_exception(
            (type(error), error, error.__traceback__),
            client_options=sentry_sdk.get_client().options,
            mechanism={"type": "logging", "handled": True},
        )
    tags = {name: getattr(record, name, None) for name in alerts.TAGS}
    tags["component"] = tags["component"] or _component(record)
    if not tags["category"] and error is not None and _is_of_database(error):
        tags["category"] = "database"
    event |= {
        "level": _level(record),
        "logger": record.name,
        "logentry": {"message": record.getMessage()},
        "tags": {name: str(value) for name, value in tags.items() if value},
        "extra": {
            name: str(getattr(record, name))
            for name in allowlist.EXTRAS
            if hasattr(record, name)
        },
    }
    event |= _request_of(record)
    hint["site"] = tags["operation"] or f"{record.pathname}:{record.lineno}"
    return event, hint


def _component(record: logging.LogRecord) -> str | None:
    path = str(getattr(getattr(record, "request", None), "path", ""))
    for prefix, component in COMPONENTS_BY_PATH.items():
        if path.startswith(prefix):
            return component
    return alerts.component_of(record.name)


def _request_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the request that a record of Django's is about, and who sent it."""
    request: Any = getattr(record, "request", None)
    if not hasattr(request, "path") or not hasattr(request, "headers"):
        return {}
    about: dict[str, Any] = {
        "request": {
            "url": request.path,
            "method": request.method,
            "headers": dict(request.headers),
        }
    }
    # Only if it is known already: asking costs a query, and that may be what fails.
    user = getattr(request, "_cached_user", None)
    if user is not None and user.pk is not None:
        about["user"] = {"id": str(user.pk)}
    return about


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from, and what it is a group of."""
    yield error
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _chain(one)


def _is_outage(error: BaseException) -> bool:
    return any(type(one).__name__ in OUTAGES for one in _chain(error))


def _is_of_database(error: BaseException) -> bool:
    return any(
        type(one).__module__.startswith(("psycopg", "django.db"))
        for one in _chain(error)
    )


def _was_reported(error: BaseException) -> bool:
    """Say whether it, or all that it consists of, was reported before."""
    if getattr(error, "_is_reported", False):
        return True
    if error.__cause__ is not None and _was_reported(error.__cause__):
        return True
    return isinstance(error, BaseExceptionGroup) and all(
        _was_reported(one) for one in error.exceptions
    )


def _note_as_reported(error: BaseException) -> None:
    for one in _chain(error):
        with contextlib.suppress(AttributeError):  # one with slots
            one._is_reported = True  # type: ignore[attr-defined]


class Reporter:
    """Decides what becomes of an event, just before it leaves."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def before_send(self, event: Event, hint: Hint) -> Event | None:
        """Return what may leave of an event; None: nothing, it was told already."""
        source: dict[str, Any] = dict(event)
        (hint.get("attachments") or []).clear()
        error = (hint.get("exc_info") or (None, None, None))[1]
        if error is not None:
            if _was_reported(error):
                return None
            _note_as_reported(error)
        tags = source.get("tags")
        tags = tags if isinstance(tags, dict) else {}
        salon = str(tags.get("company_id") or "")
        if error is not None and _is_outage(error):
            salon = ""
        kind = " ".join(
            [
                *(str(hint.get("site")), type(error).__name__),
                *(str(tags.get(name)) for name in KIND_TAGS),
            ]
        )
        swallowed = self._pace.admit(kind, salon, str(tags.get("operation")))
        if swallowed is None:
            return None
        sent: Any = allowlist.event(source)
        if swallowed:
            sent.setdefault("extra", {})["swallowed"] = swallowed
        sent |= _fingerprint(sent.get("tags", {}), salon, error)
        result: Event = sent
        return result


def _fingerprint(
    tags: dict[str, str], salon: str, error: BaseException | None
) -> dict[str, list[str]]:
    """Return by what events are one issue; without it, Sentry decides."""
    operation, salon_tag = tags.get("operation"), tags.get("company_id")
    if operation == "phone_mismatch_cleanup" and salon_tag:
        return {"fingerprint": ["phone_mismatch", salon_tag]}
    if operation and salon and salon_tag:
        kind = [type(error).__name__] if error is not None else []
        return {"fingerprint": [operation, salon_tag, *kind]}
    return {}


def _capture(error: BaseException, mechanism: str) -> None:
    """Report an exception that nobody caught, and that ends a process or a thread."""
    event: Any
    event, hint = event_from_exception(
        (type(error), error, error.__traceback__),
        client_options=sentry_sdk.get_client().options,
        mechanism={"type": mechanism, "handled": False},
    )
    tags = {"component": "command"}
    if _is_of_database(error):
        tags["category"] = "database"
    event |= {"level": "fatal", "tags": tags}
    hint["site"] = mechanism
    sentry_sdk.capture_event(event, hint)


def watch_the_uncaught() -> None:
    """Report what ends the process or one of its threads, before Python prints it."""
    of_process, of_thread = sys.excepthook, threading.excepthook

    def ends_process(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, Exception):
            _capture(error, "excepthook")
        of_process(kind, error, trace)

    def ends_thread(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, Exception):
            _capture(args.exc_value, "threading")
        of_thread(args)

    sys.excepthook, threading.excepthook = ends_process, ends_thread


def _say_nothing(_pending: int, _seconds: int) -> None:
    """Wait at the end without a word; the SDK would explain Ctrl-C."""


def init(
    dsn: str,
    *,
    environment: str,
    release: str,
    pace: Pace | None = None,
    **options: Any,
) -> None:
    """Report to ``dsn``; what is not sent within two seconds of the end is not sent.

    Raises:
        ImproperlyConfigured: that is no DSN.
    """
    try:
        sentry_sdk.init(
            dsn=dsn,
            environment=environment,
            release=release,
            before_send=Reporter(pace or Pace()).before_send,
            before_send_transaction=lambda _event, _hint: None,
            before_breadcrumb=lambda crumb, _hint: allowlist.breadcrumb(crumb),
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[AtexitIntegration(callback=_say_nothing)],
            auto_session_tracking=False,
            # What was not sent is told by the next event of its kind.
            send_client_reports=False,
            enable_logs=False,
            traces_sample_rate=None,
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            max_breadcrumbs=BREADCRUMBS,
            shutdown_timeout=FLUSH_SECONDS,
            **options,
        )
    except BadDsn:
        # Without its text: it may hold a secret of an older kind.
        raise ImproperlyConfigured(
            "SENTRY_DSN must be an address of Sentry, like https://<key>@<host>/<number>."
        ) from None
