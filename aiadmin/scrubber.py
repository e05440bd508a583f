"""Keeps secrets out of the logs and out of Sentry.

Phones are masked; creds, Signal keys, pairing codes, QR texts and tokens are
removed: whoever has them can read a salon's chats.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

REMOVED = "[removed]"

# Values under these names go, whatever they look like.
SECRET_NAMES = re.compile(
    r"""(?ix)
    pass(word|wd)?$ | secret | token | authorization | cookie | session_?key
    | (^|_)creds?$ | credential | private | (^|_)keys?$ | pairing_?code | ^code$ | (^|_)qr$
    | dsn | database_url | redis_url | ^svg$
    """
)
# ... except these, which say what kind of secret it was, not the secret.
PLAIN_NAMES = frozenset({"key_type", "token_type"})
ERROR_CODE = re.compile(r"[A-Z]+(_[A-Z]+)*|-?\d{1,5}|[a-z_]+")
HEX = re.compile(r"[0-9a-f]+")
PIECES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
CODE_LETTERS = "1-9A-HJ-NP-TV-Z"


def mask_phone_match(match: re.Match[str]) -> str:
    """Return what matched with its last four digits, if it has as many as a phone."""
    digits = re.sub(r"\D", "", match[0])
    if not 10 <= len(digits) <= 15:
        return match[0]
    return f"***{digits[-4:]}"


def _remove_key(match: re.Match[str]) -> str:
    # Long names and paths are made of the same letters as base64, but random letters
    # change their kind after one or two.
    text = match[0]
    mixed = all(re.search(kind, text) for kind in ("[A-Z]", "[a-z]", "[0-9]"))
    path = "/" in text and len(PIECES.findall(text)) * 3 <= len(text)
    return "[key]" if (mixed and not path) or HEX.fullmatch(text) else text


# In this order: what is inside another secret must not hide the other.
RULES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"eyJ[\w-]{5,}\.[\w-]+(\.[\w-]*)?"), "[token]"),
    (re.compile(r"\bwak_[a-z0-9]{10}_[\w-]+"), "[token]"),
    (re.compile(r"(?i)\b(bearer|basic)[ .]+[^\s\"',;]+"), r"\1 [token]"),
    (re.compile(r"\b\d@[\w+/=-]{6,}(,[\w+/=-]*)+"), "[qr]"),
    (re.compile(r"(://[^\s/:@]*):[^\s@]+@"), r"\1:[password]@"),
    (re.compile(r"<Buffer [^>]*>?"), "[key]"),
    # A binary value in any of its JSON forms.
    (re.compile(r"(?s)\{\\?[\"']type\\?[\"']:\s*\\?[\"']Buffer.*?(\}|$)"), "[key]"),
    (re.compile(r"\[\s*\d{1,3}(\s*,\s*-?\d{1,3}){15,}[^\]]*\]?"), "[key]"),
    (
        re.compile(
            r"\{\s*(\\?[\"'])?0(\\?[\"'])?:\s*\d{1,3}\s*,\s*(\\?[\"'])?1\b[^}]*\}?"
        ),
        "[key]",
    ),
    (re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{42,}={0,2}"), _remove_key),
    # A pairing code, as shown or as WhatsApp sends it.
    (
        re.compile(rf"(?<![\w-])[{CODE_LETTERS}]{{4}}-[{CODE_LETTERS}]{{4}}(?![\w-])"),
        "[code]",
    ),
    (
        re.compile(
            rf"(?<![\w-])(?=[A-Z]*\d)(?=\d*[A-Z])[{CODE_LETTERS}]{{8}}(?![\w-])"
        ),
        "[code]",
    ),
    # A phone: with its plus and any spacing, as Russians write it, or bare.
    (re.compile(r"\+\d[\d\s().-]{8,20}\d"), mask_phone_match),
    (
        re.compile(
            r"(?<![\d.])[78][\s(-]+\d{3}[\s)-]+\d{3}[\s-]*\d{2}[\s-]*\d{2}(?!\d)"
        ),
        mask_phone_match,
    ),
    (re.compile(r"(?<![\d.])\d{10,15}(?!\d)"), mask_phone_match),
]


def scrub_text(text: str) -> str:
    """Return ``text`` without phones and secrets."""
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text


def scrub(value: Any) -> Any:
    """Return a copy of ``value`` (JSON-like) without phones and secrets."""
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return REMOVED
    if isinstance(value, int) and abs(value) >= 10**10:
        return scrub_text(str(value))
    if isinstance(value, Mapping):
        return {name: _scrub_named(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(item) for item in value]
    return value


def _scrub_named(name: str, value: Any) -> Any:
    if value is None or name in PLAIN_NAMES or not SECRET_NAMES.search(name):
        return scrub(value)
    if name == "code" and _is_error_code(str(value)):
        return value
    return REMOVED


def _is_error_code(value: str) -> bool:
    # Both are capitals; a pairing code has eight of them.
    pairing_code = re.fullmatch(rf"[{CODE_LETTERS}]{{8}}", value)
    return not pairing_code and ERROR_CODE.fullmatch(value) is not None


class ScrubbingFormatter(logging.Formatter):
    """Formats a log record, traceback and all, without phones and secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the scrubbed line."""
        return scrub_text(super().format(record))
