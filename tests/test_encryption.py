"""Encryption of what is stored: from plain, from key to key, and back; online."""

import json
import threading
import zlib
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection

from tests import factories
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    CredsIndex,
    Salon,
    SealingKey,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.services import (
    credentials,
    encryption,
    growth,
    health,
    legacy,
    sealing,
    sessions,
)

A, B = sealing.new_key(), sealing.new_key()

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def keys(settings):
    """Begin with none, and set them as an operator does."""

    def use(*names: str) -> None:
        settings.CREDENTIAL_ENCRYPTION_KEYS = list(names)

    use()
    return use


def _run(*words: str) -> str:
    out = StringIO()
    call_command("whatsapp_encrypt", *words, stdout=out, no_color=True)
    return out.getvalue()


def _report(*words: str) -> Any:
    return json.loads(_run("--json", *words))


def _linked(number: int | None = None) -> Salon:
    salon = factories.make_salon(number)
    factories.store_creds(salon)
    return salon


def _archived() -> Salon:
    salon = _linked()
    with sessions.locked(salon):
        assert credentials.archive(salon, "replaced")
    return salon


def _everything() -> list[tuple[Any, ...]]:
    """Return the rows as they lie, with the times of their last change."""
    return [
        *WhatsAppAuth.objects.order_by("company_id").values_list(),
        *WhatsAppKey.objects.order_by("pk").values_list(),
        *ArchivedCredentials.objects.order_by("pk").values_list("pk", "payload"),
    ]


def _all_are(kid: str) -> bool:
    found = encryption.lying().all()
    return set(found) == {kid}


SECRETS = ("noiseKey", "advSecretKey", "_sessions", "keyData", "fingerprint")


def _seen() -> set[str]:
    """Return the names of secrets that somebody who reads the tables sees."""
    text = "".join(
        str(value) for row in _everything() for value in row if value is not None
    )
    return {secret for secret in SECRETS if secret in text}


def test_what_lies_plain_is_sealed_and_reads_as_before(keys):
    salon, archived = _linked(), _archived()
    before = factories.stored_rows(salon)
    assert _seen() == set(SECRETS)
    keys(A)
    assert "12 rows are now encrypted" in _run()
    assert _all_are(sealing.current_kid())
    assert _seen() == set()
    assert factories.stored_rows(salon) == before
    with sessions.locked(archived):
        assert credentials.restore(archived, "operator")
    assert factories.stored_rows(archived) == before
    assert "is encrypted with" in _run()


def test_nothing_says_that_it_was_written_anew(keys):
    _linked()
    old = [row[-3:] for row in WhatsAppKey.objects.order_by("pk").values_list()]
    keys(A)
    _run()
    assert old == [row[-3:] for row in WhatsAppKey.objects.order_by("pk").values_list()]


def test_a_list_of_salons_needs_no_key(keys):
    salon = _linked()
    keys(A)
    _run()
    keys(B)
    stored = credentials.stored(salon)
    assert stored.linked
    assert stored.phone == factories.PHONE


def test_from_one_key_to_the_next(keys):
    keys(A)
    salon = _archived()
    with sessions.locked(salon):
        credentials.restore(salon, "operator")
    before = factories.stored_rows(salon)
    _archived()
    old = sealing.current_kid()
    assert _all_are(old)
    keys(B, A)
    report = _report()
    assert report["failed"] == {}
    assert report["forgotten"] == [old]
    assert _all_are(sealing.current_kid())
    keys(B)
    assert factories.stored_rows(salon) == before
    assert encryption.missing_keys() == []


def test_what_lay_sealed_in_an_archive_gets_the_new_key_as_well(keys):
    salon = _linked()
    keys(A)
    _run()
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
    keys(B, A)
    _run()
    keys(B)
    with sessions.locked(salon):
        assert credentials.restore(salon, "operator")
    assert factories.stored_rows(salon) == (
        factories.make_creds(),
        factories.make_keys(),
    )


def test_archives_of_earlier_versions_are_read_and_brought_over(keys):
    key = Fernet.generate_key().decode()
    salon = _archived()
    entry = ArchivedCredentials.objects.get()
    entry.payload, entry.encrypted = Fernet(key).encrypt(bytes(entry.payload)), True
    entry.save()
    keys(B, key)
    assert _report("--dry-run")["found"]["archives"] == {"fernet": 1}
    _run()
    keys(B)
    with sessions.locked(salon):
        assert credentials.restore(salon, "operator")
    assert factories.stored_rows(salon)[0] == factories.make_creds()


def test_all_of_it_can_be_opened_again(keys):
    salon = _linked()
    _archived()
    keys(A)
    _run()
    assert "stored plain" in _run("--decrypt")
    assert _all_are("")
    keys()
    # As bare Baileys, or the previous service, would read it.
    auth = WhatsAppAuth.objects.get(company_id=salon.session_id)
    assert auth.creds == factories.make_creds()
    entry = ArchivedCredentials.objects.get()
    archived = json.loads(zlib.decompress(bytes(entry.payload)))
    assert archived["creds"] == factories.make_creds()
    assert SealingKey.objects.filter(kid=sealing.current_kid()).count() == 0


def test_a_dry_run_counts_and_changes_nothing(keys):
    _linked()
    _archived()
    keys(A)
    before = _everything()
    assert "12 rows would be encrypted" in _run("--dry-run")
    report = _report("--dry-run")
    assert report["found"] == {
        "creds": {"plain": 1},
        "keys": {"plain": 10},
        "archives": {"plain": 1},
    }
    assert _everything() == before
    assert not SealingKey.objects.exists()


def test_it_can_be_interrupted_and_run_again(keys, monkeypatch):
    salons = [_linked() for _ in range(4)]
    keys(A)
    change = encryption._change_salon
    seen = []

    def interrupted(salon: Salon, kid: str) -> Any:
        seen.append(salon)
        rows = change(salon, kid)
        if len(seen) == 3:  # in the middle of a salon
            yield next(rows)
            raise KeyboardInterrupt
        yield from rows

    with monkeypatch.context() as patch:
        patch.setattr(encryption, "_change_salon", interrupted)
        with pytest.raises(CommandError, match="32 of 44 rows") as stopped:
            _run()
    assert stopped.value.returncode == 130
    for salon in salons:
        assert factories.stored_rows(salon) == (
            factories.make_creds(),
            factories.make_keys(),
        )
    assert "12 rows are now" in _run()
    assert _all_are(sealing.current_kid())


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ([B], []),
        ([B], ["--dry-run"]),
        ([B], ["--decrypt"]),
        ([], ["--decrypt"]),
    ],
)
def test_a_lost_key_is_named_and_nothing_is_touched(keys, left, words):
    _linked()
    _archived()
    keys(A)
    _run()
    lost = sealing.current_kid()
    before = _everything()
    keys(*left)
    with pytest.raises(CommandError, match=lost):
        _run(*words)
    assert _everything() == before
    assert encryption.missing_keys() == [lost]


def test_the_health_of_the_service_names_a_lost_key(keys):
    _linked()
    keys(A)
    _run()
    lost = sealing.current_kid()
    assert not any("lacks" in problem for problem in health.check().problems)
    keys(B)
    (problem,) = (one for one in health.check().problems if "lacks" in one)
    assert lost in problem
    assert "1 salons" in problem


def test_who_cannot_wait_for_the_key_links_anew_and_the_old_link_is_kept(keys):
    salon = _linked()
    keys(A)
    _run()
    keys(B)
    fresh = json.dumps(factories.make_creds(factories.OTHER_PHONE))
    with sessions.locked(salon):
        credentials.swap(salon, fresh, None, factories.OTHER_PHONE)
    assert factories.stored_rows(salon)[0] == json.loads(fresh)
    # Nobody can open it now, and says so; with its key it is as it was.
    with sessions.locked(salon):
        credentials.erase(salon)
        assert not credentials.restore(salon, "operator")
    keys(B, A)
    with sessions.locked(salon):
        assert credentials.restore(salon, "operator")
    assert factories.stored_rows(salon) == (
        factories.make_creds(),
        factories.make_keys(),
    )


def test_one_row_that_cannot_be_opened_keeps_nobody_else_from_it(keys):
    bad, good = _linked(), _linked()
    keys(A)
    _run()
    stranger = WhatsAppKey.objects.get(company_id=good.session_id, key_type="session")
    WhatsAppKey.objects.filter(company_id=bad.session_id, key_type="session").update(
        value=stranger.value
    )
    keys(B, A)
    with pytest.raises(CommandError, match=f"{bad.session_id}: damaged"):
        _run()
    keys(B)
    assert factories.stored_rows(good)[0] == factories.make_creds()


def test_without_a_key_it_says_how_to_make_one():
    with pytest.raises(CommandError, match="--new-key"):
        _run()
    assert len(_run("--new-key").strip()) == 44


def test_rows_of_strangers_are_left_to_the_takeover(keys):
    stranger = Salon(salon_id=4711)
    factories.store_creds(stranger)
    keys(A)
    assert "Everything is encrypted" in _run()
    assert factories.stored_rows(stranger)[0] == factories.make_creds()
    assert CredsIndex.objects.get().kid == ""


def test_a_sealed_link_and_an_old_copy_of_it_are_known_for_the_same(keys):
    salon = _linked(4711)
    keys(A)
    _run()
    old = Salon(salon_id=4711)
    WhatsAppAuth.objects.create(company_id="4711", creds=factories.make_creds())
    rows = {row.company_id: row for row in legacy.rows()}
    assert rows["4711"].device == rows[salon.session_id].device != ""
    assert rows[salon.session_id].form == "sealed"
    assert old.session_id == salon.session_id


def test_sealed_tokens_are_pruned_by_when_they_were_written(keys):
    old, new = _linked(), _linked()
    keys(A)
    _run()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_keys SET updated_at = now() - interval '60 days'"
            " WHERE company_id = %s",
            [old.session_id],
        )
    assert growth.prune(dry_run=True) == {"tctoken": 1}
    assert growth.prune() == {"tctoken": 1}
    tokens = WhatsAppKey.objects.filter(key_type="tctoken")
    assert [token.company_id for token in tokens] == [new.session_id]


def test_it_is_in_the_audit_once(keys):
    _linked()
    keys(A)
    _run()
    _run()
    (event,) = AuditEvent.objects.filter(action="encrypted")
    assert event.detail == {"rows": 11}


def test_a_gateway_says_which_key_is_missing_and_tries_those_who_waited(keys, caplog):
    salon = _linked()
    keys(A)
    _run()
    lost = sealing.current_kid()
    waiting = WhatsAppSession.objects.filter(salon=salon)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_whatsappsession SET status = 'needs_attention',"
            " reason = '1011', retry_at = now() + interval '1 hour'"
        )
    keys(B)
    encryption.welcome_gateway()
    assert f"lacks {lost}: the links of 1 salons" in caplog.text
    assert waiting.get().retry_at is None


@pytest.mark.django_db(transaction=True)
def test_no_write_of_a_gateway_is_lost_meanwhile(keys, monkeypatch):
    """A gateway's statement comes while a batch is being sealed: it is what stays."""
    salon = _linked()
    factories.claim(salon)
    keys(A)
    arrived = threading.Event()
    real = sealing.seal_keys

    def write() -> None:
        try:
            with connection.cursor() as cursor:
                # As the store does: the session's row first.
                cursor.execute("UPDATE whatsapp_whatsappsession SET written = 1")
                cursor.execute(
                    "UPDATE whatsapp_keys SET value = '{\"n\": 2}'"
                    " WHERE company_id = %s AND key_type = 'session'",
                    [salon.session_id],
                )
        finally:
            connection.close()

    writer = threading.Thread(target=write)

    def sealing_meanwhile(company_id: str, keys: str) -> str:
        if not arrived.is_set():
            arrived.set()
            writer.start()
        return real(company_id, keys)

    monkeypatch.setattr(sealing, "seal_keys", sealing_meanwhile)
    _run()
    writer.join()
    key_type, key_id = next(key for key in factories.make_keys() if key[0] == "session")
    assert factories.stored_rows(salon)[1][(key_type, key_id)] == {"n": 2}
