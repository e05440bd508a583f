import logging

import pytest

from aiadmin.scrubber import ScrubbingFormatter, scrub, scrub_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzYWxvbl9pZCI6MX0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
KEY = "mIc0Zq8H2u1n6V5tYb3R7wXkDs9fGa4LpQeJ/oTiUxE="
QR = f"2@AbCdEfGh1234567890,{KEY},{KEY},{KEY}"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("call 79001234567 now", "79001234567"),
        ("call +79001234567 now", "79001234567"),
        ("call +7 (900) 123-45-67 now", "123-45"),
        ("call 8 900 123-45-67 now", "123-45"),
        ("call 8 (900) 123 45 67 now", "123 45"),
        ("call +55 11 91234-5678", "91234"),
        ("jid 79001234567:5@s.whatsapp.net", "79001234567"),
        ("company_79001234567", "79001234567"),
        ("lid 123456789012345@lid", "123456789012345"),
        (f"token {JWT}", "c2lnbmF0dXJl"),
        (f"Sec-WebSocket-Protocol: aiadmin.v1, bearer.{JWT}", "c2lnbmF0"),
        ("Authorization: Bearer abcdef", "abcdef"),
        ("'Authorization': 'Basic YTpi'", "YTpi"),
        ("the code is ABCD-1234.", "ABCD-1234"),
        ("the code is AB12CD34", "AB12CD34"),
        (f"scan {QR}", "AbCdEfGh"),
        (f"scan {QR}", KEY),
        (f'{{"noiseKey": "{KEY}"}}', KEY),
        ('{"type": "Buffer", "data": "c2hvcnQ="}', "c2hvcnQ"),
        (r"{\"type\":\"Buffer\",\"data\":[1,2,3]}", "1,2,3"),
        ('{"type": "Buffer", "data": [1, 2, 3', "1, 2, 3"),
        ("[" + ", ".join(map(str, range(60, 92))) + "]", "77, 78"),
        ('{"0":51,"1":52,"2":53}', "52"),
        ("<Buffer 05 1f a2 b3>", "1f a2"),
        ("key mIc/Zq8H/2u1n/V5tYb/R7wXkDs9/fGa4LpQeJoTiUxE=", "R7wXkDs9"),
        ("key " + "0f1e2d3c4b5a6978" * 4, "0f1e2d3c"),
        ("postgresql://user:hunter2@db/x", "hunter2"),
    ],
)
def test_secrets_leave_no_trace_in_a_text(text: str, secret: str):
    assert secret in text
    assert secret not in scrub_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "Salon 12345 is open since 2026-11-22 16:44:27,016",
        "PAIRING_TIMEOUT after 20 s, 17 of 20 tries",
        "/srv/aiadmin/.venv/lib/python3.11/site-packages/django/core/handlers/exception.py",
        "/srv/Projects2/aiadmin/whatsapp/services/credentials",
        "test_a_second_request_is_refused_while_the_first_one_is_waiting",
        "0.12345678901234 s",
        "Reconnecting company_1 after 515 (restartRequired)",
        "session 4f9c2b1e-7d3a-4c55-9a1b-0c2d3e4f5a6b",
        "https://salons.example/marketplace/connect",
    ],
)
def test_what_helps_to_find_a_fault_stays(text: str):
    assert scrub_text(text) == text


def test_a_masked_phone_can_still_be_told_from_another():
    assert scrub_text("79001234567 is not 79007654321") == "***4567 is not ***4321"


def test_values_with_secret_names_go_whatever_they_look_like():
    data = {
        "creds": {"me": {"id": "79001234567:1@s.whatsapp.net"}},
        "password": "x",
        "headers": {"Cookie": "sessionid=1", "Accept": "*/*"},
        "pairing_code": "x",
        "code": "ABCDEFGH",
        "salon": 7,
        "phones": ["79001234567", 79001234567],
        "blob": b"\x05abc",
        "key_type": "pre-key",
        "keys": {"1": "x"},
        "qr": "x",
        "nothing": None,
    }
    assert scrub(data) == {
        "creds": "[removed]",
        "password": "[removed]",
        "headers": {"Cookie": "[removed]", "Accept": "*/*"},
        "pairing_code": "[removed]",
        "code": "[removed]",
        "salon": 7,
        "phones": ["***4567", "***4567"],
        "blob": "[removed]",
        "key_type": "pre-key",
        "keys": "[removed]",
        "qr": "[removed]",
        "nothing": None,
    }


@pytest.mark.parametrize("code", ["PAIRING_TIMEOUT", "FORBIDDEN", 515, "rate_limited"])
def test_an_error_code_is_no_secret(code: object):
    assert scrub({"code": code}) == {"code": code}


def test_a_log_line_is_scrubbed_with_its_arguments_and_traceback():
    formatter = ScrubbingFormatter("%(message)s")
    error = ValueError(f"bad creds {KEY} of 79001234567")
    info = (ValueError, error, None)
    record = logging.LogRecord(
        "x", logging.ERROR, __file__, 1, "phone %s", ("79001234567",), info
    )
    line = formatter.format(record)
    assert line == "phone ***4567\nValueError: bad creds [key] of ***4567"
