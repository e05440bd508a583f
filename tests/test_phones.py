"""What people type, what WhatsApp says, and whether they are one account."""

import pytest

from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.phones import (
    canonical,
    device_from_jid,
    mask_phone,
    normalize_phone,
    phone_from_jid,
    same_phone,
)


@pytest.mark.parametrize(
    ("typed", "digits"),
    [
        ("79001234567", "79001234567"),
        ("+79001234567", "79001234567"),
        ("89001234567", "79001234567"),
        ("9001234567", "79001234567"),
        ("8 (900) 123-45-67", "79001234567"),
        ("+7 900 123-45-67", "79001234567"),
        ("+7 900 123–45–67", "79001234567"),
        ("  7.900.123.45.67  ", "79001234567"),
        ("+7\u00a0900\u00a0123\u00a045\u00a067", "79001234567"),
        ("＋７９００１２３４５６７", "79001234567"),
        ("0079001234567", "79001234567"),
        ("+1 202 555 0123", "12025550123"),
        ("+44 7400 123456", "447400123456"),
        ("447400123456", "447400123456"),
        ("+380 50 123 4567", "380501234567"),
        ("375291234567", "375291234567"),
        ("998901234567", "998901234567"),
        ("+84 912 345 678", "84912345678"),
        ("84912345678", "84912345678"),
        ("5511987654321", "5511987654321"),
        ("551187654321", "551187654321"),
    ],
)
def test_a_number_is_understood_however_it_is_typed(typed, digits):
    assert normalize_phone(typed, "RU") == digits


@pytest.mark.parametrize(
    "typed", [None, "", "   ", 79001234567, 7.9, True, [], {}, b"7900"]
)
def test_no_number_at_all_is_a_missing_phone(typed):
    with pytest.raises(WhatsAppError) as refused:
        normalize_phone(typed, "RU")
    assert refused.value.code is ErrorCode.PHONE_REQUIRED


@pytest.mark.parametrize(
    "typed",
    [
        "12345",
        "7900123456789012345",
        "9" * 300,
        "phone",
        "7900123456a",
        "+7 900 +123 45 67",
        "7900\n1234567; DROP TABLE",
        "+",
        "+0",
        "0000000000",
        "79001234567@s.whatsapp.net",
        "<script>",
        "７" * 50,
    ],
)
def test_what_cannot_be_a_number_is_refused(typed):
    with pytest.raises(WhatsAppError) as refused:
        normalize_phone(typed, "RU")
    assert refused.value.code is ErrorCode.INVALID_PHONE_FORMAT


def test_national_forms_are_those_of_the_given_region():
    assert normalize_phone("0501234567", "UA") == "380501234567"
    assert normalize_phone("87011234567", "KZ") == "77011234567"
    assert normalize_phone("(11) 98765-4321", "BR") == "5511987654321"


@pytest.mark.parametrize(
    ("jid", "phone", "device"),
    [
        ("79001234567:5@s.whatsapp.net", "79001234567", 5),
        ("79001234567:0@s.whatsapp.net", "79001234567", 0),
        ("79001234567@s.whatsapp.net", "79001234567", None),
        ("120363000000000001@g.us", "", None),
        ("123456789012345:5@lid", "", None),
        ("79001234567:x@s.whatsapp.net", "", None),
        ("٧٩٠٠١٢٣٤٥٦٧@s.whatsapp.net", "", None),
        ("", "", None),
        (None, "", None),
        (79001234567, "", None),
    ],
)
def test_only_the_jid_of_a_phone_has_a_phone(jid, phone, device):
    assert phone_from_jid(jid) == phone
    assert device_from_jid(jid) == device


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("79001234567", "79001234567"),
        ("5511987654321", "551187654321"),
        ("5215512345678", "525512345678"),
        ("5491123456789", "541123456789"),
    ],
)
def test_old_and_new_forms_are_one_account(one, other):
    assert same_phone(one, other)
    assert same_phone(other, one)
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("79001234567", "79001234568"),
        ("79001234567", "89001234567"),
        ("5511987654321", "5521987654321"),
        ("", "79001234567"),
        ("", ""),
    ],
)
def test_other_numbers_are_other_accounts(one, other):
    assert not same_phone(one, other)


def test_a_masked_phone_tells_its_owner_which_one():
    assert mask_phone("79001234567") == "79***4567"
    assert mask_phone("1234567") == "***"
    assert mask_phone("") == ""
