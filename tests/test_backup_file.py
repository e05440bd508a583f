"""The file of a backup: damaged or forged, on disk, and behind its passphrase."""

import getpass
import io
import json
import stat
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.backup_fixtures import (
    OPENER,
    SECRET,
    all_rows,
    back_up,
    cheap_keys,
    kept_salon,
    lose_link,
    restore,
    run,
    stopped_salon,
)
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    make_creds,
    make_keys,
    make_salon,
    store_creds,
    stored_rows,
)
from whatsapp.services import backup, backup_file
from whatsapp.services.backup_file import Passphrase

__all__ = ["cheap_keys"]

pytestmark = pytest.mark.django_db


# --- the file -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_file() -> bytes:
    """Return a small file, and derive its key once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_file, "SCRYPT_N", 2**14)
        return backup_file.seal(b'{"a": 1}', OPENER)


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
    salon, path = kept_salon(tmp_path)
    lose_link(salon)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    before = all_rows()
    with pytest.raises(CommandError, match="damaged"):
        restore(salon, path)
    assert all_rows() == before


def test_a_content_that_does_not_add_up_is_refused(tmp_path: Path):
    _salon, path = kept_salon(tmp_path)
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
    salon, path = kept_salon(tmp_path)
    content = json.loads(backup_file.unseal(path.read_bytes(), OPENER))
    keys = json.loads(content["keys"])
    keys[0]["v"] = "\0"  # JSON, and none for PostgreSQL
    content["keys"] = json.dumps(keys)
    path.write_bytes(backup_file.seal(json.dumps(content).encode(), OPENER))
    lose_link(salon)
    store_creds(salon, make_creds(OTHER_PHONE))
    before = all_rows()
    with pytest.raises(CommandError, match="Nothing was changed"):
        restore(salon, path, "--replace")
    assert all_rows() == before


def test_a_wrong_passphrase_is_told_from_a_damaged_file(tmp_path: Path, settings):
    salon, path = kept_salon(tmp_path)
    settings.WHATSAPP_BACKUP_PASSPHRASE = SECRET + "!"
    before = all_rows()
    with pytest.raises(CommandError, match="not the passphrase"):
        restore(salon, path)
    assert all_rows() == before


def test_a_file_of_a_newer_version_says_so(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
    line, _newline, rest = path.read_bytes().partition(b"\n")
    head = json.dumps(json.loads(line) | {"version": 2}).encode()
    path.write_bytes(head + b"\n" + rest)
    with pytest.raises(CommandError, match="update it first"):
        restore(salon, path)


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
        run("whatsapp_restore", path, "--verify")


@pytest.mark.parametrize("wish", [{"n": 2**40}, {"n": "x"}, {"r": 1000}, {"salt": 1}])
def test_a_forged_file_cannot_ask_for_all_memory(tmp_path: Path, wish):
    _salon, path = kept_salon(tmp_path)
    line, _newline, rest = path.read_bytes().partition(b"\n")
    forged = json.dumps(json.loads(line) | wish).encode() + b"\n" + rest
    with pytest.raises(backup_file.Damaged):
        backup.unpack(forged, OPENER)


def test_neither_a_file_nor_what_it_unpacks_to_is_without_bounds(
    tmp_path: Path, monkeypatch
):
    salon, path = kept_salon(tmp_path)
    bomb = backup_file.seal(b"0" * 10_000, OPENER)
    monkeypatch.setattr(backup_file, "MAX_CONTENT_BYTES", 1000)
    with pytest.raises(backup_file.Damaged, match="more than 1000"):
        backup_file.unseal(bomb, OPENER)
    with pytest.raises(CommandError, match="no link"):
        back_up(salon, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr(backup_file, "MAX_FILE_BYTES", 1000)
    with pytest.raises(CommandError, match="too large"):
        run("whatsapp_restore", path, "--verify")


def test_the_first_line_tells_nothing_of_the_salon(tmp_path: Path):
    salon, path = kept_salon(tmp_path)
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
    salon, path = kept_salon(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    with pytest.raises(CommandError, match="--force"):
        back_up(salon, path)
    assert path.read_bytes() == first
    run("whatsapp_backup", salon.salon_id, path, "--force")
    assert path.read_bytes() != first
    run("whatsapp_restore", path, "--verify")
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
        run(
            "whatsapp_backup",
            stopped_salon(make_salon()).salon_id,
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
    _salon, path = kept_salon(tmp_path)
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
    salon = stopped_salon(make_salon())
    pipe = io.BytesIO()
    out = io.TextIOWrapper(pipe)
    err = StringIO()
    run("whatsapp_backup", salon.salon_id, "-", stdout=out, stderr=err)
    data = pipe.getvalue()
    assert data.startswith(b'{"format"')
    assert "79***4567" in err.getvalue()
    lose_link(salon)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    restore(salon, Path("-"))
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_no_backup_goes_to_a_terminal(monkeypatch):
    out = StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    with pytest.raises(CommandError, match="terminal"):
        run("whatsapp_backup", stopped_salon(make_salon()).salon_id, "-", stdout=out)


@pytest.mark.parametrize("path", ["missing/kept", "."])
def test_a_place_that_is_none_is_an_error(tmp_path: Path, path: str):
    salon = stopped_salon(make_salon())
    with pytest.raises(CommandError, match=r"cannot be written|is there already"):
        back_up(salon, tmp_path / path)
    with pytest.raises(CommandError, match="Cannot read"):
        restore(salon, tmp_path / path)


# --- the passphrase -------------------------------------------------------------------


def test_the_passphrase_may_be_in_a_file(tmp_path: Path, settings):
    settings.WHATSAPP_BACKUP_PASSPHRASE = "something else altogether"
    file = tmp_path / "passphrase"
    file.write_text(f"{SECRET}\nnot this line\n")
    salon = stopped_salon(make_salon())
    path = tmp_path / "kept"
    run("whatsapp_backup", salon.salon_id, path, "--passphrase-file", file)
    assert backup.unpack(path.read_bytes(), OPENER).salon_id == salon.salon_id
    restore(salon, path, "--passphrase-file", file)
    with pytest.raises(CommandError, match="Cannot read"):
        restore(salon, path, "--passphrase-file", tmp_path / "none")
    file.write_bytes(b"\xff")
    with pytest.raises(CommandError, match="no text"):
        restore(salon, path, "--passphrase-file", file)


@pytest.mark.parametrize("text", ["", "elevenchars"])
def test_a_short_passphrase_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "passphrase"
    file.write_text(text)
    salon = stopped_salon(make_salon())
    with pytest.raises(CommandError, match="12 characters"):
        run(
            "whatsapp_backup", salon.salon_id, tmp_path / "x", "--passphrase-file", file
        )


def test_it_is_asked_for_twice_where_a_slip_would_cost_the_backup(
    tmp_path: Path, settings, monkeypatch
):
    settings.WHATSAPP_BACKUP_PASSPHRASE = ""
    answers = [SECRET, SECRET + "x", SECRET, SECRET, SECRET]
    monkeypatch.setattr(getpass, "getpass", lambda _question: answers.pop(0))
    salon = stopped_salon(make_salon())
    with pytest.raises(CommandError, match="two passphrases"):
        back_up(salon, tmp_path / "kept")
    back_up(salon, tmp_path / "kept")
    restore(salon, tmp_path / "kept")
    assert answers == []


def test_without_a_terminal_nobody_is_asked(tmp_path: Path, settings, monkeypatch):
    settings.WHATSAPP_BACKUP_PASSPHRASE = ""

    def no_terminal(*_words: object) -> int:
        raise OSError(6, "No such device or address")

    monkeypatch.setattr("os.open", no_terminal)
    monkeypatch.setattr("sys.stdin", StringIO(f"{SECRET}\n{SECRET}\n"))
    with pytest.raises(CommandError, match="--passphrase-file"):
        back_up(stopped_salon(make_salon()), tmp_path / "kept")


def test_a_passphrase_is_the_same_on_every_keyboard(tmp_path: Path):
    data = backup_file.seal(b"x", Passphrase("мой длинный паро\u0439ль"))
    decomposed = Passphrase("мой длинный паро\u0438\u0306ль")
    assert backup_file.unseal(data, decomposed) == b"x"
