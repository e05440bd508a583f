"""Creds, Signal keys and archives as they lie in the tables: sealed, if there is a key.

AES-256-GCM under a key of the salon's own, derived from one of
``CREDENTIAL_ENCRYPTION_KEYS``: no salon can write as often as random nonces allow for
one key (NIST SP 800-38D, 8.3: 2^32 times). What a value is, and whose, is associated
data, so that a row put in place of another opens nothing.

A sealed value is JSON like a plain one: ``{"sealed": 1, "kid": key id, "data": base64 of
nonce, text and tag}``. Without keys values are written as they come; what is sealed and
what is plain may lie side by side, and both are read.
"""

import base64
import functools
import os
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

KEY_BYTES = 32
NONCE_BYTES = 12

CREDS = "creds"
KEY = "key"
ARCHIVE = "archive"

UNREADABLE = "1011"
"""The reason of a session whose creds or keys cannot be opened (engine/reasons.py)."""

_MARK = '"sealed"'


class SealingError(Exception):
    """What is stored cannot be opened. Nothing has changed."""


class KeyMissing(SealingError):
    """It is sealed with a key that ``CREDENTIAL_ENCRYPTION_KEYS`` does not hold."""

    def __init__(self, kid: str) -> None:
        super().__init__(
            f"encrypted with the key {kid}, which CREDENTIAL_ENCRYPTION_KEYS does not hold"
        )
        self.kid = kid


class Forged(SealingError):
    """It is damaged, or was not written for this salon and this place."""

    def __init__(self) -> None:
        super().__init__("damaged, or encrypted for another place")


# --- keys -----------------------------------------------------------------------------


def new_key() -> str:
    """Return a fresh key, as ``CREDENTIAL_ENCRYPTION_KEYS`` has them."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def is_enabled() -> bool:
    """Say whether what is written is sealed."""
    return bool(settings.CREDENTIAL_ENCRYPTION_KEYS)


def current_kid() -> str:
    """Return the id of the key that seals; empty if there is none."""
    return next(iter(_ring()), "")


def kids() -> list[str]:
    """Return the ids of all keys that open, the one that seals first."""
    return list(_ring())


def _ring() -> dict[str, bytes]:
    return _derived(tuple(settings.CREDENTIAL_ENCRYPTION_KEYS))


@functools.lru_cache(maxsize=16)
def _derived(keys: tuple[str | bytes, ...]) -> dict[str, bytes]:
    ring = {}
    for text in keys:
        key = base64.urlsafe_b64decode(text)
        # The id tells nothing of the key, and which one it is.
        ring[_derive(key, "key id", 4).hex()] = key
    return ring


def _derive(key: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    info = f"aiadmin.whatsapp.sealing.1 {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(key)


# A salon more or less costs some 20 us and a hundred bytes.
@functools.lru_cache(maxsize=16384)
def _cipher(key: bytes, salon: str) -> AESGCM:
    return AESGCM(_derive(key, f"salon {salon}"))


def _opener(kid: str, company_id: str) -> AESGCM:
    try:
        key = _ring()[kid]
    except KeyError:
        raise KeyMissing(kid) from None
    return _cipher(key, _salon(company_id))


def _salon(company_id: str) -> str:
    # 123 and company_123 mean the same salon.
    return company_id.removeprefix("company_")


def _place(company_id: str, *place: str) -> bytes:
    return orjson.dumps([_salon(company_id), *place])


# --- bytes ----------------------------------------------------------------------------


def seal_bytes(company_id: str, kind: str, plain: bytes) -> tuple[str, bytes]:
    """Seal with the current key; return its id, and nonce, text and tag in one."""
    return _encrypt(company_id, (kind,), plain)


def unseal_bytes(company_id: str, kind: str, kid: str, data: bytes) -> bytes:
    """Open what :func:`seal_bytes` sealed.

    Raises:
        SealingError: the key is missing, or it is not what lay here.
    """
    return _decrypt(_opener(kid, company_id), data, _place(company_id, kind))


def _encrypt(
    company_id: str, place: tuple[str, ...], plain: bytes
) -> tuple[str, bytes]:
    kid, key = next(iter(_ring().items()))
    nonce = os.urandom(NONCE_BYTES)
    cipher = _cipher(key, _salon(company_id))
    return kid, nonce + cipher.encrypt(nonce, plain, _place(company_id, *place))


def unseal_fernet(token: bytes) -> bytes:
    """Open what an earlier version of this service encrypted: its archives.

    Raises:
        KeyMissing: none of the keys opens it.
    """
    keys = settings.CREDENTIAL_ENCRYPTION_KEYS
    try:
        return MultiFernet([Fernet(key) for key in keys]).decrypt(token)
    except (InvalidToken, ValueError):  # the second: no keys at all
        raise KeyMissing("fernet") from None


def _decrypt(cipher: AESGCM, data: bytes, place: bytes) -> bytes:
    try:
        return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], place)
    except (InvalidTag, ValueError):
        raise Forged from None


# --- JSON values ----------------------------------------------------------------------


def is_sealed(value: Any) -> bool:
    """Say whether a decoded value is a sealed one."""
    return isinstance(value, dict) and value.get("sealed") == 1 and "kid" in value


def kid_of(value: Any) -> str:
    """Return the id of the key that a decoded value is sealed with; plain: empty."""
    return str(value["kid"]) if is_sealed(value) else ""


def seal_creds(company_id: str, creds: str) -> str:
    """Return creds (JSON text) as they are to be stored; sealed ones as they are."""
    if not is_enabled():
        return creds
    value = orjson.loads(creds)
    if is_sealed(value):
        return creds
    return orjson.dumps(_seal(company_id, (CREDS,), creds.encode())).decode()


def unseal_creds(company_id: str, creds: str) -> str:
    """Return stored creds (JSON text) as Baileys wrote them.

    Raises:
        SealingError: they cannot be opened.
    """
    if _MARK not in creds:
        return creds
    value = orjson.loads(creds)
    if not is_sealed(value):
        return creds
    return _open(company_id, (CREDS,), value).decode()


def seal_keys(company_id: str, keys: str) -> str:
    """Return ``[{"t": type, "i": id, "v": value}, …]`` (JSON text) to be stored.

    Values that are null (a deletion) or sealed already stay as they are.
    """
    if not is_enabled():
        return keys
    entries = orjson.loads(keys)
    for entry in entries:
        value = entry["v"]
        if value is not None and not is_sealed(value):
            place = (KEY, entry["t"], entry["i"])
            entry["v"] = _seal(company_id, place, orjson.dumps(value))
    return orjson.dumps(entries).decode()


def unseal_keys(company_id: str, keys: str) -> str:
    """Return stored ``[{"t": type, "i": id, "v": value}, …]`` (JSON text) in plain.

    Raises:
        SealingError: one of them cannot be opened.
    """
    if _MARK not in keys:
        return keys
    entries = orjson.loads(keys)
    for entry in entries:
        value = entry["v"]
        if is_sealed(value):
            place = (KEY, entry["t"], entry["i"])
            entry["v"] = orjson.Fragment(_open(company_id, place, value))
    return orjson.dumps(entries).decode()


def unseal_keys_of(company_id: str, key_type: str, values: str) -> str:
    """Return stored ``{id: value}`` (JSON text) of one type of key in plain.

    Raises:
        SealingError: one of them cannot be opened.
    """
    if _MARK not in values:
        return values
    plain = {
        key_id: orjson.Fragment(_open(company_id, (KEY, key_type, key_id), value))
        if is_sealed(value)
        else value
        for key_id, value in orjson.loads(values).items()
    }
    return orjson.dumps(plain).decode()


def _seal(company_id: str, place: tuple[str, ...], plain: bytes) -> dict[str, Any]:
    kid, data = _encrypt(company_id, place, plain)
    return {"sealed": 1, "kid": kid, "data": base64.b64encode(data).decode()}


def _open(company_id: str, place: tuple[str, ...], value: dict[str, Any]) -> bytes:
    cipher = _opener(str(value["kid"]), company_id)
    try:
        data = base64.b64decode(value["data"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise Forged from None
    return _decrypt(cipher, data, _place(company_id, *place))
