"""Lists as CSV files: as long as they are, without secrets, harmless in a spreadsheet."""

import csv
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db.models import QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.utils.functional import Promise
from django.utils.translation import get_language, gettext_lazy, override

from whatsapp.admin import cells
from whatsapp.admin.base import OwnRowsAdmin
from whatsapp.models import AuditEvent, Salon
from whatsapp.phones import mask_phone
from whatsapp.services import words

_ = gettext_lazy

ROWS_AT_ONCE = 500
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a file is made of."""

    heads: list[Promise | str]
    row: Callable[[Any], list[object]]


def _salon(salon: Salon) -> list[object]:
    session = cells.session_of(salon)
    return [
        salon.salon_id,
        salon.title,
        session.status,
        words.status(session.status),
        words.reason(session.reason),
        mask_phone(session.phone),
        session.since,
        session.last_alive_at,
        session.owner,
    ]


SALONS = Columns(
    [
        _("salon id"),
        _("title"),
        _("status code"),
        _("status"),
        _("reason"),
        _("phone"),
        _("since"),
        _("last proof of life"),
        _("gateway"),
    ],
    _salon,
)


def _event(event: AuditEvent) -> list[object]:
    return [
        event.at,
        event.salon.salon_id if event.salon else "",
        event.salon.title if event.salon else "",
        words.actor(event.actor),
        event.action,
        words.action(event.action),
        words.detail(event.detail),
    ]


AUDIT = Columns(
    [
        _("when"),
        _("salon id"),
        _("title"),
        _("who"),
        _("action"),
        _("what"),
        _("details"),
    ],
    _event,
)


def answer(
    admin: OwnRowsAdmin, request: HttpRequest, name: str, columns: Columns
) -> HttpResponseBase:
    """Answer with the rows that the list of ``admin`` shows for the same parameters.

    Args:
        admin: its own query says whose rows these are.
        request: of the export.
        name: of the file, without its ending.
        columns: what of a row is written.
    """
    if request.method != "GET":
        return HttpResponse(status=405, headers={"Allow": "GET"})
    if not admin.has_view_permission(request):
        raise PermissionDenied
    try:
        rows = admin.get_changelist_instance(request).get_queryset(request)
    except IncorrectLookupParameters:
        return HttpResponseRedirect("../")
    lines = _lines(rows, columns, get_language() or "ru")
    # Under ASGI an ordinary iterator would be read to its end before the first byte.
    content = _awaited(lines) if isinstance(request, ASGIRequest) else lines
    return StreamingHttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}.csv"',
            "Cache-Control": "no-store",
        },
    )


async def _awaited(lines: Iterator[str]) -> AsyncIterator[str]:
    following = sync_to_async(lambda: next(lines, None))
    while (text := await following()) is not None:
        yield text


def _lines(rows: QuerySet[Any], columns: Columns, language: str) -> Iterator[str]:
    """Give the file in pieces, each from one short query."""
    with override(language):
        # A spreadsheet takes a file without this mark for one of the last century.
        yield "\ufeff" + _written([[str(head) for head in columns.heads]])
    rows = rows.order_by("-pk")
    last: int | None = None
    while True:
        piece = list(
            (rows if last is None else rows.filter(pk__lt=last))[:ROWS_AT_ONCE]
        )
        if not piece:
            return
        last = piece[-1].pk
        with override(language):
            text = _written([columns.row(row) for row in piece])
        yield text


def _written(rows: list[list[object]]) -> str:
    file = StringIO()
    csv.writer(file).writerows([[cell(value) for value in row] for row in rows])
    return file.getvalue()


def cell(value: object) -> str:
    """Return a value as it may stand in a file that a spreadsheet opens."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return cells.iso(value)
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
