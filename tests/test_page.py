"""What a page is told of a new state, by what it was told before."""

import pytest
from django.utils import translation

from whatsapp.events import AttemptState, Snapshot
from whatsapp.page import PageView


@pytest.fixture(autouse=True)
def _english():
    with translation.override("en"):
        yield


def _attempt(**changes) -> AttemptState:
    attempt: AttemptState = {
        "id": 1,
        "kind": "code",
        "stage": "requested",
        "phone": "79001234567",
        "finished": False,
        "finished_ago": None,
        "expires_in": 20.0,
        "code": "",
        "qr": "",
        "qr_expires_in": None,
        "error": "",
        "retry_after": None,
    }
    attempt.update(changes)  # type: ignore[typeddict-item]
    return attempt


def _state(revision=1, status="unlinked", attempt=None, **changes) -> Snapshot:
    state: Snapshot = {
        "salon": 1,
        "session_id": "company_7",
        "revision": revision,
        "status": status,
        "reason": "",
        "phone": "",
        "since": "2026-01-01T00:00:00+00:00",
        "resets": 0,
        "attempt": attempt,
    }
    state.update(changes)  # type: ignore[typeddict-item]
    return state


def _names(told):
    return [name for name, _data in told]


def _view(state):
    view = PageView()
    view.welcome(state)
    return view


def test_status_comes_first_and_alone():
    view = PageView()
    assert view.revision == -1
    assert _names(view.welcome(_state(5))) == ["status"]
    assert view.revision == 5


def test_what_is_not_newer_is_not_told():
    view = _view(_state(5))
    assert view.tell(_state(5, "open")) == []
    assert view.tell(_state(4, "open")) == []
    assert view.revision == 5


def test_what_comes_before_the_welcome_waits_for_it():
    view = PageView()
    assert view.tell(_state(7, "open", phone="79001234567")) == []
    assert view.tell(_state(6, "connecting")) == []
    told = view.welcome(_state(5))
    assert _names(told) == ["status", "status", "whatsapp-connected"]
    assert view.revision == 7


def test_what_came_before_a_newer_welcome_is_history():
    view = PageView()
    view.tell(_state(4, "open"))
    assert _names(view.welcome(_state(5))) == ["status"]


def test_a_change_that_nobody_sees_is_not_told():
    assert _view(_state(5)).tell(_state(6)) == []


def test_a_qr_follows_another_without_a_status():
    shown = {"kind": "qr", "phone": "", "stage": "shown", "qr_expires_in": 20.0}
    view = _view(_state(1, "pairing", _attempt(**shown, qr="2@one")))
    told = view.tell(_state(2, "pairing", _attempt(**shown, qr="2@two")))
    assert _names(told) == ["qr-update"]


def test_a_qr_that_is_over_is_not_shown():
    shown = {"kind": "qr", "stage": "shown", "qr": "2@one", "qr_expires_in": -1.0}
    told = PageView().welcome(_state(1, "pairing", _attempt(**shown)))
    assert _names(told) == ["status"]


def test_a_page_that_missed_the_request_sees_the_code_all_the_same():
    shown = _attempt(stage="shown", code="ABCD-1234", expires_in=160.0)
    told = _view(_state(1)).tell(_state(3, "pairing", shown))
    assert _names(told) == ["status", "pairing-code"]


@pytest.mark.parametrize(
    ("kind", "stage", "name"),
    [
        ("code", "failed", "pairing-code-error"),
        ("code", "expired", "pairing-code-error"),
        ("qr", "failed", "error"),
        ("qr", "expired", "error"),
        ("code", "superseded", None),
        ("qr", "cancelled", None),
    ],
)
def test_an_end_is_told_once_and_only_if_it_is_one_for_people(kind, stage, name):
    running = _attempt(kind=kind)
    ended = _attempt(
        kind=kind,
        stage=stage,
        finished=True,
        finished_ago=0.1,
        error="CODE_EXPIRED" if name else "",
        retry_after=30,
    )
    view = _view(_state(1, "pairing", running))
    told = view.tell(_state(2, "unlinked", ended))
    assert _names(told) == ["status", *([name] if name else [])]
    if name:
        assert told[1][1]["code"] == "CODE_EXPIRED"
        assert told[1][1]["retryAfter"] == 30
    assert _names(view.tell(_state(3, "stopped", ended))) == ["status"]


def test_an_attempt_that_began_and_failed_unseen_is_told():
    ended = _attempt(
        id=2, stage="failed", finished=True, finished_ago=0.1, error="PAIRING_TIMEOUT"
    )
    view = _view(_state(1, "pairing", _attempt(id=1)))
    assert _names(view.tell(_state(4, "unlinked", ended))) == [
        "status",
        "pairing-code-error",
    ]


def test_another_link_of_an_open_session_is_told():
    first = _attempt(id=1, stage="linked", finished=True, finished_ago=100.0)
    second = _attempt(id=2, stage="linked", finished=True, finished_ago=0.1)
    view = _view(_state(1, "open", first, phone="79001234567"))
    told = view.tell(_state(9, "open", second, phone="79007654321"))
    assert _names(told) == ["status", "whatsapp-connected"]
    assert told[1][1]["phone"] == "79***4321"


def test_a_reset_is_told_even_if_the_status_stays():
    view = _view(_state(1))
    told = view.tell(_state(2, resets=1))
    assert _names(told) == ["status", "credentials-reset"]


def test_an_unlinked_session_says_why():
    failed = _attempt(stage="failed", finished=True, error="PHONE_NOT_ON_WHATSAPP")
    ((_name, data),) = _view(_state(1)).tell(
        _state(2, reason="PHONE_NOT_ON_WHATSAPP", attempt=None)
    )
    assert data["message"] == "This number has no WhatsApp account. Check the number."
    assert data["action"] == "request-pairing-code"
    told = PageView().welcome(_state(1, attempt={**failed, "finished_ago": 61.0}))
    assert told[0][1]["reason"] == "PHONE_NOT_ON_WHATSAPP"
    assert len(told) == 1
