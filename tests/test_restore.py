"""What a restore refuses, says beforehand, and does while others are at work."""

import json
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError
from django.db import connection, transaction
from django.db.models.functions import Now

from tests import factories
from tests.backup_fixtures import (
    LONG_AGO,
    OPENER,
    all_rows,
    back_up,
    cheap_keys,
    kept_salon,
    lose_link,
    refusals,
    restore,
    run,
    stored_texts,
)
from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    claim,
    link,
    make_creds,
    make_keys,
    make_salon,
    open_attempt,
    store_creds,
    stored_rows,
)
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    PairingAttempt,
    Salon,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.services import (
    backup,
    backup_rows,
    claims,
    credentials,
    pairing,
    sessions,
)
from whatsapp.services.backup import Refusal

__all__ = ["cheap_keys"]

pytestmark = pytest.mark.django_db


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("status", ["open", "degraded", "connecting", "reconnecting"])
def test_a_session_that_runs_is_left_alone(tmp_path: Path, status: str):
    salon, path = kept_salon(tmp_path)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, wanted=True, owner=OWNER
    )
    assert refusals(salon, path, "--replace") == ["wanted"]
    with pytest.raises(CommandError, match="whatsapp_disconnect"):
        restore(salon, path)


def test_a_session_that_a_gateway_still_holds_is_left_alone(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    WhatsAppSession.objects.filter(salon=salon).update(owner=OWNER)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [claims.LOCK_CLASS, salon.pk])
        try:
            assert refusals(salon, path, "--replace") == ["held"]
        finally:
            cursor.execute("SELECT pg_advisory_unlock_all()")
    # A gateway that died without a word has no lock any more, and keeps nobody waiting.
    restore(salon, path)


def test_an_owner_may_come_back_to_a_database_that_has_just_started(
    tmp_path: Path, monkeypatch
):
    salon, path = kept_salon(tmp_path)
    WhatsAppSession.objects.filter(salon=salon).update(owner=OWNER)
    monkeypatch.setattr(claims, "GRACE_SECONDS", 1e9)
    assert refusals(salon, path) == ["held"]


def test_a_phone_that_is_just_being_linked_is_left_alone(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    pairing.request_code(salon, PHONE, "page")
    assert "linking" in refusals(salon, path, "--replace")
    sessions.disconnect(salon, "staff")
    assert open_attempt(salon) is None
    restore(salon, path)
    assert PairingAttempt.objects.get(salon=salon).stage == "cancelled"


def test_a_phone_in_use_in_another_salon_is_a_conflict(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    other = make_salon()
    store_creds(other, make_creds(device=9))
    link_status = WhatsAppSession.objects.filter(salon=other)
    link_status.update(status="open", phone=PHONE)
    assert refusals(salon, path, "--replace") == ["phone_elsewhere"]
    with pytest.raises(CommandError, match="CREDENTIALS_CONFLICT"):
        restore(salon, path)
    Salon.objects.filter(pk=salon.pk).update(shared_phone_allowed=True)
    restore(salon, path)


@pytest.mark.parametrize(
    "creds", [make_creds(OTHER_PHONE), make_creds(device=9)], ids=["phone", "device"]
)
def test_another_link_gives_way_only_if_that_is_wished(tmp_path: Path, creds):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    store_creds(salon, creds, {("pre-key", "other"): 1})
    assert refusals(salon, path) == ["other_link"]
    out = restore(salon, path, "--replace")
    assert "archive" in out
    assert stored_rows(salon) == (make_creds(), make_keys())
    entry = ArchivedCredentials.objects.get(salon=salon)
    assert entry.reason == "restored"
    sessions.reset(salon, "staff")
    with sessions.locked(salon):
        assert credentials.put_back(salon, "staff", entry)
    assert stored_rows(salon) == (creds, {("pre-key", "other"): 1})


def _touch_key(salon: Salon) -> None:
    WhatsAppKey.objects.filter(company_id=salon.session_id, key_type="session").update(
        value={"ratchet": "further"}, updated_at=Now() + timedelta(seconds=1)
    )


def _count_on(salon: Salon) -> None:
    # By a machine whose clock is slow.
    WhatsAppAuth.objects.filter(company_id=salon.session_id).update(
        creds=make_creds() | {"nextPreKeyId": 32}, updated_at=LONG_AGO
    )


@pytest.mark.parametrize("change", [_touch_key, _count_on])
def test_a_newer_state_of_the_same_device_is_not_rolled_back_by_accident(
    tmp_path: Path, change
):
    salon, path = kept_salon(tmp_path)
    change(salon)
    newer = stored_texts(salon.session_id)
    assert refusals(salon, path) == ["newer_stored"]
    with pytest.raises(CommandError, match="unreadable"):
        restore(salon, path)
    assert stored_texts(salon.session_id) == newer
    restore(salon, path, "--replace")
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert ArchivedCredentials.objects.get().reason == "restored"


def test_a_link_that_was_in_use_later_and_is_archived_comes_first(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    with sessions.locked(salon):
        credentials.archive(salon, "logged_out")
    ArchivedCredentials.objects.update(archived_at=Now() + timedelta(seconds=1))
    assert refusals(salon, path) == ["newer_archived"]
    restore(salon, path, "--replace")
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_all_that_speaks_against_it_is_said_at_once(tmp_path: Path):
    _salon, path = kept_salon(tmp_path)
    other = make_salon()
    link(other, OTHER_PHONE)
    assert refusals(other, path) == [
        "other_salon",
        "wanted",
        "device_elsewhere",
        "other_link",
    ]


def test_half_paired_creds_are_in_nobodys_way(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    store_creds(salon, make_creds(OTHER_PHONE, linked=False))
    restore(salon, path)
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert not ArchivedCredentials.objects.exists()
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").count() == 1


# --- looking only ---------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_and_changes_nothing(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    before = all_rows()
    out = restore(salon, path, "--dry-run")
    assert "Nothing was changed" in out
    assert "79***4567, device 5" in out
    assert "pre-key 1" in out
    assert all_rows() == before
    claim(salon)
    WhatsAppSession.objects.filter(salon=salon).update(status="open", wanted=True)
    assert refusals(salon, path, "--dry-run") == ["wanted"]


def test_a_file_is_verified_without_its_salon(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    Salon.objects.filter(pk=salon.pk).delete()
    out, _err = run("whatsapp_restore", path, "--verify")
    assert "The file is whole." in out
    told = json.loads(run("whatsapp_restore", path, "--verify", "--json")[0])
    assert (told["salon_id"], told["phone"], told["device"]) == (
        salon.salon_id,
        "79***4567",
        5,
    )
    assert sum(told["keys"].values()) == 10
    assert told["running"] is False


@pytest.mark.django_db(transaction=True)
def test_what_else_is_to_be_known_is_said(tmp_path: Path):
    salon = make_salon()
    link(salon)
    path = back_up(salon, tmp_path / "running")
    sessions.reset(salon, "staff")
    WhatsAppSession.objects.update(owner="")
    Salon.objects.filter(pk=salon.pk).update(expected_phone=OTHER_PHONE)
    told = json.loads(restore(salon, path, "--json", "--dry-run"))
    assert told["warnings"] == ["ran", "reset_since", "unexpected_phone"]
    assert told["backup"]["running"] is True
    assert told["backup"]["status"] == "open"
    out = restore(salon, path)
    assert out.count("WARNING") == 3


# --- others at work at the same time --------------------------------------------------


def _save(conninfo: str, salon: Salon, epoch: int, number: int) -> None:
    """Store creds and keys together, as a gateway does."""
    creds = json.dumps(make_creds() | {"nextPreKeyId": 100 + number})
    with closing(psycopg.connect(conninfo)) as other, other.transaction():
        other.execute(
            "UPDATE whatsapp_whatsappsession SET written = %s WHERE epoch = %s",
            [number, epoch],
        )
        other.execute("UPDATE whatsapp_auth SET creds = %s::jsonb", [creds])
        other.execute(
            "UPDATE whatsapp_keys SET value = %s::jsonb WHERE key_type = 'session'",
            [str(number)],
        )


@pytest.mark.django_db(transaction=True)
def test_a_backup_is_of_one_moment_whatever_is_written_meanwhile():
    salon = make_salon()
    epoch = link(salon)
    conninfo = psycopg.conninfo.make_conninfo(
        **{
            name: value
            for name, value in connection.get_connection_params().items()
            if name in ("host", "port", "user", "password", "dbname")
        }
    )
    numbers = iter(range(1, 100))

    def write_first(execute, sql, params, many, context):
        _save(conninfo, salon, epoch, next(numbers))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(write_first):
        found = backup_rows.export(salon)
    assert found is not None
    assert found.written >= 1
    session_key = next(
        entry["v"] for entry in json.loads(found.keys) if entry["t"] == "session"
    )
    creds = json.loads(found.creds)
    assert creds["nextPreKeyId"] - 100 == found.written == session_key


@pytest.mark.django_db(transaction=True)
def test_a_restore_that_is_cut_off_at_any_statement_leaves_nothing(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    store_creds(salon, make_creds(OTHER_PHONE), {("pre-key", "other"): 1})
    made = backup.unpack(path.read_bytes(), OPENER)
    before = all_rows()

    class Cut(Exception):
        pass

    def restored_before(statement: int) -> bool:
        """Return whether so many statements were enough."""
        left = iter(range(statement))

        def cut(execute, sql, params, many, context):
            if next(left, None) is None:
                raise Cut
            return execute(sql, params, many, context)

        with connection.execute_wrapper(cut):
            try:
                backup.restore(salon, made, "command", replace=True)
            except Cut:
                return False
        return True

    statement = 0
    while not restored_before(statement):
        assert all_rows() == before
        statement += 1
    assert statement > 10
    assert stored_rows(salon) == (make_creds(), make_keys())


@pytest.mark.django_db(transaction=True)
def test_a_restore_is_strictly_before_or_after_whoever_changes_the_link(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    made = backup.unpack(path.read_bytes(), OPENER)
    epoch = claim(salon)
    with transaction.atomic():
        outcome = backup.restore(salon, made, "command")
        assert outcome.refused == []
    # What the gateway of before has in flight finds another epoch.
    assert not sessions.record(salon, epoch, "open")
    assert sessions.start(salon, OWNER, epoch, "connecting") is None


def test_every_refusal_and_every_caution_has_words():
    from whatsapp.management.commands import whatsapp_restore

    assert set(whatsapp_restore._REFUSED) == set(Refusal)
    assert set(whatsapp_restore._CAUTIONS) == set(backup.Caution)
    assert factories.PHONE not in json.dumps(list(whatsapp_restore._REFUSED.values()))
