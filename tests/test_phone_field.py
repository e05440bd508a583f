"""The page's help with a number never stands between a person and the server."""

import json
import random
import subprocess
from functools import cache
from typing import Any

import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from aiadmin import embedded
from whatsapp import views
from whatsapp.errors import WhatsAppError
from whatsapp.phones import (
    dialling_abroad,
    normalize_phone,
    numbering_plan,
    stateless_codes,
)

HOME = "RU"
MODULE = views.__file__.replace("views.py", "static/whatsapp/link/phone-number.js")
PROGRAM = """
import { readFileSync } from "node:fs";
const { NumberingPlan } = await import(process.argv[1]);
const { table, typed } = JSON.parse(readFileSync(0, "utf8"));
const plan = new NumberingPlan(table);
const answers = typed.map(([text, region]) => {
  const { send, trouble, region: read } = plan.read(text, region);
  return { send, trouble, region: read?.id ?? null, written: plan.write(text, region) };
});
process.stdout.write(JSON.stringify(answers));
"""


def readings(typed: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return what the page makes of texts, each with the country that is chosen."""
    table = {
        "home": HOME,
        "regions": numbering_plan(),
        "abroad": dialling_abroad(HOME),
        "stateless": stateless_codes(),
    }
    result = subprocess.run(
        [
            str(embedded.node_binary()),
            "--input-type=module",
            "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON",
            "--eval",
            PROGRAM,
            MODULE,
        ],
        input=json.dumps({"table": table, "typed": typed}),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[dict[str, Any]] = json.loads(result.stdout)
    return answers


def accepted(text: str) -> str | None:
    try:
        return normalize_phone(text, HOME)
    except WhatsAppError:
        return None


@cache
def numbers() -> list[tuple[str, Any]]:
    """Return a mobile and a landline number of every region."""
    found = [
        (region, phonenumbers.example_number_for_type(region, kind))
        for region in sorted(phonenumbers.SUPPORTED_REGIONS)
        for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE)
    ]
    return [(region, number) for region, number in found if number]


def written(number: Any, form: int) -> str:
    return phonenumbers.format_number(number, form)


def test_every_countrys_numbers_are_read_as_they_are_meant():
    typed, meant = [], []
    for region, number in numbers():
        digits = written(number, PhoneNumberFormat.E164)[1:]
        for text in (
            written(number, PhoneNumberFormat.INTERNATIONAL),
            written(number, PhoneNumberFormat.NATIONAL),
            f"00{digits}",
        ):
            typed.append((text, region))
            meant.append(digits)
    answers = readings(typed)
    assert len(answers) > 1000
    refused = [
        one for one, answer in zip(typed, answers, strict=True) if answer["trouble"]
    ]
    assert refused == []
    wrong = [
        (one, answer["send"], digits)
        for one, answer, digits in zip(typed, answers, meant, strict=True)
        if accepted(answer["send"]) != digits
    ]
    # A handful of plans strip and add digits that only the server knows of.
    assert len(wrong) < len(typed) / 100, wrong


@pytest.mark.parametrize("prefix", ["+", "", "00", "8", "+7", "+55", "+1", "+49"])
def test_nothing_that_the_server_accepts_is_refused_or_changed(prefix: str):
    chance = random.Random(prefix)  # noqa: S311  (the same numbers in every run)
    typed = [
        prefix + "".join(chance.choices("0123456789", k=length))
        for length in range(5, 15)
        for _ in range(150)
    ]
    pairs = [(text, HOME) for text in typed]
    answers = readings(pairs)
    refused, changed = [], []
    for text, answer in zip(typed, answers, strict=True):
        digits = accepted(text)
        if digits is not None and answer["trouble"]:
            refused.append((text, answer["trouble"], digits))
        elif digits is not None and accepted(answer["send"]) != digits:
            changed.append((text, answer["send"], digits))
    assert refused == []
    assert changed == []


def test_digits_are_neither_lost_nor_added_while_one_types():
    typed = [
        (text[:length], region)
        for region, number in numbers()
        for text in [written(number, PhoneNumberFormat.E164)]
        for length in range(1, len(text) + 1)
    ]
    lost = [
        (text, answer["written"])
        for (text, _region), answer in zip(typed, readings(typed), strict=True)
        if [sign for sign in answer["written"] if sign.isdigit()] != list(text[1:])
    ]
    assert lost == []
