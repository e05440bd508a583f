"""A database of the previous service is taken over without touching a row of it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection, connections

from whatsapp.models import Salon, WhatsAppSession
from whatsapp.services import credentials

DUMP = Path(__file__).parent / "data" / "previous_service.sql"
ROWS = """
SELECT 'whatsapp_auth' AS source, company_id, '' AS type, '' AS id, creds::text AS value,
       created_at::text, updated_at::text, ''
FROM whatsapp_auth
UNION ALL
SELECT 'whatsapp_keys', company_id, key_type, key_id, value::text,
       created_at::text, updated_at::text, coalesce(expires_at::text, '')
FROM whatsapp_keys
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def empty_database(django_db_blocker: Any) -> Iterator[None]:
    """Point Django at a database of our own that has no table, for one test."""
    with django_db_blocker.unblock():
        name = f"test_previous_{uuid4().hex[:12]}"
        database = connections["default"]
        usual = database.settings_dict["NAME"]
        database.close()
        with database._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        database.close_pool()  # type: ignore[attr-defined]
        database.settings_dict["NAME"] = name
        try:
            yield
        finally:
            database.close()
            database.close_pool()  # type: ignore[attr-defined]
            database.settings_dict["NAME"] = usual
            with database._nodb_cursor() as cursor:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _query(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def _load_dump() -> None:
    with connection.cursor() as cursor:
        cursor.execute(DUMP.read_text())


def _migrate() -> None:
    call_command("migrate", fake_initial=True, verbosity=0, interactive=False)


@pytest.mark.usefixtures("empty_database", "django_db_setup")
def test_the_previous_service_s_database_is_adopted():
    _load_dump()
    before = _query(ROWS)
    assert len(before) > 15
    _migrate()
    assert _query(ROWS) == before

    sessions = {
        session.salon.salon_id: (session.status, session.phone)
        for session in WhatsAppSession.objects.select_related("salon")
    }
    assert sessions == {
        101: ("connecting", "79001234567"),
        102: ("connecting", "79001234568"),
        103: ("connecting", "79001234569"),
        104: ("unlinked", ""),  # half-paired
    }
    states = {
        salon.salon_id: credentials.stored(salon).state.value
        for salon in Salon.objects.all()
    }
    assert states == {101: "linked", 102: "linked", 103: "linked", 104: "half-paired"}

    _migrate()  # again: nothing to do
    assert _query(ROWS) == before
    assert Salon.objects.count() == 4


@pytest.mark.usefixtures("empty_database", "django_db_setup")
def test_an_adopted_database_has_the_columns_of_a_new_one():
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public'"
        " AND table_name LIKE 'whatsapp\\_%' ORDER BY 1, 2"
    )
    keys = (
        "SELECT conrelid::regclass::text, contype, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE contype = 'p'"
        " AND conrelid::regclass::text IN ('whatsapp_auth', 'whatsapp_keys') ORDER BY 1"
    )
    _load_dump()
    _migrate()
    adopted = _query(columns), _query(keys)
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    _migrate()

    def plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        # Django writes STATEMENT_TIMESTAMP() where the previous service wrote now().
        return [
            tuple(
                re.sub(r"statement_timestamp\(\)", "now()", value or "", flags=re.I)
                for value in row
            )
            for row in rows
        ]

    assert plain(adopted[0]) == plain(_query(columns))
    assert adopted[1] == _query(keys)


@pytest.mark.usefixtures("empty_database", "django_db_setup")
def test_an_adopted_database_is_written_as_before():
    _load_dump()
    _migrate()
    salon = Salon.objects.get(salon_id=101)
    assert credentials.archive(salon, "replaced")
    assert credentials.restore(salon, "operator")
    assert credentials.stored(salon).linked


@pytest.mark.usefixtures("empty_database", "django_db_setup")
def test_rows_that_are_nobody_s_are_left_for_an_operator():
    _load_dump()
    _migrate()
    orphans = _query(
        "SELECT company_id FROM whatsapp_auth WHERE company_id !~ '^company_[0-9]+$'"
    )
    assert orphans == [("105",)]


@pytest.mark.django_db
def test_the_models_are_what_the_migrations_make():
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
