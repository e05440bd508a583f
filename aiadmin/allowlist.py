"""What of an event may leave for Sentry: a list of names, and nothing else.

What is on the list is taken over field by field, checked for its shape or scrubbed more
strictly than a log line: here a number too many removed costs nothing.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from aiadmin.scrubber import CODE_LETTERS, mask_phone_match, scrub_text
from whatsapp.alerts import CATEGORIES, COMPONENTS, OPERATIONS
from whatsapp.errors import ErrorCode

EXTRAS = (
    *("old_phone", "new_phone", "event", "before", "after", "owner", "status"),
    *("changes", "seconds", "change", "at", "refused", "taken_up", "swallowed"),
)
HEADERS = ("User-Agent", "Accept-Language")
LEVELS = frozenset({"debug", "info", "warning", "error", "fatal"})

TEXT_LIMIT = 500
SCRUBBED_AT_MOST = 100_000
FRAMES = 60
CHAIN = 10

# Words that look like a pairing code: eight capitals without I, O and U.
WORDS = frozenset({"WHATSAPP", "DATABASE"})


def _remove_code(match: re.Match[str]) -> str:
    return match[0] if match[0] in WORDS else "[code]"


def _mask_number(match: re.Match[str]) -> str:
    is_date = re.match(r"\d{4}-\d\d-\d\d\b", match[0])
    return match[0] if is_date else mask_phone_match(match)


_STRICT: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?s)\bb(['\"])(?:\\.|(?!\1).)*(\1|$)"), "[bytes]"),
    (
        re.compile(
            r"(?i)\b(pass(?:word|wd)?|pwd|secret|token|api_?key|authorization|cookie"
            r"|sessionid|csrftoken)\b(\\?[\"'])?\s*[=:]\s*(\\?[\"'])?[^\s\"',;&\\]+"
        ),
        r"\1=[removed]",
    ),
    (re.compile(rf"(?<![\w-])[{CODE_LETTERS}]{{8}}(?![\w-])"), _remove_code),
    (re.compile(r"(?<![\d.])\d[\d ()-]{8,20}\d(?!\d)"), _mask_number),
]


def text(value: object, limit: int = TEXT_LIMIT) -> str:
    """Return what may be read of a text."""
    if not isinstance(value, str | int | float):
        return ""
    found = str(value)
    if len(found) > SCRUBBED_AT_MOST:
        return "[too long]"
    found = scrub_text(found)
    for pattern, replacement in _STRICT:
        found = pattern.sub(replacement, found)
    # Only now: half a secret would not be known for one.
    return found if len(found) <= limit else f"{found[:limit]}…"


def _shaped(pattern: str) -> Callable[[object], str | None]:
    """Return a check: a value of this shape in which there is nothing to hide."""
    shape = re.compile(pattern, re.ASCII)

    def check(value: object) -> str | None:
        if not isinstance(value, str) or not shape.fullmatch(value):
            return None
        return value if text(value) == value else None

    return check


def _one_of(names: frozenset[str]) -> Callable[[object], str | None]:
    return lambda value: value if isinstance(value, str) and value in names else None


_CODES = frozenset(code.value for code in ErrorCode)
_name = _shaped(r"[\w.<>-]{1,120}")
_path = _shaped(r"[\w./<>+-]{1,200}")
_word = _shaped(r"[a-z][a-z_-]{0,40}")
_number = _shaped(r"\d{1,9}")


def _reason(value: object) -> str | None:
    number = isinstance(value, str) and re.fullmatch(r"-?\d{1,4}", value, re.ASCII)
    return str(value) if number or value in _CODES else _word(value)


def _salon(value: object) -> str | None:
    is_one = isinstance(value, str) and re.fullmatch(r"company_\d{1,18}", value)
    return text(value) if is_one else None


TAGS: dict[str, Callable[[object], str | None]] = {
    "component": _one_of(COMPONENTS),
    "operation": _one_of(OPERATIONS),
    "company_id": _salon,
    "key_type": _word,
    "mismatch_type": _word,
    "session_health": _word,
    "category": _one_of(CATEGORIES),
    "reason": _reason,
    "error": _one_of(_CODES),
}


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _values(value: object) -> list[Mapping[Any, Any]]:
    """Return the entries of a list as Sentry has it, ``{"values": […]}`` or bare."""
    if isinstance(value, Mapping):
        value = value.get("values")
    found = value if isinstance(value, list | tuple) else []
    return [one for one in found if isinstance(one, Mapping)]


def _checked(
    source: object, checks: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """Return those fields that there are and that pass their checks."""
    fields = _mapping(source)
    found = {name: check(fields.get(name)) for name, check in checks.items()}
    return {name: value for name, value in found.items() if value not in (None, "", {})}


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _line(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < 10**6 else None


def _time(value: object) -> str | None:
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?"
    return str(value) if re.fullmatch(pattern, str(value), re.ASCII) else None


FRAME: dict[str, Callable[[Any], Any]] = {
    "function": _name,
    "module": _name,
    "filename": _path,
    "lineno": _line,
    "in_app": _flag,
}
BREADCRUMB: dict[str, Callable[[Any], Any]] = {
    "category": _name,
    "level": _one_of(LEVELS),
    "message": text,
    "timestamp": _time,
}


def _stacktrace(source: object) -> dict[str, Any]:
    frames = _mapping(source).get("frames")
    found = [_checked(frame, FRAME) for frame in _values(frames)[-FRAMES:]]
    return {"frames": found} if found else {}


def _exception(source: Mapping[Any, Any]) -> dict[str, Any]:
    found = _checked(
        source,
        {
            "type": _name,
            "module": _name,
            "value": text,
            "mechanism": lambda value: _checked(
                value, {"type": _name, "handled": _flag}
            ),
            "stacktrace": _stacktrace,
        },
    )
    if str(found.get("module", "")).startswith(("psycopg", "django.db")):
        # PostgreSQL shows the failing row from the second line on.
        found["value"] = text(str(source.get("value", "")).partition("\n")[0])
    return found


def _exceptions(source: object) -> dict[str, Any]:
    found = [_exception(one) for one in _values(source)[-CHAIN:]]
    return {"values": found} if found else {}


def _request(source: object) -> dict[str, Any]:
    request = _mapping(source)
    headers = _mapping(request.get("headers"))
    found = _checked(request, {"method": _shaped(r"[A-Z]{3,7}"), "url": _url})
    kept = {name: text(headers.get(name), 200) for name in HEADERS if name in headers}
    if kept:
        found["headers"] = kept
    return found


def _url(value: object) -> str:
    """Return the path alone; whoever is asked stands elsewhere, and what with is ours."""
    path = re.split(r"[?#]", value, maxsplit=1)[0] if isinstance(value, str) else ""
    return text(unquote(re.sub(r"^\w+://[^/]*", "", path)), 200)


def _breadcrumbs(source: object) -> dict[str, Any]:
    found = [breadcrumb(one) for one in _values(source)]
    return {"values": found} if found else {}


def _message(source: object) -> dict[str, str]:
    said = _mapping(source)
    found = text(said.get("formatted") or said.get("message"))
    return {"message": found} if found else {}


_EXTRAS: dict[str, Callable[[Any], Any]] = dict.fromkeys(EXTRAS, text)
_EVENT: dict[str, Callable[[Any], Any]] = {
    "timestamp": _time,
    "platform": _one_of(frozenset({"python"})),
    "level": _one_of(LEVELS),
    "logger": _name,
    "release": _shaped(r"[\w.@+-]{1,100}"),
    "environment": _shaped(r"[\w.-]{1,64}"),
    "server_name": _shaped(r"[\w.-]{1,64}"),
    "logentry": _message,
    "tags": lambda value: _checked(value, TAGS),
    "extra": lambda value: _checked(value, _EXTRAS),
    "exception": _exceptions,
    "breadcrumbs": _breadcrumbs,
    "request": _request,
    "user": lambda value: _checked(value, {"id": _number}),
    "sdk": lambda value: _checked(value, {"name": _name, "version": _name}),
}


def event(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event with what may leave of ``source``."""
    event_id = str(source.get("event_id"))
    known = re.fullmatch(r"[0-9a-f]{32}", event_id)
    return {
        "event_id": event_id if known else uuid.uuid4().hex,
        **_checked(source, _EVENT),
    }


def breadcrumb(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be kept of something that went before an event."""
    found = _checked(source, BREADCRUMB)
    # The SDK writes it as a time, and as text only when it leaves.
    time = source.get("timestamp")
    return found | ({"timestamp": time} if hasattr(time, "isoformat") else {})
