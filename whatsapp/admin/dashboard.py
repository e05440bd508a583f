"""The first page: how the service is, for support; how one's salons are, for their staff."""

import json
from collections import Counter
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import formats
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from whatsapp import statuses
from whatsapp.admin import cells
from whatsapp.admin_site import is_support
from whatsapp.models import Salon
from whatsapp.phones import mask_phone
from whatsapp.services import reports, words
from whatsapp.services.reports import GatewayReport, Overview, Trouble

SHOWN_SALONS = 100

_OUTCOMES: dict[str, tuple[Promise, str]] = {
    "linked": (_("linked"), "#059669"),
    "failed": (_("failed"), "#dc2626"),
    "expired": (_("expired"), "#d97706"),
    "cancelled": (_("cancelled"), "#94a3b8"),
    "open": (_("still open"), "#2563eb"),
}
"""In the order of reports.OUTCOMES; the colours can be told apart on both backgrounds."""


def context(request: HttpRequest, page: dict[str, Any]) -> dict[str, Any]:
    """Return what the first page shows to whoever asks."""
    page |= {"title": _("Overview"), "status_socket": cells.SOCKET}
    if is_support(request):
        page |= _support(reports.overview())
    else:
        salons = Salon.objects.for_user(request.user).select_related("session")
        page["salons"] = [
            {
                "salon": salon,
                "status": cells.status(salon),
                "phone": cells.phone(salon),
                "since": cells.since(salon),
                "alive": cells.alive(salon),
            }
            for salon in salons.order_by("title", "pk")[:SHOWN_SALONS]
        ]
    return page


def _support(overview: Overview) -> dict[str, Any]:
    return {
        "overview": overview,
        "total": sum(overview.states.values()),
        "states": [
            {
                "status": status,
                "title": words.status(status),
                "count": count,
                "address": _list(status=status),
            }
            for status, count in overview.states.items()
        ],
        "troubles": [_trouble(trouble) for trouble in overview.troubles],
        "hours": _chart(overview.hours, "H:i"),
        "days": _chart(overview.days, "d.m."),
        "median": None
        if overview.median_seconds is None
        else words.duration(overview.median_seconds),
        "gateways": [_gateway(gateway) for gateway in overview.gateways],
    }


def _list(**parameters: str) -> str:
    return reverse("admin:whatsapp_salon_changelist", query=parameters)


def _trouble(trouble: Trouble) -> dict[str, Any]:
    if trouble.kind == "slow":
        why = str(_("has been trying for long"))
    elif trouble.kind == "silent":
        why = str(_("says connected, but there is no fresh proof of life"))
    else:
        why = _sentence(trouble.status)
    return {
        "trouble": trouble,
        "title": words.status(trouble.status),
        "why": why,
        "reason": words.reason(trouble.reason),
        "since": cells.time(trouble.since),
        "alive": cells.time(trouble.last_alive_at),
        "address": reverse("admin:whatsapp_salon_change", args=[trouble.salon_pk]),
    }


def _sentence(status: str) -> str:
    """Return what the salon itself is told of a status."""
    told = statuses.payload(
        {
            "salon": 0,
            "session_id": "",
            "revision": 0,
            "status": status,
            "reason": "",
            "phone": mask_phone(""),
            "since": "",
            "resets": 0,
            "attempt": None,
        }
    )
    return str(told["message"])


def _chart(buckets: list[tuple[datetime, Counter[str]]], form: str) -> dict[str, Any]:
    """Return a stacked bar chart for unfold's Chart.js, and the same as a table."""
    labels = [formats.date_format(moment, form) for moment, _counts in buckets]
    data = {
        "labels": labels,
        "datasets": [
            {
                "label": str(title),
                "data": [counts[name] for _moment, counts in buckets],
                "backgroundColor": colour,
                "stack": "attempts",
                "maxBarThickness": 28,
            }
            for name, (title, colour) in _OUTCOMES.items()
        ],
    }
    total = Counter[str]()
    for _moment, counts in buckets:
        total += counts
    return {
        "data": json.dumps(data, ensure_ascii=False),
        "options": json.dumps(_OPTIONS),
        "heads": [str(title) for title, _colour in _OUTCOMES.values()],
        "rows": [
            {"label": label, "counts": [counts[name] for name in _OUTCOMES]}
            for label, (_moment, counts) in zip(labels, buckets, strict=True)
            if counts
        ],
        "total": [total[name] for name in _OUTCOMES],
        "count": sum(total.values()),
    }


_OPTIONS: dict[str, Any] = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "interaction": {"mode": "index", "intersect": False},
    "plugins": {
        "legend": {
            "display": True,
            "position": "bottom",
            "labels": {"boxWidth": 10, "boxHeight": 10, "color": "#8b94a3"},
        }
    },
    "scales": {
        "x": {
            "stacked": True,
            "grid": {"display": False},
            "ticks": {"color": "#8b94a3", "maxRotation": 0},
        },
        "y": {
            "stacked": True,
            "beginAtZero": True,
            "grid": {},
            "ticks": {"color": "#8b94a3", "precision": 0},
        },
    },
}


def _gateway(gateway: GatewayReport) -> dict[str, Any]:
    return {
        "gateway": gateway,
        "total": gateway.states.total(),
        "states": [
            {"status": status, "title": words.status(status), "count": count}
            for status, count in gateway.states.most_common()
        ],
        "oldest": cells.time(gateway.oldest_alive),
        "address": _list(owner=gateway.name),
    }
