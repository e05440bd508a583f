import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from aiadmin import sentry
from tests.test_scrubber import JWT, KEY, QR

# Up here because an event shows the source around the line that failed.
SECRETS = ["79001234567", "ABCD-1234", KEY, JWT, QR]
PASSWORD = "hunter2"
PIECES = [*SECRETS, PASSWORD, "c2lnbmF0dXJl", "AbCdEfGh"]


class Captured(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.texts.append(envelope.serialize().decode())


@pytest.fixture
def captured() -> Iterator[Captured]:
    transport = Captured()
    with sentry_sdk.isolation_scope():
        sentry.init("https://public@sentry.invalid/1", transport=transport)
        yield transport
        sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def fail(creds: dict[str, Any]) -> None:
    code, key = SECRETS[1], KEY
    raise ValueError(f"{creds} {code} {key}")


def test_an_event_holds_no_phone_no_creds_no_code_and_no_token(captured: Captured):
    logger = logging.getLogger("whatsapp.test")
    logger.warning("breadcrumb: %s", SECRETS)
    sentry_sdk.add_breadcrumb(
        message=f"code {SECRETS[1]}", data={"token": JWT, "qr": QR}
    )
    sentry_sdk.set_tag("phone", SECRETS[0])
    sentry_sdk.set_user({"id": SECRETS[0]})
    sentry_sdk.set_context("pairing", {"creds": {"noiseKey": KEY}, "text": QR})
    try:
        fail({"me": f"{SECRETS[0]}:1@s.whatsapp.net", "noiseKey": KEY})
    except ValueError:
        logger.exception(
            "phone %s", SECRETS[0], extra={"password": PASSWORD, "note": QR}
        )
    sentry_sdk.flush()

    (text,) = captured.texts
    assert "whatsapp.test" in text
    assert "ValueError" in text
    assert "***4567" in text
    for secret in PIECES:
        assert secret not in text


def test_a_request_is_reported_without_its_body_and_headers_that_open_doors():
    event: Any = {
        "request": {
            "url": "http://x/api/79001234567",
            "headers": {"Authorization": f"Bearer {JWT}", "Accept": "*/*"},
            "data": {"phoneNumber": "79001234567"},
            "cookies": {"sessionid": "x"},
            "query_string": f"token={JWT}",
        },
        "event_id": "1234567890123456",
    }
    sent = sentry.before_send(event, {})
    assert sent["request"] == {
        "url": "http://x/api/***4567",
        "headers": {"Authorization": "[removed]", "Accept": "*/*"},
        "query_string": "token=[token]",
    }
    assert sent["event_id"] == "1234567890123456"
