"""Salons, creds and keys for tests, and the gateway's part of a link.

Everything is invented: no phone, key or code in here belongs to anybody.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection

from tests.sealed import opened_creds, opened_key
from whatsapp import events
from whatsapp.models import (
    PairingAttempt,
    Salon,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.services import attempts, claims, pairing, salons, sessions

PHONE = "79001234567"
OTHER_PHONE = "79007654321"
OWNER = "gateway-a"
QR = "2@invented/qr+text==,bm9pc2U=,aWRlbnRpdHk=,c2VjcmV0"

_salon_ids = itertools.count(100_001)


def make_salon(
    salon_id: int | None = None, title: str = "Ромашка", **fields: Any
) -> Salon:
    """Return a new salon with a session row and nothing linked."""
    salon = salons.create(salon_id or next(_salon_ids), title)
    if fields:
        Salon.objects.filter(pk=salon.pk).update(**fields)
        salon.refresh_from_db()
    return salon


def make_creds(
    phone: str = PHONE, *, linked: bool = True, device: int = 5, form: str = "base64"
) -> dict[str, Any]:
    """Return creds shaped like Baileys' own.

    Args:
        phone: of ``me``; empty: creds that nobody has asked anything with.
        linked: with ``account``, as after a confirmed link; else half-paired.
        device: the number of the linked device.
        form: how binary values are written: ``base64``, ``bytes`` or ``index``.
    """
    me = f"{phone}:{device}@s.whatsapp.net" if linked else f"{phone}@s.whatsapp.net"
    creds: dict[str, Any] = {
        "noiseKey": _pair("noise", form),
        "pairingEphemeralKeyPair": _pair("ephemeral", form),
        "signedIdentityKey": _pair("identity", form),
        "signedPreKey": {
            "keyPair": _pair("signed", form),
            "signature": _binary("signature", form, 64),
            "keyId": 1,
        },
        "registrationId": 42,
        "advSecretKey": base64.b64encode(_bytes("adv")).decode(),
        "processedHistoryMessages": [],
        "nextPreKeyId": 31,
        "firstUnuploadedPreKeyId": 31,
        "accountSyncCounter": 0,
        "accountSettings": {"unarchiveChats": False},
        "registered": False,
        "pairingCode": None,
        "routingInfo": _binary("routing", form, 8),
        "platform": "android",
    }
    if phone:
        creds["me"] = {"id": me, "name": "Ромашка", "lid": "123456789012345:5@lid"}
    if linked:
        creds["account"] = {
            "details": base64.b64encode(_bytes("details")).decode(),
            "accountSignatureKey": base64.b64encode(_bytes("account")).decode(),
            "accountSignature": base64.b64encode(_bytes("accounts", 64)).decode(),
            "deviceSignature": base64.b64encode(_bytes("device", 64)).decode(),
        }
        creds["signalIdentities"] = [
            {
                "identifier": {"name": me, "deviceId": 0},
                "identifierKey": _binary("signal", form, 33),
            }
        ]
    return creds


def make_keys(form: str = "base64") -> dict[tuple[str, str], Any]:
    """Return an entry of each type of Baileys' SignalKeyStore, by type and id."""
    return {
        ("pre-key", "1"): _pair("pre-key", form),
        ("session", f"{PHONE}.0"): {
            "_sessions": {"BTest": {"registrationId": 7, "currentRatchet": {"n": 1}}},
            "version": "v1",
        },
        ("sender-key", "120363000000000001@g.us::79001112233::0"): _binary("sk", form),
        ("sender-key-memory", "120363000000000001@g.us"): {"79001112233:0": True},
        ("app-state-sync-key", "AAAAAAAA"): {
            "keyData": _binary("sync", form),
            "fingerprint": {"rawId": 1, "currentIndex": 0, "deviceIndexes": [0]},
            "timestamp": "1700000000",
        },
        ("app-state-sync-version", "regular_low"): {
            "version": 3,
            "hash": _binary("hash", form, 128),
            "indexValueMap": {"a": {"valueMac": _binary("mac", form)}},
        },
        ("lid-mapping", PHONE): "123456789012345",
        ("device-list", PHONE): ["0", "5"],
        ("tctoken", f"{PHONE}@s.whatsapp.net"): {
            "token": _binary("tc", form, 16),
            "timestamp": "4102444800",  # of 2100: one that has not expired
        },
        ("identity-key", f"{PHONE}.0"): _binary("id-key", form, 33),
    }


def _bytes(name: str, length: int = 32) -> bytes:
    digest = b""
    while len(digest) < length:
        digest += hashlib.sha256(f"{name}{len(digest)}".encode()).digest()
    return digest[:length]


def _binary(name: str, form: str, length: int = 32) -> Any:
    value = _bytes(name, length)
    if form == "base64":
        return {"type": "Buffer", "data": base64.b64encode(value).decode()}
    if form == "bytes":
        return {"type": "Buffer", "data": list(value)}
    return {str(index): byte for index, byte in enumerate(value)}


def _pair(name: str, form: str) -> dict[str, Any]:
    return {
        "private": _binary(f"{name} private", form),
        "public": _binary(f"{name} public", form),
    }


def store_creds(
    salon: Salon,
    creds: dict[str, Any] | None = None,
    keys: dict[tuple[str, str], Any] | None = None,
) -> None:
    """Write creds and keys straight into the tables, as an earlier time left them."""
    WhatsAppAuth.objects.create(
        company_id=salon.session_id, creds=make_creds() if creds is None else creds
    )
    for (key_type, key_id), value in (make_keys() if keys is None else keys).items():
        WhatsAppKey.objects.create(
            company_id=salon.session_id, key_type=key_type, key_id=key_id, value=value
        )


def stored_rows(salon: Salon) -> tuple[Any, dict[tuple[str, str], Any]]:
    """Return the creds (or None) and the keys in the tables, opened if sealed."""
    company_id = salon.session_id
    auth = WhatsAppAuth.objects.filter(company_id=company_id).first()
    creds = auth and opened_creds(company_id, auth.creds)
    keys = WhatsAppKey.objects.filter(company_id=company_id)
    return creds, {
        (key.key_type, key.key_id): opened_key(
            company_id, key.key_type, key.key_id, key.value
        )
        for key in keys
    }


# --- the gateway's part ---------------------------------------------------------------


def claim(salon: Salon, owner: str = OWNER) -> int:
    """Take the salon over, as a gateway that has its lock; return the epoch."""
    claims.take_over([salon.pk], owner)
    salon.refresh_from_db()
    return salon.session.epoch


def begin(salon: Salon, owner: str = OWNER) -> tuple[int, int]:
    """Start a socket for the open attempt; return the attempt and the epoch."""
    work = claims.work(salon.pk, owner)
    if work is None:
        claim(salon, owner)
        work = claims.work(salon.pk, owner)
    assert work is not None
    assert work.attempt is not None
    epoch = sessions.start(salon, owner, work.epoch, "pairing", work.attempt.id)
    assert epoch is not None
    return work.attempt.id, epoch


def show_code(salon: Salon, code: str = "ABCD1234") -> tuple[int, int]:
    """Take the open attempt to an acknowledged code."""
    attempt_id, epoch = begin(salon)
    assert attempts.record_code(salon, attempt_id, epoch, code)
    return attempt_id, epoch


def show_qr(salon: Salon, qr: str = QR, lifetime: float = 60) -> tuple[int, int]:
    """Take the open attempt to a QR."""
    attempt_id, epoch = begin(salon)
    assert attempts.record_qr(salon, attempt_id, epoch, qr, lifetime)
    return attempt_id, epoch


def confirm(salon: Salon, attempt_id: int, epoch: int, phone: str = PHONE) -> bool:
    """WhatsApp confirms the new device: its creds are stored."""
    keys = [{"t": t, "i": i, "v": v} for (t, i), v in make_keys().items()]
    return attempts.record_linked(
        salon, attempt_id, epoch, json.dumps(make_creds(phone)), json.dumps(keys), phone
    )


def link(salon: Salon, phone: str = PHONE) -> int:
    """Link and open the salon, by a code; return the epoch of the open socket."""
    pairing.request_code(salon, phone, "page")
    attempt_id, epoch = show_code(salon)
    assert confirm(salon, attempt_id, epoch, phone)
    _attempt, epoch = begin(salon)
    assert attempts.record_open(salon, epoch, phone)
    return epoch


def open_attempt(salon: Salon) -> Any:
    """Return the salon's unfinished attempt, or None."""
    return PairingAttempt.objects.filter(salon=salon, finished_at=None).first()


def last_attempt(salon: Salon) -> PairingAttempt:
    """Return the salon's latest attempt."""
    return PairingAttempt.objects.filter(salon=salon).latest("id")


def snapshot(salon: Salon) -> Any:
    """Return what the salon's pages see."""
    return events.snapshot(salon.pk)


def status_of(salon: Salon) -> str:
    """Return the status in the salon's session row."""
    salon.refresh_from_db()
    return salon.session.status


@contextmanager
def run_by_a_gateway(salon: Salon) -> Iterator[None]:
    """Hold the lock of a salon, as the gateway that runs it does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [claims.LOCK_CLASS, salon.pk])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock_all()")


def linked_as(status: str = "stopped", **fields: Any) -> Salon:
    """Return a linked salon with a session row made to order."""
    salon = make_salon()
    store_creds(salon)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, **{"phone": PHONE, **fields}
    )
    salon.refresh_from_db()
    return salon


def work_of(salon: Salon) -> Any:
    """Return what the owner reads of the salon, to decide by."""
    return claims.work(salon.pk, OWNER)


@contextmanager
def private_connection() -> Iterator[psycopg.Connection]:
    """Open a connection of one's own, as a gateway does for its locks."""
    settings = connection.settings_dict
    with psycopg.connect(
        host=settings["HOST"],
        port=settings["PORT"],
        user=settings["USER"],
        password=settings["PASSWORD"],
        dbname=settings["NAME"],
        autocommit=True,
    ) as private:
        yield private
