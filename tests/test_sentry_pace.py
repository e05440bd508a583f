"""How many events a failure makes that happens again and again."""

import pytest
from django.db import OperationalError

from aiadmin import logs
from tests.factories import make_salon
from tests.sentry_world import Captured, captured, caught, logger
from tests.test_scrubber import JWT
from whatsapp import alerts
from whatsapp.errors import WhatsAppError
from whatsapp.services import tokens

__all__ = ["captured"]


def test_an_outage_is_one_event_a_minute_which_counts_the_rest(captured: Captured):
    def suffer(times: int) -> None:
        for salon in range(times):
            logger.error(
                "the store failed for %s",
                salon,
                exc_info=caught(OperationalError("server closed the connection")),
                extra=alerts.tags("set_keys", company_id=f"company_{salon}"),
            )

    suffer(1000)
    captured.now = 59.0
    suffer(1)
    (event,) = captured.events
    assert event["tags"]["category"] == "database"
    assert "swallowed" not in event.get("extra", {})
    captured.now = 61.0
    suffer(5)
    assert len(captured.events) == 2
    assert captured.events[1]["extra"]["swallowed"] == 1000


def test_what_is_a_salons_own_is_an_event_for_each(captured: Captured):
    for _ in range(2):
        for salon in range(3):
            extra = alerts.tags("session_unexpected", company_id=f"company_{salon}")
            logger.error("odd", exc_info=caught(KeyError("odd")), extra=extra)
    assert [event["fingerprint"] for event in captured.events] == [
        ["session_unexpected", f"company_{salon}", "KeyError"] for salon in range(3)
    ]


def test_even_of_the_salons_own_there_are_only_so_many(captured: Captured):
    for salon in range(500):
        extra = alerts.tags("session_status_changed", company_id=f"company_{salon}")
        logger.error("replaced", extra=extra)
    assert len(captured.events) == logs.SALONS_PER_PAUSE


def test_other_kinds_of_one_operation_do_not_swallow_each_other(captured: Captured):
    for kind in ("half_paired", "other_phone", "half_paired"):
        extra = alerts.tags(
            "phone_mismatch_cleanup", company_id="company_1", mismatch_type=kind
        )
        logger.warning("x", extra=extra)
    assert len(captured.events) == 2


def test_the_pace_forgets_what_is_over():
    now = 0.0
    pace = logs.Pace(clock=lambda: now)
    assert [pace.admit(str(kind)) for kind in range(logs.KINDS)] == [0] * logs.KINDS
    assert pace.admit("one more") is None
    now = 61.0
    assert pace.admit("one more") == 0


@pytest.mark.django_db
def test_strangers_with_bad_tokens_are_one_event(captured: Captured):
    expired = tokens.issue(make_salon(), lifetime=-1)
    for token in (expired, expired, "x.y.z", JWT):
        with pytest.raises(WhatsAppError):
            tokens.verify(token)
    (event,) = captured.of("tokenValidation")
    assert event["tags"] == {
        "component": "marketplace-websocket",
        "operation": "tokenValidation",
        "category": "security",
        "reason": "expired",
    }
    captured.now = 61.0
    with pytest.raises(WhatsAppError):
        tokens.verify(expired)
    assert len(captured.events) == 1
    captured.now = 601.0
    with pytest.raises(WhatsAppError):
        tokens.verify(expired)
    assert captured.events[1]["extra"]["swallowed"] == 4
