"""A database full of what the previous service left: generated, invented, of any size."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from django.db import connection

from tests import factories
from whatsapp.models import WhatsAppAuth

LONG_AGO = datetime(2025, 10, 8, 4, 5, tzinfo=UTC)
FORMS = ("base64", "bytes", "index")

_registrations = count(1)


def creds(
    phone: str = factories.PHONE, *, linked: bool = True, **options: Any
) -> dict[str, Any]:
    """Return creds of a link of their own: no two calls give the same."""
    made = factories.make_creds(phone, linked=linked, **options)
    made["registrationId"] = next(_registrations)
    return made


def leave_auth(
    company_id: str, value: dict[str, Any], written_at: datetime = LONG_AGO
) -> None:
    """Write creds as an earlier time left them."""
    WhatsAppAuth.objects.create(
        company_id=company_id,
        creds=value,
        created_at=written_at,
        updated_at=written_at,
    )


# Pre-keys in the form of the creds, by turns with Signal sessions and mappings.
_KEYS = """
INSERT INTO whatsapp_keys
    (company_id, key_type, key_id, value, created_at, updated_at, expires_at)
SELECT %(id)s, (ARRAY['pre-key', 'pre-key', 'session', 'lid-mapping'])[1 + n %% 4],
       (%(first)s + n)::text,
       jsonb_build_object('of', %(mark)s::text, 'private', CASE %(form)s
           WHEN 'bytes' THEN jsonb_build_object('type', 'Buffer', 'data', (
               SELECT jsonb_agg((n + i) %% 256) FROM generate_series(1, 32) i))
           WHEN 'index' THEN (
               SELECT jsonb_object_agg(i, (n + i) %% 256) FROM generate_series(0, 31) i)
           ELSE jsonb_build_object('type', 'Buffer', 'data',
               encode(decode(md5(n::text) || md5(n::text), 'hex'), 'base64')) END),
       %(at)s, %(at)s, %(at)s::timestamptz + interval '7 days'
FROM generate_series(1, %(count)s) n
"""


def leave_keys(
    company_id: str,
    number: int,
    *,
    mark: str = "",
    form: str = "base64",
    written_at: datetime = LONG_AGO,
    first: int = 0,
) -> None:
    """Write keys with the date on which they were meant to expire, set-based."""
    with connection.cursor() as cursor:
        cursor.execute(
            _KEYS,
            {
                "id": company_id,
                "first": first,
                "mark": mark or company_id,
                "form": form,
                "at": written_at,
                "count": number,
            },
        )


def add_companies(*rows: tuple[int | None, int, str, str]) -> None:
    """Make the marketplace's table; rows of yclients_id, company_id, title, status."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE companies (id serial PRIMARY KEY,"
            " company_id integer NOT NULL, yclients_id integer,"
            " title varchar(255), integration_status varchar(100),"
            " updated_at timestamp DEFAULT now(), raw_data jsonb)"
        )
        cursor.executemany(
            "INSERT INTO companies (yclients_id, company_id, title, integration_status)"
            " VALUES (%s, %s, %s, %s)",
            rows,
        )


@dataclass(frozen=True, slots=True)
class Left:
    """What was generated."""

    linked: set[int]
    """Salons that have a link, under whatever id."""
    newest: dict[int, int]
    """The registration of the link that must be kept, by salon."""
    keys: int


def leave(salons: int, keys: int, first: int = 1) -> Left:
    """Fill the tables with salons of every kind, by turns.

    Args:
        salons: how many.
        keys: how many keys, all in all; every row has its part of them.
        first: the first salon id.
    """
    linked: set[int] = set()
    newest: dict[int, int] = {}
    each, total = max(1, keys // salons), 0
    for number in range(first, first + salons):
        phone, form = f"7911{number:07d}", FORMS[number % 3]
        own, old = f"company_{number}", str(number)
        later = LONG_AGO + timedelta(days=1)
        # id, linked or not (None: no creds), when
        kinds: dict[int, list[tuple[str, bool | None, datetime]]] = {
            0: [(own, True, LONG_AGO)],
            1: [(old, True, LONG_AGO)],
            2: [(own, True, LONG_AGO), (old, True, later)],
            3: [(own, True, later), (old, True, LONG_AGO)],
            4: [(own, False, later), (old, True, LONG_AGO)],
            5: [(own, True, LONG_AGO), (old, False, later)],
            6: [(own, False, LONG_AGO)],
            7: [(old, None, LONG_AGO)],
            8: [(own, True, LONG_AGO), (old, None, later)],
            9: [(own, True, LONG_AGO)],
        }
        rows = kinds[number % 10]
        for company_id, is_linked, at in rows:
            if is_linked is not None:
                value = creds(phone, linked=is_linked, form=form)
                leave_auth(company_id, value, at)
                if is_linked and (number not in newest or at == later):
                    newest[number] = value["registrationId"]
                    linked.add(number)
            leave_keys(company_id, each // len(rows), form=form, written_at=at)
            total += each // len(rows)
    return Left(linked, newest, total)
