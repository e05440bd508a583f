"""A salon's link goes into a file and comes back, whole or not at all."""

import getpass
import io
import json
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models.functions import Now
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests import factories
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
    backup_file,
    backup_rows,
    claims,
    credentials,
    pairing,
    sealing,
    sessions,
)
from whatsapp.services.backup import Refusal
from whatsapp.services.backup_file import Passphrase

pytestmark = pytest.mark.django_db

SECRET = "correct horse battery staple"
LONG_AGO = datetime(2025, 10, 8, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def cheap_keys(settings, monkeypatch):
    """Spare tests the memory and the time that a guess is meant to cost."""
    monkeypatch.setattr(backup_file, "SCRYPT_N", 2**14)
    settings.WHATSAPP_BACKUP_PASSPHRASE = SECRET


def _run(*words: object, **options: Any) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    streams: dict[str, Any] = {"stdout": out, "stderr": err} | options
    call_command(*map(str, words), no_color=True, **streams)
    return out.getvalue(), err.getvalue()


def _back_up(salon: Salon, path: Path) -> Path:
    _run("whatsapp_backup", salon.salon_id, path)
    return path


def _restore(salon: Salon, path: Path, *words: object) -> str:
    return _run("whatsapp_restore", salon.salon_id, path, *words)[0]


def _refusals(salon: Salon, path: Path, *words: object) -> list[str]:
    """Return why a backup is refused, after a look that nothing has changed."""
    before = _everything()
    out = StringIO()
    with pytest.raises(CommandError, match="is left as it is"):
        _run("whatsapp_restore", salon.salon_id, path, "--json", *words, stdout=out)
    assert _everything() == before
    told = json.loads(out.getvalue())
    assert told["restored"] is False
    return [refusal["code"] for refusal in told["refused"]]


def _everything() -> list[Any]:
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


def _texts(company_id: str) -> list[tuple[str, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT '', '', creds::text FROM whatsapp_auth WHERE company_id = %s"
            " UNION ALL SELECT key_type, key_id, value::text FROM whatsapp_keys"
            " WHERE company_id = %s ORDER BY 1, 2",
            [company_id, company_id],
        )
        return cursor.fetchall()


def _stopped(salon: Salon) -> Salon:
    """Leave the salon linked, and stopped, as whatsapp_disconnect does."""
    store_creds(salon)
    sessions.disconnect(salon, "staff")
    return salon


def _lose(salon: Salon) -> None:
    """Let creds and keys be gone, as after a disaster."""
    WhatsAppAuth.objects.filter(company_id=salon.session_id).delete()
    WhatsAppKey.objects.filter(company_id=salon.session_id).delete()


def _kept(tmp_path: Path) -> tuple[Salon, Path]:
    """Return a stopped salon and its backup."""
    salon = _stopped(make_salon())
    return salon, _back_up(salon, tmp_path / "kept")


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
    before = _texts(salon.session_id)
    sessions.disconnect(salon, "staff")
    path = _back_up(salon, tmp_path / "one")
    _lose(salon)
    _restore(salon, path)
    assert _texts(salon.session_id) == before
    assert len(before) == 12


def test_five_thousand_keys_come_back(tmp_path: Path):
    salon = _stopped(make_salon())
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
            " SELECT %s, 'pre-key', 'n' || n, jsonb_build_object('private',"
            " md5(n::text) || md5((-n)::text)) FROM generate_series(1, 5000) n",
            [salon.session_id],
        )
    before = stored_rows(salon)
    path = _back_up(salon, tmp_path / "big")
    _lose(salon)
    told = json.loads(_restore(salon, path, "--json"))
    assert told["backup"]["keys"]["pre-key"] == 5001
    assert stored_rows(salon) == before


def test_what_is_restored_is_stopped_and_shuts_out_what_is_in_flight(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    epoch = WhatsAppSession.objects.get(salon=salon).epoch
    out = _restore(salon, path)
    session = WhatsAppSession.objects.get(salon=salon)
    assert (session.status, session.wanted, session.phone) == ("stopped", False, PHONE)
    assert session.epoch > epoch
    assert salon.pk not in claims.candidates(10)
    assert "stopped" in out
    assert "throw each other out" in out


def test_with_connect_a_gateway_takes_it_up(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    _restore(salon, path, "--connect")
    session = WhatsAppSession.objects.get(salon=salon)
    assert (session.status, session.wanted) == ("connecting", True)
    assert salon.pk in claims.candidates(10)


def test_keys_of_an_earlier_time_do_not_stay_beside_what_is_restored(tmp_path: Path):
    salon, path = _kept(tmp_path)
    WhatsAppAuth.objects.all().delete()
    WhatsAppKey.objects.create(
        company_id=salon.session_id, key_type="session", key_id="stray", value=1
    )
    _restore(salon, path)
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_a_restore_makes_nothing_newer_than_it_is(tmp_path: Path):
    salon = _stopped(make_salon())
    WhatsAppAuth.objects.update(updated_at=LONG_AGO)
    WhatsAppKey.objects.update(updated_at=LONG_AGO)
    older = _back_up(salon, tmp_path / "older")
    later = LONG_AGO + timedelta(hours=1)
    WhatsAppKey.objects.filter(key_type="session").update(value=2, updated_at=later)
    newer = _back_up(salon, tmp_path / "newer")
    _lose(salon)
    _restore(salon, older)
    # The wrong one of two, as one sees afterwards: that needs no force.
    _restore(salon, newer)
    assert stored_rows(salon)[1]["session", f"{PHONE}.0"] == 2
    assert _refusals(salon, older) == ["newer_stored"]


def test_the_same_once_more_changes_no_row_of_the_link(tmp_path: Path):
    salon, path = _kept(tmp_path)
    before = _texts(salon.session_id)
    _restore(salon, path)
    _restore(salon, path, "--connect")
    assert _texts(salon.session_id) == before
    assert not ArchivedCredentials.objects.exists()


def test_another_salons_link_is_restored_only_if_that_is_said(tmp_path: Path):
    salon, path = _kept(tmp_path)
    other, third = make_salon(), make_salon()
    _lose(salon)
    assert _refusals(other, path) == ["other_salon"]
    assert _refusals(other, path, "--from-salon", third.salon_id) == ["other_salon"]
    _restore(other, path, "--from-salon", salon.session_id)
    assert stored_rows(other) == (make_creds(), make_keys())
    # And then not once more: one of them would throw the other out.
    assert _refusals(salon, path, "--replace") == ["device_elsewhere"]


def test_what_lies_sealed_goes_to_an_installation_with_another_key(
    tmp_path: Path, settings
):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    salon = make_salon()
    link(salon)
    sessions.disconnect(salon, "staff")
    before = stored_rows(salon)
    assert before == (make_creds(), make_keys())
    path = _back_up(salon, tmp_path / "kept")
    WhatsAppSession.objects.update(owner="")
    for keys in ([sealing.new_key()], []):
        _lose(salon)
        settings.CREDENTIAL_ENCRYPTION_KEYS = keys
        _restore(salon, path)
        assert stored_rows(salon) == before
        lying = _texts(salon.session_id)
        assert all(('"sealed"' in text) is bool(keys) for _type, _id, text in lying)
        # The same once more is the same, although no sealed value is ever the same.
        _restore(salon, path)
        assert _texts(salon.session_id) == lying
    assert not ArchivedCredentials.objects.exists()


def test_what_cannot_be_opened_is_neither_kept_nor_replaced_by_accident(
    tmp_path: Path, settings
):
    key = sealing.new_key()
    settings.CREDENTIAL_ENCRYPTION_KEYS = [key]
    salon = make_salon()
    link(salon)
    sessions.disconnect(salon, "staff")
    path = _back_up(salon, tmp_path / "kept")
    WhatsAppSession.objects.update(owner="")
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    with pytest.raises(CommandError, match="CREDENTIAL_ENCRYPTION_KEYS"):
        _back_up(salon, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert _refusals(salon, path) == ["unreadable"]
    _restore(salon, path, "--replace")
    assert stored_rows(salon) == (make_creds(), make_keys())
    # The key turns up again: nothing was lost.
    settings.CREDENTIAL_ENCRYPTION_KEYS.append(key)
    with sessions.locked(salon):
        entry = ArchivedCredentials.objects.get(salon=salon)
        assert credentials.put_back(salon, "staff", entry)
    assert stored_rows(salon) == (make_creds(), make_keys())


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("status", ["open", "degraded", "connecting", "reconnecting"])
def test_a_session_that_runs_is_left_alone(tmp_path: Path, status: str):
    salon, path = _kept(tmp_path)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, wanted=True, owner=OWNER
    )
    assert _refusals(salon, path, "--replace") == ["wanted"]
    with pytest.raises(CommandError, match="whatsapp_disconnect"):
        _restore(salon, path)


def test_a_session_that_a_gateway_still_holds_is_left_alone(tmp_path: Path):
    salon, path = _kept(tmp_path)
    WhatsAppSession.objects.filter(salon=salon).update(owner=OWNER)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [claims.LOCK_CLASS, salon.pk])
        try:
            assert _refusals(salon, path, "--replace") == ["held"]
        finally:
            cursor.execute("SELECT pg_advisory_unlock_all()")
    # A gateway that died without a word has no lock any more, and keeps nobody waiting.
    _restore(salon, path)


def test_an_owner_may_come_back_to_a_database_that_has_just_started(
    tmp_path: Path, monkeypatch
):
    salon, path = _kept(tmp_path)
    WhatsAppSession.objects.filter(salon=salon).update(owner=OWNER)
    monkeypatch.setattr(claims, "GRACE_SECONDS", 1e9)
    assert _refusals(salon, path) == ["held"]


def test_a_phone_that_is_just_being_linked_is_left_alone(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    pairing.request_code(salon, PHONE, "page")
    assert "linking" in _refusals(salon, path, "--replace")
    sessions.disconnect(salon, "staff")
    assert open_attempt(salon) is None
    _restore(salon, path)
    assert PairingAttempt.objects.get(salon=salon).stage == "cancelled"


def test_a_phone_in_use_in_another_salon_is_a_conflict(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    other = make_salon()
    store_creds(other, make_creds(device=9))
    link_status = WhatsAppSession.objects.filter(salon=other)
    link_status.update(status="open", phone=PHONE)
    assert _refusals(salon, path, "--replace") == ["phone_elsewhere"]
    with pytest.raises(CommandError, match="CREDENTIALS_CONFLICT"):
        _restore(salon, path)
    Salon.objects.filter(pk=salon.pk).update(shared_phone_allowed=True)
    _restore(salon, path)


@pytest.mark.parametrize(
    "creds", [make_creds(OTHER_PHONE), make_creds(device=9)], ids=["phone", "device"]
)
def test_another_link_gives_way_only_if_that_is_wished(tmp_path: Path, creds):
    salon, path = _kept(tmp_path)
    _lose(salon)
    store_creds(salon, creds, {("pre-key", "other"): 1})
    assert _refusals(salon, path) == ["other_link"]
    out = _restore(salon, path, "--replace")
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
    salon, path = _kept(tmp_path)
    change(salon)
    newer = _texts(salon.session_id)
    assert _refusals(salon, path) == ["newer_stored"]
    with pytest.raises(CommandError, match="unreadable"):
        _restore(salon, path)
    assert _texts(salon.session_id) == newer
    _restore(salon, path, "--replace")
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert ArchivedCredentials.objects.get().reason == "restored"


def test_a_link_that_was_in_use_later_and_is_archived_comes_first(tmp_path: Path):
    salon, path = _kept(tmp_path)
    with sessions.locked(salon):
        credentials.archive(salon, "logged_out")
    ArchivedCredentials.objects.update(archived_at=Now() + timedelta(seconds=1))
    assert _refusals(salon, path) == ["newer_archived"]
    _restore(salon, path, "--replace")
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_all_that_speaks_against_it_is_said_at_once(tmp_path: Path):
    _salon, path = _kept(tmp_path)
    other = make_salon()
    link(other, OTHER_PHONE)
    assert _refusals(other, path) == [
        "other_salon",
        "wanted",
        "device_elsewhere",
        "other_link",
    ]


def test_half_paired_creds_are_in_nobodys_way(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    store_creds(salon, make_creds(OTHER_PHONE, linked=False))
    _restore(salon, path)
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert not ArchivedCredentials.objects.exists()
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").count() == 1


# --- looking only ---------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_and_changes_nothing(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    before = _everything()
    out = _restore(salon, path, "--dry-run")
    assert "Nothing was changed" in out
    assert "79***4567, device 5" in out
    assert "pre-key 1" in out
    assert _everything() == before
    claim(salon)
    WhatsAppSession.objects.filter(salon=salon).update(status="open", wanted=True)
    assert _refusals(salon, path, "--dry-run") == ["wanted"]


def test_a_file_is_verified_without_its_salon(tmp_path: Path):
    salon, path = _kept(tmp_path)
    _lose(salon)
    Salon.objects.filter(pk=salon.pk).delete()
    out, _err = _run("whatsapp_restore", path, "--verify")
    assert "The file is whole." in out
    told = json.loads(_run("whatsapp_restore", path, "--verify", "--json")[0])
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
    path = _back_up(salon, tmp_path / "running")
    sessions.reset(salon, "staff")
    WhatsAppSession.objects.update(owner="")
    Salon.objects.filter(pk=salon.pk).update(expected_phone=OTHER_PHONE)
    told = json.loads(_restore(salon, path, "--json", "--dry-run"))
    assert told["warnings"] == ["ran", "reset_since", "unexpected_phone"]
    assert told["backup"]["running"] is True
    assert told["backup"]["status"] == "open"
    out = _restore(salon, path)
    assert out.count("WARNING") == 3


# --- the file -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_file() -> bytes:
    """Return a small file, and derive its key once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_file, "SCRYPT_N", 2**14)
        return backup_file.seal(b'{"a": 1}', OPENER)


OPENER = Passphrase(SECRET)


@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_file_in_which_any_byte_was_changed_opens_nothing(small_file, data):
    at = data.draw(st.integers(0, len(small_file) - 1))
    flips = data.draw(st.integers(1, 255))
    forged = bytearray(small_file)
    forged[at] ^= flips
    with pytest.raises(backup_file.BackupError):
        backup_file.unseal(bytes(forged), OPENER)


def test_a_file_that_was_cut_off_anywhere_opens_nothing(small_file):
    assert backup_file.unseal(small_file, OPENER) == b'{"a": 1}'
    for length in range(len(small_file)):
        with pytest.raises(backup_file.BackupError):
            backup_file.unseal(small_file[:length], OPENER)
    with pytest.raises(backup_file.Damaged):
        backup_file.unseal(small_file + b"\0", OPENER)


@pytest.mark.parametrize("at", [0, 20, 60, -1, -200])
def test_nothing_changes_by_a_damaged_file(tmp_path: Path, at: int):
    salon, path = _kept(tmp_path)
    _lose(salon)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    before = _everything()
    with pytest.raises(CommandError, match="damaged"):
        _restore(salon, path)
    assert _everything() == before


def test_a_content_that_does_not_add_up_is_refused(tmp_path: Path):
    _salon, path = _kept(tmp_path)
    content = json.loads(backup_file.unseal(path.read_bytes(), OPENER))
    half = json.loads(content["keys"])[:5]
    lies = [
        {"keys": json.dumps(half)},
        {"keys": json.dumps(half + half)},
        {"counts": {"pre-key": 11}},
        {"counts": {"pre-key": 10}},
        {"creds": json.dumps(make_creds(OTHER_PHONE))},
        {"creds": json.dumps(make_creds(linked=False)), "me": "x"},
        {"creds": "{"},
        {"keys": "[1]"},
        {"taken_at": "yesterday"},
        {"more": 1},
    ]
    backup.unpack(backup_file.seal(json.dumps(content).encode(), OPENER), OPENER)
    for lie in lies:
        forged = backup_file.seal(json.dumps(content | lie).encode(), OPENER)
        with pytest.raises(backup_file.Damaged):
            backup.unpack(forged, OPENER)


def test_what_the_database_does_not_take_changes_nothing(tmp_path: Path, settings):
    settings.CREDENTIAL_ENCRYPTION_KEYS = []  # sealed, it takes everything
    salon, path = _kept(tmp_path)
    content = json.loads(backup_file.unseal(path.read_bytes(), OPENER))
    keys = json.loads(content["keys"])
    keys[0]["v"] = "\0"  # JSON, and none for PostgreSQL
    content["keys"] = json.dumps(keys)
    path.write_bytes(backup_file.seal(json.dumps(content).encode(), OPENER))
    _lose(salon)
    store_creds(salon, make_creds(OTHER_PHONE))
    before = _everything()
    with pytest.raises(CommandError, match="Nothing was changed"):
        _restore(salon, path, "--replace")
    assert _everything() == before


def test_a_wrong_passphrase_is_told_from_a_damaged_file(tmp_path: Path, settings):
    salon, path = _kept(tmp_path)
    settings.WHATSAPP_BACKUP_PASSPHRASE = SECRET + "!"
    before = _everything()
    with pytest.raises(CommandError, match="not the passphrase"):
        _restore(salon, path)
    assert _everything() == before


def test_a_file_of_a_newer_version_says_so(tmp_path: Path):
    salon, path = _kept(tmp_path)
    line, _newline, rest = path.read_bytes().partition(b"\n")
    head = json.dumps(json.loads(line) | {"version": 2}).encode()
    path.write_bytes(head + b"\n" + rest)
    with pytest.raises(CommandError, match="update it first"):
        _restore(salon, path)


@pytest.mark.parametrize(
    "what",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[1]\n",
        b"x" * 100_000,
        b"[" * 4000 + b"\n",
        b'{"format": "aiadmin.whatsapp.backup", "version": 1}\n',
    ],
)
def test_what_is_no_backup_is_called_so(tmp_path: Path, what: bytes):
    path = tmp_path / "file"
    path.write_bytes(what)
    with pytest.raises(CommandError, match=r"no backup|damaged"):
        _run("whatsapp_restore", path, "--verify")


@pytest.mark.parametrize("wish", [{"n": 2**40}, {"n": "x"}, {"r": 1000}, {"salt": 1}])
def test_a_forged_file_cannot_ask_for_all_memory(tmp_path: Path, wish):
    _salon, path = _kept(tmp_path)
    line, _newline, rest = path.read_bytes().partition(b"\n")
    forged = json.dumps(json.loads(line) | wish).encode() + b"\n" + rest
    with pytest.raises(backup_file.Damaged):
        backup.unpack(forged, OPENER)


def test_neither_a_file_nor_what_it_unpacks_to_is_without_bounds(
    tmp_path: Path, monkeypatch
):
    salon, path = _kept(tmp_path)
    bomb = backup_file.seal(b"0" * 10_000, OPENER)
    monkeypatch.setattr(backup_file, "MAX_CONTENT_BYTES", 1000)
    with pytest.raises(backup_file.Damaged, match="more than 1000"):
        backup_file.unseal(bomb, OPENER)
    with pytest.raises(CommandError, match="no link"):
        _back_up(salon, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr(backup_file, "MAX_FILE_BYTES", 1000)
    with pytest.raises(CommandError, match="too large"):
        _run("whatsapp_restore", path, "--verify")


def test_the_first_line_tells_nothing_of_the_salon(tmp_path: Path):
    salon, path = _kept(tmp_path)
    line, _newline, rest = path.read_bytes().partition(b"\n")
    assert set(json.loads(line)) == {
        "format",
        "version",
        "made",
        "cipher",
        "nonce",
        "kdf",
        "n",
        "r",
        "p",
        "salt",
        "check",
    }
    for secret in (PHONE, str(salon.salon_id), "noiseKey", "Ромашка"):
        assert secret.encode() not in line + rest


def test_two_files_of_one_run_share_no_nonce():
    lines = [json.loads(backup_file.seal(b"x", OPENER).splitlines()[0]) for _ in "12"]
    assert lines[0]["salt"] == lines[1]["salt"]
    assert lines[0]["nonce"] != lines[1]["nonce"]


# --- on disk --------------------------------------------------------------------------


def test_a_file_is_for_its_owner_and_overwrites_nothing(tmp_path: Path):
    salon, path = _kept(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    with pytest.raises(CommandError, match="--force"):
        _back_up(salon, path)
    assert path.read_bytes() == first
    _run("whatsapp_backup", salon.salon_id, path, "--force")
    assert path.read_bytes() != first
    _run("whatsapp_restore", path, "--verify")
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch, force
):
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "kept"
    if force:
        path.write_bytes(b"the one before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CommandError, match="No space left"):
        _run(
            "whatsapp_backup",
            _stopped(make_salon()).salon_id,
            path,
            *(["--force"] if force else []),
        )
    assert [one.read_bytes() for one in tmp_path.iterdir()] == (
        [b"the one before"] if force else []
    )


def test_a_file_system_without_second_names_will_do(tmp_path: Path, monkeypatch):
    def cannot(_path: Path, _other: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", cannot)
    _salon, path = _kept(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(FileExistsError):
        backup_file.write(path, b"x")
    assert path.read_bytes() != b"x"


def test_a_disk_that_reads_something_else_is_noticed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda _path: b"something else")
    with pytest.raises(backup_file.Damaged):
        backup_file.write(tmp_path / "kept", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_goes_through_a_pipe(tmp_path: Path, monkeypatch):
    salon = _stopped(make_salon())
    pipe = io.BytesIO()
    out = io.TextIOWrapper(pipe)
    err = StringIO()
    _run("whatsapp_backup", salon.salon_id, "-", stdout=out, stderr=err)
    data = pipe.getvalue()
    assert data.startswith(b'{"format"')
    assert "79***4567" in err.getvalue()
    _lose(salon)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    _restore(salon, Path("-"))
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_no_backup_goes_to_a_terminal(monkeypatch):
    out = StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    with pytest.raises(CommandError, match="terminal"):
        _run("whatsapp_backup", _stopped(make_salon()).salon_id, "-", stdout=out)


@pytest.mark.parametrize("path", ["missing/kept", "."])
def test_a_place_that_is_none_is_an_error(tmp_path: Path, path: str):
    salon = _stopped(make_salon())
    with pytest.raises(CommandError, match=r"cannot be written|is there already"):
        _back_up(salon, tmp_path / path)
    with pytest.raises(CommandError, match="Cannot read"):
        _restore(salon, tmp_path / path)


# --- the passphrase -------------------------------------------------------------------


def test_the_passphrase_may_be_in_a_file(tmp_path: Path, settings):
    settings.WHATSAPP_BACKUP_PASSPHRASE = "something else altogether"
    file = tmp_path / "passphrase"
    file.write_text(f"{SECRET}\nnot this line\n")
    salon = _stopped(make_salon())
    path = tmp_path / "kept"
    _run("whatsapp_backup", salon.salon_id, path, "--passphrase-file", file)
    assert backup.unpack(path.read_bytes(), OPENER).salon_id == salon.salon_id
    _restore(salon, path, "--passphrase-file", file)
    with pytest.raises(CommandError, match="Cannot read"):
        _restore(salon, path, "--passphrase-file", tmp_path / "none")
    file.write_bytes(b"\xff")
    with pytest.raises(CommandError, match="no text"):
        _restore(salon, path, "--passphrase-file", file)


@pytest.mark.parametrize("text", ["", "elevenchars"])
def test_a_short_passphrase_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "passphrase"
    file.write_text(text)
    salon = _stopped(make_salon())
    with pytest.raises(CommandError, match="12 characters"):
        _run(
            "whatsapp_backup", salon.salon_id, tmp_path / "x", "--passphrase-file", file
        )


def test_it_is_asked_for_twice_where_a_slip_would_cost_the_backup(
    tmp_path: Path, settings, monkeypatch
):
    settings.WHATSAPP_BACKUP_PASSPHRASE = ""
    answers = [SECRET, SECRET + "x", SECRET, SECRET, SECRET]
    monkeypatch.setattr(getpass, "getpass", lambda _question: answers.pop(0))
    salon = _stopped(make_salon())
    with pytest.raises(CommandError, match="two passphrases"):
        _back_up(salon, tmp_path / "kept")
    _back_up(salon, tmp_path / "kept")
    _restore(salon, tmp_path / "kept")
    assert answers == []


def test_without_a_terminal_nobody_is_asked(tmp_path: Path, settings, monkeypatch):
    settings.WHATSAPP_BACKUP_PASSPHRASE = ""

    def no_terminal(*_words: object) -> int:
        raise OSError(6, "No such device or address")

    monkeypatch.setattr("os.open", no_terminal)
    monkeypatch.setattr("sys.stdin", StringIO(f"{SECRET}\n{SECRET}\n"))
    with pytest.raises(CommandError, match="--passphrase-file"):
        _back_up(_stopped(make_salon()), tmp_path / "kept")


def test_a_passphrase_is_the_same_on_every_keyboard(tmp_path: Path):
    data = backup_file.seal(b"x", Passphrase("мой длинный паро\u0439ль"))
    decomposed = Passphrase("мой длинный паро\u0438\u0306ль")
    assert backup_file.unseal(data, decomposed) == b"x"


# --- all of them ----------------------------------------------------------------------


def test_what_does_not_open_to_what_went_in_is_not_kept(tmp_path: Path, monkeypatch):
    seal = backup_file.seal

    def forgetful(content: bytes, passphrase: Passphrase) -> bytes:
        return seal(content.replace(b"Ivanova", b"Petrova"), passphrase)

    monkeypatch.setattr(backup_file, "seal", forgetful)
    salon = _stopped(make_salon(title="Ivanova"))
    with pytest.raises(CommandError, match="Nothing was kept"):
        _back_up(salon, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_all_linked_salons_are_backed_up(tmp_path: Path):
    linked = [_stopped(make_salon()) for _ in range(2)]
    store_creds(make_salon(), make_creds(linked=False))
    make_salon()
    out, err = _run("whatsapp_backup", "--all", tmp_path)
    assert "2 salons" in out
    assert err == ""
    found = sorted(tmp_path.iterdir())
    assert [backup.unpack(one.read_bytes(), OPENER).salon_id for one in found] == [
        salon.salon_id for salon in linked
    ]
    assert found[0].name.startswith(f"{linked[0].session_id}-2")


def test_one_bad_salon_does_not_stop_the_rest(tmp_path: Path, monkeypatch):
    bad, good = (_stopped(make_salon()) for _ in range(2))
    pack = backup_file.seal

    def picky(content: bytes, passphrase: Passphrase) -> bytes:
        if str(bad.salon_id).encode() in content:
            raise backup_file.BackupError("This one is too large.")
        return pack(content, passphrase)

    monkeypatch.setattr(backup_file, "seal", picky)
    out = StringIO()
    with pytest.raises(CommandError, match="too large") as error:
        _run("whatsapp_backup", "--all", tmp_path, "--json", stdout=out)
    assert error.value.returncode == 1
    told = json.loads(out.getvalue())
    assert [one["session_id"] for one in told["salons"]] == [good.session_id]
    assert list(told["failed"]) == [bad.session_id]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_run_says_how_far_it_came(tmp_path: Path, monkeypatch):
    for _ in range(3):
        _stopped(make_salon())
    write = backup_file.write

    def interrupted(path: Path, data: bytes, *, force: bool) -> None:
        if list(tmp_path.iterdir()):
            raise KeyboardInterrupt
        write(path, data, force=force)

    monkeypatch.setattr(backup_file, "write", interrupted)
    with pytest.raises(CommandError, match="1 of 3") as error:
        _run("whatsapp_backup", "--all", tmp_path)
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
        _run(*words)


def test_a_salon_that_is_not_linked_has_no_backup(tmp_path: Path):
    salon = make_salon()
    with pytest.raises(CommandError, match="not linked"):
        _back_up(salon, tmp_path / "kept")
    store_creds(salon, make_creds(linked=False))
    with pytest.raises(CommandError, match="not linked"):
        _back_up(salon, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


# --- who has done what, and no secret -------------------------------------------------


def test_the_audit_knows_and_nothing_secret_is_said(tmp_path: Path, caplog):
    salon = _stopped(make_salon())
    path = tmp_path / "kept"
    said = [*_run("whatsapp_backup", salon.salon_id, path)]
    _lose(salon)
    said += _run("whatsapp_restore", salon.salon_id, path)
    said += _run("whatsapp_restore", path, "--verify", "--json")
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
    salon, path = _kept(tmp_path)
    _lose(salon)
    store_creds(salon, make_creds(OTHER_PHONE), {("pre-key", "other"): 1})
    made = backup.unpack(path.read_bytes(), OPENER)
    before = _everything()

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
        assert _everything() == before
        statement += 1
    assert statement > 10
    assert stored_rows(salon) == (make_creds(), make_keys())


@pytest.mark.django_db(transaction=True)
def test_a_restore_is_strictly_before_or_after_whoever_changes_the_link(tmp_path: Path):
    salon, path = _kept(tmp_path)
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
