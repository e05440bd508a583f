"""What is stored for a salon, and the few ways in which it may change."""

import json
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    PHONE,
    make_creds,
    make_keys,
    make_salon,
    store_creds,
    stored_rows,
)
from whatsapp.models import ArchivedCredentials, AuditEvent, WhatsAppAuth, WhatsAppKey
from whatsapp.services import archives, credentials, sessions
from whatsapp.services.credentials import CredsState

pytestmark = pytest.mark.django_db


def _new_keys() -> str:
    return json.dumps([{"t": "pre-key", "i": "7", "v": {"public": "new"}}])


def test_nothing_stored_is_absent():
    assert credentials.stored(make_salon()).state is CredsState.ABSENT


@pytest.mark.parametrize("form", ["base64", "bytes", "index"])
def test_creds_are_judged_whatever_form_their_binary_values_have(form):
    salon = make_salon()
    store_creds(salon, make_creds(form=form), make_keys(form))
    creds = credentials.stored(salon)
    assert (creds.state, creds.phone) == (CredsState.LINKED, PHONE)


@pytest.mark.parametrize(
    ("creds", "state", "phone"),
    [
        (make_creds(linked=False), CredsState.HALF_PAIRED, PHONE),
        (make_creds("", linked=False), CredsState.HALF_PAIRED, ""),
        ({}, CredsState.HALF_PAIRED, ""),
        (
            {"account": None, "me": {"id": f"{PHONE}:5@s.whatsapp.net"}},
            CredsState.HALF_PAIRED,
            PHONE,
        ),
        # ``account`` without a device number, and the other way round
        (
            {"account": {}, "me": {"id": f"{PHONE}@s.whatsapp.net"}},
            CredsState.HALF_PAIRED,
            PHONE,
        ),
        ({"account": {}, "me": "what"}, CredsState.HALF_PAIRED, ""),
        (
            {"registered": True, "me": {"id": f"{PHONE}:5@s.whatsapp.net"}},
            CredsState.HALF_PAIRED,
            PHONE,
        ),
        ([], CredsState.HALF_PAIRED, ""),
    ],
)
def test_only_account_and_device_make_creds_linked(creds, state, phone):
    salon = make_salon()
    store_creds(salon, creds, {})
    stored = credentials.stored(salon)
    assert (stored.state, stored.phone) == (state, phone)


def test_half_paired_creds_go_with_all_their_keys(caplog):
    salon, neighbour = make_salon(), make_salon()
    store_creds(salon, make_creds(linked=False))
    store_creds(neighbour, make_creds(OTHER_PHONE, linked=False))
    with sessions.locked(salon):
        assert credentials.discard_half_paired(salon, "page", OTHER_PHONE)
    assert stored_rows(salon) == (None, {})
    assert stored_rows(neighbour)[0] is not None
    event = AuditEvent.objects.get(salon=salon, action="phone_mismatch_cleanup")
    assert event.detail["kind"] == "half_paired"
    assert PHONE not in json.dumps(event.detail)
    record = next(r for r in caplog.records if "phone_mismatch_cleanup" in r.message)
    assert record.operation == "phone_mismatch_cleanup"
    assert PHONE not in str(vars(record))


def test_linked_creds_are_never_discarded_as_half_paired():
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        assert not credentials.discard_half_paired(salon, "page")
    assert stored_rows(salon)[0] == make_creds()


def test_a_swap_archives_what_was_linked_and_leaves_no_old_key():
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        credentials.swap(
            salon, json.dumps(make_creds(OTHER_PHONE)), _new_keys(), OTHER_PHONE
        )
    creds, keys = stored_rows(salon)
    assert creds == make_creds(OTHER_PHONE)
    assert keys == {("pre-key", "7"): {"public": "new"}}
    entry = ArchivedCredentials.objects.get(salon=salon)
    assert (entry.phone, entry.reason) == (PHONE, "replaced")
    assert AuditEvent.objects.filter(salon=salon, action="linked").exists()


def test_a_swap_removes_orphan_keys_of_an_earlier_time():
    salon = make_salon()
    store_creds(salon, None)
    WhatsAppAuth.objects.all().delete()
    with sessions.locked(salon):
        credentials.swap(salon, json.dumps(make_creds()), None, PHONE)
    assert stored_rows(salon) == (make_creds(), {})
    assert not ArchivedCredentials.objects.exists()


def test_creds_without_account_are_never_stored():
    salon = make_salon()
    store_creds(salon)
    with pytest.raises(ValueError, match="linked device"), sessions.locked(salon):
        credentials.swap(salon, json.dumps(make_creds(linked=False)), None, PHONE)
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_creds_and_keys_change_together_or_not_at_all():
    salon = make_salon()
    store_creds(salon)
    twice = json.dumps([{"t": "pre-key", "i": "7", "v": 1}] * 2)
    with pytest.raises(IntegrityError), sessions.locked(salon):
        credentials.swap(salon, json.dumps(make_creds(OTHER_PHONE)), twice, OTHER_PHONE)
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert not ArchivedCredentials.objects.exists()


@pytest.mark.parametrize("form", ["base64", "bytes", "index"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_the_archive_gives_back_exactly_what_it_took(settings, form, encrypted):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [Fernet.generate_key()] if encrypted else []
    salon = make_salon()
    store_creds(salon, make_creds(form=form), make_keys(form))
    with sessions.locked(salon):
        assert credentials.archive(salon, "logged_out")
    assert stored_rows(salon) == (None, {})
    entry = ArchivedCredentials.objects.get(salon=salon)
    assert entry.encrypted is encrypted
    assert (b"noiseKey" in bytes(entry.payload)) is False
    with sessions.locked(salon):
        assert credentials.restore(salon, "operator")
    assert stored_rows(salon) == (make_creds(form=form), make_keys(form))
    assert not ArchivedCredentials.objects.exists()


def test_an_archive_outlives_a_change_of_the_encryption_key(settings):
    old, new = Fernet.generate_key(), Fernet.generate_key()
    settings.CREDENTIAL_ENCRYPTION_KEYS = [old]
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
    settings.CREDENTIAL_ENCRYPTION_KEYS = [new, old]
    with sessions.locked(salon):
        assert credentials.restore(salon, "operator")


@pytest.mark.parametrize("keys", [[], [Fernet.generate_key()]])
def test_an_archive_whose_key_is_gone_is_kept_and_reported(settings, keys, caplog):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [Fernet.generate_key()]
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
    settings.CREDENTIAL_ENCRYPTION_KEYS = keys
    with sessions.locked(salon):
        assert not credentials.restore(salon, "operator")
    assert ArchivedCredentials.objects.count() == 1
    assert "encrypted" in caplog.text


def test_half_paired_rows_are_deleted_and_not_archived():
    salon = make_salon()
    store_creds(salon, make_creds(linked=False))
    with sessions.locked(salon):
        assert not credentials.archive(salon, "logged_out")
    assert stored_rows(salon) == (None, {})
    assert not ArchivedCredentials.objects.exists()


def test_nothing_is_restored_over_a_linked_device():
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        credentials.swap(salon, json.dumps(make_creds(OTHER_PHONE)), None, OTHER_PHONE)
        assert not credentials.restore(salon, "operator")
    assert stored_rows(salon)[0] == make_creds(OTHER_PHONE)


def test_nothing_archived_nothing_restored():
    salon = make_salon()
    with sessions.locked(salon):
        assert not credentials.restore(salon, "operator")


def test_only_the_archive_of_the_given_reason_and_time_is_restored():
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        credentials.archive(salon, "logged_out")
        assert not credentials.restore(salon, "system", only_reason="replaced")
        later = ArchivedCredentials.objects.get().archived_at + timedelta(seconds=1)
        assert not credentials.restore(salon, "system", since=later)
        assert credentials.restore(salon, "system", only_reason="logged_out")


def test_the_archive_is_purged_when_its_time_is_over(settings):
    settings.WHATSAPP_ARCHIVE_DAYS = 30
    salon = make_salon()
    store_creds(salon)
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
    assert archives.purge() == 0
    ArchivedCredentials.objects.update(
        archived_at=Now() - timedelta(days=31), purge_at=Now() - timedelta(days=1)
    )
    assert archives.purge() == 1


def test_an_archive_entry_must_be_kept_for_a_while():
    salon = make_salon()
    with pytest.raises(IntegrityError), transaction.atomic():
        ArchivedCredentials.objects.create(
            salon=salon, reason="x", purge_at=Now(), encrypted=False, payload=b""
        )


@pytest.mark.parametrize("status", ["open", "degraded", "connecting", "reconnecting"])
def test_a_phone_in_use_in_another_salon_is_live_elsewhere(status):
    salon, other = make_salon(), make_salon()
    with sessions.locked(other) as session:
        session.phone = "5511987654321"
        sessions.set_status(session, status)
    assert credentials.live_elsewhere(salon, "551187654321")
    assert not credentials.live_elsewhere(salon, "5521987654321")
    assert not credentials.live_elsewhere(other, "551187654321")


@pytest.mark.parametrize("status", ["stopped", "logged_out", "unlinked", "banned"])
def test_a_phone_that_is_not_in_use_is_free(status):
    salon, other = make_salon(), make_salon()
    with sessions.locked(other) as session:
        session.phone = PHONE
        sessions.set_status(session, status)
    assert not credentials.live_elsewhere(salon, PHONE)


def test_a_read_that_fails_raises_instead_of_looking_like_no_creds():
    salon = make_salon()
    store_creds(salon)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE whatsapp_auth RENAME TO whatsapp_auth_away")
    with pytest.raises(DatabaseError), transaction.atomic():
        credentials.stored(salon)


def test_every_kind_of_key_survives_an_archive():
    salon = make_salon()
    store_creds(salon)
    assert WhatsAppKey.objects.filter(company_id=salon.session_id).count() == 10
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
        credentials.restore(salon, "operator")
    assert {key.key_type for key in WhatsAppKey.objects.all()} == {
        key_type for key_type, _key_id in make_keys()
    }
