"""Secrets of every kind at every place of an event: none of them leaves."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiadmin import allowlist, sentry
from aiadmin.logs import Pace

CODE_LETTERS = "123456789ABCDEFGHJKLMNPQRSTVWXYZ"


def noise(seed: int, length: int) -> bytes:
    """Return bytes that look random, as keys do."""
    return hashlib.shake_256(str(seed).encode()).digest(length)


# Each kind is made of a number, and gives what is written and what must not be found.
Secret = tuple[str, list[str]]


def creds(seed: int) -> Secret:
    """Creds as JSON, their keys in one of the three binary forms."""
    key = noise(seed, 32)
    text = base64.b64encode(key).decode()
    forms: list[Any] = [
        {"type": "Buffer", "data": text},
        {"type": "Buffer", "data": list(key)},
        {str(index): byte for index, byte in enumerate(key)},
    ]
    phone = f"7900{seed % 10**7:07}"
    whole = {
        "noiseKey": {"private": forms[seed % 3], "public": forms[(seed + 1) % 3]},
        "me": {"id": f"{phone}:5@s.whatsapp.net", "name": "Anna"},
        "account": {"details": forms[(seed + 2) % 3]},
    }
    numbers = ", ".join(map(str, key[8:16]))
    pieces = [text[4:24], numbers, numbers.replace(" ", ""), phone]
    pieces += [f'"9": {key[9]}, "10": {key[10]}', f"'9': {key[9]}, '10': {key[10]}"]
    written = [json.dumps(whole), str(whole), json.dumps(json.dumps(whole))][
        seed // 3 % 3
    ]
    return written, pieces


def pairing_code(seed: int) -> Secret:
    letters = [CODE_LETTERS[byte % 32] for byte in noise(seed, 8)]
    code = "".join(letters)
    shown = f"{code[:4]}-{code[4:]}"
    return (shown if seed % 2 else code), [code, shown]


def qr(seed: int) -> Secret:
    parts = [base64.b64encode(noise(seed + n, 32)).decode() for n in range(4)]
    return f"2@{','.join(parts)}", [part[:16] for part in parts]


def token(seed: int) -> Secret:
    made = jwt.encode({"salon_id": seed, "exp": 1}, noise(seed, 40), "HS256")
    return made, made.split(".")[1:]


def phone(seed: int) -> Secret:
    number = f"900{seed % 10**7:07}"
    area, rest = number[:3], (number[3:6], number[6:8], number[8:])
    spellings = [
        f"+7{number}",
        f"8{number}",
        f"7{number}",
        number,
        "+7 ({}) {}-{}-{}".format(area, *rest),
        "8 ({}) {} {} {}".format(area, *rest),
        "8-{}-{}-{}-{}".format(area, *rest),
        "+7 {} {} {} {}".format(area, *rest),
        "7 {} {}{}{}".format(area, *rest),
        f"7{number}:12@s.whatsapp.net",
        f"+55 11 9{seed % 10**4:04}-{number[6:]}",
    ]
    spelling = spellings[seed % len(spellings)]
    return spelling, [spelling, number]


def api_key(seed: int) -> Secret:
    tail = base64.urlsafe_b64encode(noise(seed, 32)).decode().rstrip("=")
    return f"wak_{noise(seed, 5).hex()}_{tail}", [tail[:20]]


def database_url(seed: int) -> Secret:
    password = noise(seed, 9).hex()
    written = [
        f"postgresql://aiadmin:{password}@db.internal:5432/aiadmin?sslmode=require",
        f"redis://:{password}@cache:6379/0",
        f"host=db dbname=aiadmin user=aiadmin password={password} connect_timeout=5",
        f"{{'HOST': 'db', 'PASSWORD': '{password}'}}",
    ]
    return written[seed % 4], [password]


def fernet_key(seed: int) -> Secret:
    key = base64.urlsafe_b64encode(noise(seed, 32)).decode()
    return key, [key[:16], key[-20:]]


def raw_bytes(seed: int) -> Secret:
    text = repr(noise(seed, 32))
    return text, [text[4:24]]


KINDS: list[Callable[[int], Secret]] = [
    *(creds, pairing_code, qr, token, phone, api_key),
    *(database_url, fernet_key, raw_bytes),
]

secrets = st.builds(
    lambda kind, seed: kind(seed), st.sampled_from(KINDS), st.integers(0, 10**9)
)
FRAMES = ["{}", "it is {} now", '"{}"', "'{}'", "x={}, y", "({})", "<{}>", "a\n{}\nb"]
written = st.builds(
    lambda secret, frame: (frame.format(secret[0]), secret[1]),
    secrets,
    st.sampled_from(FRAMES),
)


def somewhere(text: str) -> list[dict[str, Any]]:
    """Return an event for every place where a text may be."""
    named = dict.fromkeys(
        [*allowlist.TAGS, *allowlist.EXTRAS, "note", "params", "id", text], text
    )
    frame = {
        "function": text,
        "module": text,
        "filename": text,
        "abs_path": text,
        "lineno": 7,
        "context_line": text,
        "pre_context": [text],
        "vars": {"creds": text},
    }
    exception = {
        "type": text,
        "module": text,
        "value": text,
        "mechanism": {"type": text, "data": {"x": text}},
        "stacktrace": {"frames": [frame], "registers": {"x": text}},
    }
    request = {
        "url": text,
        "method": text,
        "query_string": text,
        "headers": {"User-Agent": text, "Cookie": text, "Authorization": text},
        "cookies": {"sessionid": text},
        "data": text,
        "env": {"REMOTE_ADDR": text},
    }
    link = {**request, "url": f"https://salons.example/page/{text}?token={text}#{text}"}
    crumb = {"category": text, "level": text, "message": text, "data": named}
    return [
        {"message": text},
        {"logentry": {"message": text, "formatted": text, "params": [text]}},
        {"tags": named},
        {"tags": {**named, "company_id": f"company_{text}"}},
        {"extra": named},
        {"extra": {"owner": {"deep": [text]}}},
        {"exception": {"values": [exception]}},
        {"exception": {"values": [{**exception, "module": "psycopg.errors"}]}},
        {"threads": {"values": [exception]}},
        {"breadcrumbs": {"values": [crumb]}},
        {"breadcrumbs": [crumb]},
        {"request": request},
        {"request": link},
        {"contexts": {"runtime": named, "trace": named, text: named}},
        {"user": {"id": text, "email": text, "ip_address": text, "username": text}},
        *({name: text} for name in ("server_name", "logger", "transaction", "dist")),
        *({name: text} for name in ("release", "environment", "event_id", "level")),
        *({name: text} for name in ("timestamp", "platform", "modules", "fingerprint")),
        {"sdk": {"name": text, "version": text, "packages": [text]}},
        {text: text, "_meta": {"x": text}, "spans": [text], "debug_meta": text},
    ]


@given(written)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example((KINDS[1](0)[0], KINDS[1](0)[1]))
def test_no_secret_leaves_wherever_it_is(said: tuple[str, list[str]]):
    text, pieces = said
    for event in somewhere(text):
        reporter = sentry.Reporter(Pace())
        sent: Any = reporter.before_send(event, {})  # type: ignore[arg-type]
        left = json.dumps(sent, ensure_ascii=False)
        for piece in pieces:
            assert piece not in left, event
            bare = piece.replace("\\", "")
            assert bare not in left.replace("\\", ""), event


@given(written)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_secret_is_kept_as_a_breadcrumb(said: tuple[str, list[str]]):
    text, pieces = said
    crumb = {"category": text, "level": text, "message": text, "data": {text: text}}
    left = json.dumps(allowlist.breadcrumb(crumb), ensure_ascii=False)
    assert not [piece for piece in pieces if piece in left]


def test_a_secret_that_is_cut_off_is_not_half_shown():
    key = base64.b64encode(noise(1, 32)).decode()
    for at in range(440, 500):
        assert key[:12] not in allowlist.text("x " * (at // 2) + key)


FRAME = {
    "function": "set_keys",
    "module": "whatsapp.gateway.auth_store",
    "filename": "whatsapp/gateway/auth_store.py",
    "lineno": 133,
    "in_app": True,
}
ALLOWED: dict[str, Any] = {
    "event_id": "0123456789abcdef" * 2,
    "timestamp": "2026-11-22T16:44:27.016000Z",
    "platform": "python",
    "level": "error",
    "logger": "whatsapp.gateway.auth_store",
    "release": "aiadmin@0.1.0",
    "environment": "production",
    "server_name": "web-1.salons.example",
    "logentry": {"message": "company_17: creds not loaded after 3 tries"},
    "tags": {
        "component": "baileys_auth",
        "operation": "set_keys",
        "company_id": "company_17",
        "key_type": "app-state-sync-key",
        "mismatch_type": "other_phone",
        "session_health": "needs_attention",
        "category": "database",
        "reason": "428",
        "error": "PAIRING_TIMEOUT",
    },
    "extra": {"old_phone": "79***4567", "owner": "web-1:1281:7e93ed", "changes": "7"},
    "exception": {
        "values": [
            {
                "type": "ValueError",
                "module": "builtins",
                "value": "the epoch 4 of company_17 is over",
                "mechanism": {"type": "logging", "handled": True},
                "stacktrace": {"frames": [FRAME]},
            }
        ]
    },
    "breadcrumbs": {
        "values": [
            {
                "category": "whatsapp.status",
                "level": "info",
                "message": "company_17: open, now reconnecting; reason: 428",
                "timestamp": "2026-11-22T16:44:27.016000Z",
            }
        ]
    },
    "request": {
        "method": "POST",
        "url": "/api/v1/salons/17/reset",
        "headers": {"User-Agent": "curl/8.5"},
    },
    "user": {"id": "42"},
    "sdk": {"name": "sentry.python", "version": "2.75.0"},
}


def test_what_is_allowed_does_leave():
    assert allowlist.event(ALLOWED) == ALLOWED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("component", "nobody"),
        ("operation", "phone_mismatch_clean_up"),
        ("company_id", "17"),
        ("category", "x"),
        ("error", "ABCDEFGH"),
        ("reason", "ABCDEFGH"),
        ("company", "company_17"),
    ],
)
def test_a_tag_that_nobody_knows_is_no_tag(name: str, value: str):
    assert "tags" not in allowlist.event({"tags": {name: value}})


def test_of_what_postgresql_says_only_the_sentence_leaves():
    value = 'null value in column "x"\nDETAIL:  Failing row contains (1, Anna, roses).'
    source = {"module": "psycopg.errors", "type": "NotNullViolation", "value": value}
    sent = allowlist.event({"exception": {"values": [source]}})
    (one,) = sent["exception"]["values"]
    assert one["value"] == 'null value in column "x"'


def test_what_has_grown_too_long_is_dropped():
    assert allowlist.text("x" * 200_000) == "[too long]"
    assert len(allowlist.text("word " * 1000)) < 600


def test_the_source_is_left_as_it_was():
    before = re.sub(r"\s", "", json.dumps(ALLOWED))
    allowlist.event(ALLOWED)
    assert re.sub(r"\s", "", json.dumps(ALLOWED)) == before
