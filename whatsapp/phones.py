"""Phone numbers: what people type, what WhatsApp says, and whether they are the same.

A phone is stored and compared as bare digits in international form, without ``+``.
"""

import re
import unicodedata
from functools import cache
from typing import Any

import phonenumbers
from phonenumbers import (
    PhoneMetadata,
    PhoneNumber,
    PhoneNumberFormat,
    PhoneNumberType,
)

from whatsapp.errors import ErrorCode, WhatsAppError

MAX_TYPED_LENGTH = 40
"""Longer than any number with its punctuation; what is longer is not parsed at all."""

SHORTEST_PLAUSIBLE = 10
"""Digits with the calling code; shorter ones must be known to exist."""

_ALLOWED = re.compile(r"[\d\s()+./\-–—·]+")
_JID = re.compile(r"([0-9]{7,15})(?::([0-9]+))?@s\.whatsapp\.net")
_MOBILE = {PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE}


def normalize_phone(typed: object, region: str) -> str:
    """Return the digits of the number that a person typed.

    Args:
        typed: what came from outside; anything but a non-empty string is refused.
        region: ISO country whose national forms are understood (``RU``: 8 900 …).

    Raises:
        WhatsAppError: PHONE_REQUIRED or INVALID_PHONE_FORMAT.

    A number without ``+`` may be national or international. A valid mobile number
    wins over a valid landline, and the own region over a foreign one, so that
    84 912 345 678 stays Vietnamese although 8 is Russia's trunk prefix. Numbers that
    are possible but in no known range are let through: numbering plans change more
    often than our copy of them, and WhatsApp has the last word.
    """
    if not isinstance(typed, str) or not typed.strip():
        raise WhatsAppError(ErrorCode.PHONE_REQUIRED)
    if len(typed) > MAX_TYPED_LENGTH:
        raise WhatsAppError(ErrorCode.INVALID_PHONE_FORMAT)
    text = unicodedata.normalize("NFKC", typed).strip()
    if not _ALLOWED.fullmatch(text) or "+" in text[1:]:
        raise WhatsAppError(ErrorCode.INVALID_PHONE_FORMAT)
    candidates = _candidates(text, region)
    for accept in (_is_valid_mobile, phonenumbers.is_valid_number, _is_plausible):
        for number in candidates:
            if accept(number):
                return f"{number.country_code}{phonenumbers.national_significant_number(number)}"
    raise WhatsAppError(ErrorCode.INVALID_PHONE_FORMAT)


def _candidates(text: str, region: str) -> list[PhoneNumber]:
    digits = re.sub(r"\D", "", text)
    if text.startswith("+"):
        readings: list[tuple[str, str | None]] = [(f"+{digits}", None)]
    elif text.startswith("00"):
        readings = [(f"+{digits[2:]}", None)]
    else:
        readings = [(digits, region), (f"+{digits}", None)]
    numbers = []
    for reading, default in readings:
        try:
            numbers.append(phonenumbers.parse(reading, default))
        except phonenumbers.NumberParseException:
            continue
    return numbers


def _is_valid_mobile(number: PhoneNumber) -> bool:
    return phonenumbers.number_type(number) in _MOBILE


def _is_plausible(number: PhoneNumber) -> bool:
    digits = f"{number.country_code}{phonenumbers.national_significant_number(number)}"
    return len(digits) >= SHORTEST_PLAUSIBLE and phonenumbers.is_possible_number(number)


def phone_from_jid(jid: object) -> str:
    """Return the digits of ``<phone>[:<device>]@s.whatsapp.net``, or ``""``.

    Groups, LIDs and anything else have no phone.
    """
    match = _JID.fullmatch(jid) if isinstance(jid, str) else None
    return match.group(1) if match else ""


def device_from_jid(jid: object) -> int | None:
    """Return the device number of a linked device's JID, or None."""
    match = _JID.fullmatch(jid) if isinstance(jid, str) else None
    return int(match.group(2)) if match and match.group(2) else None


def same_phone(one: str, other: str) -> bool:
    """Say whether two phones (digits) are one WhatsApp account.

    WhatsApp keeps some accounts under the form that was current when they were
    opened: Brazil without the ninth digit, Mexico with 1, Argentina without 9.
    """
    return bool(one) and bool(other) and canonical(one) == canonical(other)


def canonical(phone: str) -> str:
    """Return the digits under which all forms of one account are equal."""
    if phone.startswith("55") and len(phone) == 13 and phone[4] == "9":
        return phone[:4] + phone[5:]
    if phone.startswith("521") and len(phone) == 13:
        return "52" + phone[3:]
    if phone.startswith("549") and len(phone) == 13:
        return "54" + phone[3:]
    return phone


def mask_phone(phone: str) -> str:
    """Return a phone that tells its owner which one, and nobody else the number."""
    if len(phone) < 10:
        return "***" if phone else ""
    return f"{phone[:2]}***{phone[-4:]}"


EXAMPLES = {"RU": "900 123-45-67"}
"""As in the sentences of the catalogue, so that a page shows one example and not two."""

Region = tuple[str, str, str, int, str, str, list[int], list[str]]
"""Of one region: its id, calling code, trunk prefix, how many digits more a national
form may have than a trunk prefix explains, a pattern of the beginnings that tell it
from others with its code, a pattern of its numbers, their lengths, and one number or
more as they are written, mobile first."""


@cache
def numbering_plan() -> list[Region]:
    """Return what a page needs to help with a number, region by region.

    Only help: a page that goes by it refuses nothing that :func:`normalize_phone`
    accepts.
    """
    order = {
        region: at
        for regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.values()
        for at, region in enumerate(regions)
    }
    regions = sorted(phonenumbers.SUPPORTED_REGIONS, key=lambda id_: (order[id_], id_))
    plan = [_region(region) for region in regions]
    return [region for region in plan if region[-1]]


def dialling_abroad(region: str) -> str:
    """Return a pattern of what is dialled before a foreign number: 810 in Russia."""
    metadata: Any = PhoneMetadata.metadata_for_region(region)
    return metadata.international_prefix or "00"


def stateless_codes() -> list[str]:
    """Return the calling codes that belong to no country: satellites and the like."""
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE
    return [str(code) for code, of in regions.items() if of == ("001",)]


def _region(region: str) -> Region:
    metadata: Any = PhoneMetadata.metadata_for_region(region)
    code = str(metadata.country_code)
    general = metadata.general_desc
    # Some plans turn a local number into a whole one.
    local = 0 if metadata.national_prefix_transform_rule else SHORTEST_PLAUSIBLE
    lengths = {
        *general.possible_length,
        *(n for n in general.possible_length_local_only if len(code) + n >= local),
    }
    trunk = metadata.national_prefix or ""
    simple = metadata.national_prefix_for_parsing in (None, trunk)
    return (
        region,
        code,
        trunk,
        0 if simple else 4,
        metadata.leading_digits or "",
        general.national_number_pattern,
        sorted(lengths),
        _written(region, len(code)),
    )


def _written(region: str, code_length: int) -> list[str]:
    """Return how numbers of a region look after the calling code, one of each length."""
    written: dict[int, str] = {}
    if region in EXAMPLES:
        written[len(re.sub(r"\D", "", EXAMPLES[region]))] = EXAMPLES[region]
    for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE):
        number = phonenumbers.example_number_for_type(region, kind)
        if number is not None:
            text = phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)
            national = text[code_length + 2 :]
            written.setdefault(len(re.sub(r"\D", "", national)), national)
    return list(written.values())
