"""Salons with backups, and the commands that make and restore them.

Import the fixture by name into a test module, and name it in its ``__all__``.
"""

import json
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.factories import make_salon, store_creds
from whatsapp.models import Salon, WhatsAppAuth, WhatsAppKey
from whatsapp.services import backup_file, sessions
from whatsapp.services.backup_file import Passphrase

SECRET = "correct horse battery staple"
LONG_AGO = datetime(2025, 10, 8, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def cheap_keys(settings, monkeypatch):
    """Spare tests the memory and the time that a guess is meant to cost."""
    monkeypatch.setattr(backup_file, "SCRYPT_N", 2**14)
    settings.WHATSAPP_BACKUP_PASSPHRASE = SECRET


def run(*words: object, **options: Any) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    streams: dict[str, Any] = {"stdout": out, "stderr": err} | options
    call_command(*map(str, words), no_color=True, **streams)
    return out.getvalue(), err.getvalue()


def back_up(salon: Salon, path: Path) -> Path:
    run("whatsapp_backup", salon.salon_id, path)
    return path


def restore(salon: Salon, path: Path, *words: object) -> str:
    return run("whatsapp_restore", salon.salon_id, path, *words)[0]


def refusals(salon: Salon, path: Path, *words: object) -> list[str]:
    """Return why a backup is refused, after a look that nothing has changed."""
    before = all_rows()
    out = StringIO()
    with pytest.raises(CommandError, match="is left as it is"):
        run("whatsapp_restore", salon.salon_id, path, "--json", *words, stdout=out)
    assert all_rows() == before
    told = json.loads(out.getvalue())
    assert told["restored"] is False
    return [refusal["code"] for refusal in told["refused"]]


def all_rows() -> list[Any]:
    """Return all rows that a restore may touch."""
    tables = (
        "whatsapp_auth",
        "whatsapp_keys",
        "whatsapp_whatsappsession",
        "whatsapp_archivedcredentials",
        "whatsapp_auditevent",
        "whatsapp_pairingattempt",
    )
    rows = []
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"TABLE {table}")
            rows.append((table, sorted(map(str, cursor.fetchall()))))
    return rows


def stored_texts(company_id: str) -> list[tuple[str, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT '', '', creds::text FROM whatsapp_auth WHERE company_id = %s"
            " UNION ALL SELECT key_type, key_id, value::text FROM whatsapp_keys"
            " WHERE company_id = %s ORDER BY 1, 2",
            [company_id, company_id],
        )
        return cursor.fetchall()


def stopped_salon(salon: Salon) -> Salon:
    """Leave the salon linked, and stopped, as whatsapp_disconnect does."""
    store_creds(salon)
    sessions.disconnect(salon, "staff")
    return salon


def lose_link(salon: Salon) -> None:
    """Let creds and keys be gone, as after a disaster."""
    WhatsAppAuth.objects.filter(company_id=salon.session_id).delete()
    WhatsAppKey.objects.filter(company_id=salon.session_id).delete()


def kept_salon(tmp_path: Path) -> tuple[Salon, Path]:
    """Return a stopped salon and its backup."""
    salon = stopped_salon(make_salon())
    return salon, back_up(salon, tmp_path / "kept")


OPENER = Passphrase(SECRET)
