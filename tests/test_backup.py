"""A salon's link goes into a file and comes back, whole or not at all."""

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError
from django.db import connection

from tests.backup_fixtures import (
    LONG_AGO,
    OPENER,
    SECRET,
    back_up,
    cheap_keys,
    kept_salon,
    lose_link,
    refusals,
    restore,
    run,
    stopped_salon,
    stored_texts,
)
from tests.factories import (
    PHONE,
    link,
    make_creds,
    make_keys,
    make_salon,
    store_creds,
    stored_rows,
)
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.services import (
    backup,
    backup_file,
    claims,
    credentials,
    sealing,
    sessions,
)
from whatsapp.services.backup_file import Passphrase

__all__ = ["cheap_keys"]

pytestmark = pytest.mark.django_db


# --- there and back -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["base64", "bytes", "index"])
def test_a_link_comes_back_to_the_letter(tmp_path: Path, form: str, settings):
    settings.CREDENTIAL_ENCRYPTION_KEYS = []
    salon = make_salon()
    store_creds(salon, make_creds(form=form), make_keys(form))
    with connection.cursor() as cursor:
        # Numbers that would not survive a way through floats.
        cursor.execute(
            "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value) VALUES"
            " (%s, 'session', 'odd', '{\"n\": 12345678901234567890123,"
            ' "f": 0.10000000000000000000000001, "t": "\\u2028 \\" ж"}\')',
            [salon.session_id],
        )
    before = stored_texts(salon.session_id)
    sessions.disconnect(salon, "staff")
    path = back_up(salon, tmp_path / "one")
    lose_link(salon)
    restore(salon, path)
    assert stored_texts(salon.session_id) == before
    assert len(before) == 12


def test_five_thousand_keys_come_back(tmp_path: Path):
    salon = stopped_salon(make_salon())
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
            " SELECT %s, 'pre-key', 'n' || n, jsonb_build_object('private',"
            " md5(n::text) || md5((-n)::text)) FROM generate_series(1, 5000) n",
            [salon.session_id],
        )
    before = stored_rows(salon)
    path = back_up(salon, tmp_path / "big")
    lose_link(salon)
    told = json.loads(restore(salon, path, "--json"))
    assert told["backup"]["keys"]["pre-key"] == 5001
    assert stored_rows(salon) == before


def test_what_is_restored_is_stopped_and_shuts_out_what_is_in_flight(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    epoch = WhatsAppSession.objects.get(salon=salon).epoch
    out = restore(salon, path)
    session = WhatsAppSession.objects.get(salon=salon)
    assert (session.status, session.wanted, session.phone) == ("stopped", False, PHONE)
    assert session.epoch > epoch
    assert salon.pk not in claims.candidates(10)
    assert "stopped" in out
    assert "throw each other out" in out


def test_with_connect_a_gateway_takes_it_up(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    restore(salon, path, "--connect")
    session = WhatsAppSession.objects.get(salon=salon)
    assert (session.status, session.wanted) == ("connecting", True)
    assert salon.pk in claims.candidates(10)


def test_keys_of_an_earlier_time_do_not_stay_beside_what_is_restored(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    WhatsAppAuth.objects.all().delete()
    WhatsAppKey.objects.create(
        company_id=salon.session_id, key_type="session", key_id="stray", value=1
    )
    restore(salon, path)
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_a_restore_makes_nothing_newer_than_it_is(tmp_path: Path):
    salon = stopped_salon(make_salon())
    WhatsAppAuth.objects.update(updated_at=LONG_AGO)
    WhatsAppKey.objects.update(updated_at=LONG_AGO)
    older = back_up(salon, tmp_path / "older")
    later = LONG_AGO + timedelta(hours=1)
    WhatsAppKey.objects.filter(key_type="session").update(value=2, updated_at=later)
    newer = back_up(salon, tmp_path / "newer")
    lose_link(salon)
    restore(salon, older)
    # The wrong one of two, as one sees afterwards: that needs no force.
    restore(salon, newer)
    assert stored_rows(salon)[1]["session", f"{PHONE}.0"] == 2
    assert refusals(salon, older) == ["newer_stored"]


def test_the_same_once_more_changes_no_row_of_the_link(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    before = stored_texts(salon.session_id)
    restore(salon, path)
    restore(salon, path, "--connect")
    assert stored_texts(salon.session_id) == before
    assert not ArchivedCredentials.objects.exists()


def test_another_salons_link_is_restored_only_if_that_is_said(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    other, third = make_salon(), make_salon()
    lose_link(salon)
    assert refusals(other, path) == ["other_salon"]
    assert refusals(other, path, "--from-salon", third.salon_id) == ["other_salon"]
    restore(other, path, "--from-salon", salon.session_id)
    assert stored_rows(other) == (make_creds(), make_keys())
    # And then not once more: one of them would throw the other out.
    assert refusals(salon, path, "--replace") == ["device_elsewhere"]


def test_what_lies_sealed_goes_to_an_installation_with_another_key(
    tmp_path: Path, settings
):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    salon = make_salon()
    link(salon)
    sessions.disconnect(salon, "staff")
    before = stored_rows(salon)
    assert before == (make_creds(), make_keys())
    path = back_up(salon, tmp_path / "kept")
    WhatsAppSession.objects.update(owner="")
    for keys in ([sealing.new_key()], []):
        lose_link(salon)
        settings.CREDENTIAL_ENCRYPTION_KEYS = keys
        restore(salon, path)
        assert stored_rows(salon) == before
        lying = stored_texts(salon.session_id)
        assert all(('"sealed"' in text) is bool(keys) for _type, _id, text in lying)
        # The same once more is the same, although no sealed value is ever the same.
        restore(salon, path)
        assert stored_texts(salon.session_id) == lying
    assert not ArchivedCredentials.objects.exists()


def test_what_cannot_be_opened_is_neither_kept_nor_replaced_by_accident(
    tmp_path: Path, settings
):
    key = sealing.new_key()
    settings.CREDENTIAL_ENCRYPTION_KEYS = [key]
    salon = make_salon()
    link(salon)
    sessions.disconnect(salon, "staff")
    path = back_up(salon, tmp_path / "kept")
    WhatsAppSession.objects.update(owner="")
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    with pytest.raises(CommandError, match="CREDENTIAL_ENCRYPTION_KEYS"):
        back_up(salon, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert refusals(salon, path) == ["unreadable"]
    restore(salon, path, "--replace")
    assert stored_rows(salon) == (make_creds(), make_keys())
    # The key turns up again: nothing was lost.
    settings.CREDENTIAL_ENCRYPTION_KEYS.append(key)
    with sessions.locked(salon):
        entry = ArchivedCredentials.objects.get(salon=salon)
        assert credentials.put_back(salon, "staff", entry)
    assert stored_rows(salon) == (make_creds(), make_keys())


# --- all of them ----------------------------------------------------------------------


def test_what_does_not_open_to_what_went_in_is_not_kept(tmp_path: Path, monkeypatch):
    seal = backup_file.seal

    def forgetful(content: bytes, passphrase: Passphrase) -> bytes:
        return seal(content.replace(b"Ivanova", b"Petrova"), passphrase)

    monkeypatch.setattr(backup_file, "seal", forgetful)
    salon = stopped_salon(make_salon(title="Ivanova"))
    with pytest.raises(CommandError, match="Nothing was kept"):
        back_up(salon, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_all_linked_salons_are_backed_up(tmp_path: Path):
    linked = [stopped_salon(make_salon()) for _ in range(2)]
    store_creds(make_salon(), make_creds(linked=False))
    make_salon()
    out, err = run("whatsapp_backup", "--all", tmp_path)
    assert "2 salons" in out
    assert err == ""
    found = sorted(tmp_path.iterdir())
    assert [backup.unpack(one.read_bytes(), OPENER).salon_id for one in found] == [
        salon.salon_id for salon in linked
    ]
    assert found[0].name.startswith(f"{linked[0].session_id}-2")


def test_one_bad_salon_does_not_stop_the_rest(tmp_path: Path, monkeypatch):
    bad, good = (stopped_salon(make_salon()) for _ in range(2))
    pack = backup_file.seal

    def picky(content: bytes, passphrase: Passphrase) -> bytes:
        if str(bad.salon_id).encode() in content:
            raise backup_file.BackupError("This one is too large.")
        return pack(content, passphrase)

    monkeypatch.setattr(backup_file, "seal", picky)
    out = StringIO()
    with pytest.raises(CommandError, match="too large") as error:
        run("whatsapp_backup", "--all", tmp_path, "--json", stdout=out)
    assert error.value.returncode == 1
    told = json.loads(out.getvalue())
    assert [one["session_id"] for one in told["salons"]] == [good.session_id]
    assert list(told["failed"]) == [bad.session_id]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_run_says_how_far_it_came(tmp_path: Path, monkeypatch):
    for _ in range(3):
        stopped_salon(make_salon())
    write = backup_file.write

    def interrupted(path: Path, data: bytes, *, force: bool) -> None:
        if list(tmp_path.iterdir()):
            raise KeyboardInterrupt
        write(path, data, force=force)

    monkeypatch.setattr(backup_file, "write", interrupted)
    with pytest.raises(CommandError, match="1 of 3") as error:
        run("whatsapp_backup", "--all", tmp_path)
    assert error.value.returncode == 130


@pytest.mark.parametrize(
    "words",
    [
        ["whatsapp_backup"],
        ["whatsapp_backup", "1"],
        ["whatsapp_backup", "1", "file", "--all", "."],
        ["whatsapp_backup", "--all", "missing"],
        ["whatsapp_backup", "999999", "file"],
        ["whatsapp_restore", "file"],
        ["whatsapp_restore", "999999", "file"],
    ],
)
def test_what_makes_no_sense_is_an_error(words: list[str]):
    with pytest.raises(CommandError):
        run(*words)


def test_a_salon_that_is_not_linked_has_no_backup(tmp_path: Path):
    salon = make_salon()
    with pytest.raises(CommandError, match="not linked"):
        back_up(salon, tmp_path / "kept")
    store_creds(salon, make_creds(linked=False))
    with pytest.raises(CommandError, match="not linked"):
        back_up(salon, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


# --- who has done what, and no secret -------------------------------------------------


def test_the_audit_knows_and_nothing_secret_is_said(tmp_path: Path, caplog):
    salon = stopped_salon(make_salon())
    path = tmp_path / "kept"
    said = [*run("whatsapp_backup", salon.salon_id, path)]
    lose_link(salon)
    said += run("whatsapp_restore", salon.salon_id, path)
    said += run("whatsapp_restore", path, "--verify", "--json")
    events = {event.action: event for event in AuditEvent.objects.filter(salon=salon)}
    assert events["backed_up"].detail == {"phone": "79***4567", "keys": 10}
    detail = events["backup_restored"].detail
    assert detail["phone"] == "79***4567"
    assert detail["from_salon"] == salon.salon_id
    assert {events[name].actor for name in ("backed_up", "backup_restored")} == {
        "command"
    }
    texts = "".join(
        [*said, caplog.text, *(json.dumps(event.detail) for event in events.values())]
    )
    creds = json.dumps(make_creds())
    for secret in (PHONE, SECRET, json.loads(creds)["advSecretKey"], "noiseKey"):
        assert secret not in texts
    assert SECRET not in repr(vars(OPENER)["_derived"])
    made = backup.unpack(path.read_bytes(), OPENER)
    assert "noiseKey" not in repr(made)
