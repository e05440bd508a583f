"""The file that a backup is: one line in clear, and the rest encrypted.

The line is JSON: name and version of the format, when it was made, and what it takes to
derive the key from the passphrase (scrypt). Whose link it is stands in the rest only:
zlib over JSON, under AES-256-GCM, with the line as associated data. So a file in which
anything was changed, cut off or put together opens nothing.
"""

import base64
import binascii
import contextlib
import hmac
import json
import os
import secrets
import unicodedata
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

FORMAT = "aiadmin.whatsapp.backup"
VERSION = 1

SHORTEST_PASSPHRASE = 12

SCRYPT_N = 2**17
"""Together with r = 8: 128 MB and some tenths of a second for each guess."""
SCRYPT_R = 8
SCRYPT_P = 1
_SCRYPT_NS = tuple(2**power for power in range(14, 19))
"""What a file may ask for; a forged one must not cost all memory."""

SALT_BYTES = 16
NONCE_BYTES = 12
KEY_BYTES = 32
CHECK_BYTES = 16

MAX_LINE_BYTES = 4096
MAX_FILE_BYTES = 128 * 2**20
MAX_CONTENT_BYTES = 256 * 2**20
"""A salon has some MB; PostgreSQL takes no larger JSON."""


class BackupError(Exception):
    """A backup cannot be made or used; the sentence is for operators."""


class WrongPassphrase(BackupError):
    """The file was made with another one."""


class Damaged(BackupError):
    """It is not, to the last bit, a file that we have written."""


class Passphrase:
    """What opens backups. Its keys are derived once, however many files there are.

    Raises:
        BackupError: it is too short.
    """

    def __init__(self, text: str) -> None:
        # The same letters come in two forms, depending on the keyboard's system.
        text = unicodedata.normalize("NFC", text)
        if len(text) < SHORTEST_PASSPHRASE:
            raise BackupError(
                f"The passphrase must have {SHORTEST_PASSPHRASE} characters or more."
            )
        self._secret = text.encode()
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._derived: dict[tuple[int, bytes], tuple[bytes, bytes]] = {}

    def new_key(self) -> "_Key":
        """Return the key for new files. Their random nonces let them share it."""
        return self.key(SCRYPT_N, self._salt)

    def key(self, n: int, salt: bytes) -> "_Key":
        """Return the key of files with this salt."""
        if (n, salt) not in self._derived:
            kdf = Scrypt(salt, KEY_BYTES + CHECK_BYTES, n, SCRYPT_R, SCRYPT_P)
            derived = kdf.derive(self._secret)
            self._derived[n, salt] = derived[:KEY_BYTES], derived[KEY_BYTES:]
        return _Key(n, salt, *self._derived[n, salt])


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    n: int
    salt: bytes
    secret: bytes
    check: bytes
    """In the file, to tell a wrong passphrase from a damaged file."""


def seal(content: bytes, passphrase: Passphrase) -> bytes:
    """Return a whole file with this content.

    Raises:
        BackupError: it is too large.
    """
    if len(content) > MAX_CONTENT_BYTES:
        raise BackupError(f"More than {MAX_CONTENT_BYTES} bytes are no link.")
    key = passphrase.new_key()
    nonce = secrets.token_bytes(NONCE_BYTES)
    line = _line(key, nonce)
    data = line + AESGCM(key.secret).encrypt(nonce, zlib.compress(content), line)
    if len(data) > MAX_FILE_BYTES:
        raise BackupError(f"A file of more than {MAX_FILE_BYTES} bytes is not read.")
    return data


def _line(key: _Key, nonce: bytes) -> bytes:
    head = {
        "format": FORMAT,
        "version": VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "cipher": "AES-256-GCM",
        "nonce": base64.b64encode(nonce).decode(),
        "kdf": "scrypt",
        "n": key.n,
        "r": SCRYPT_R,
        "p": SCRYPT_P,
        "salt": base64.b64encode(key.salt).decode(),
        "check": base64.b64encode(key.check).decode(),
    }
    return json.dumps(head).encode() + b"\n"


def unseal(data: bytes, passphrase: Passphrase) -> bytes:
    """Return the content of a file.

    Raises:
        BackupError: it is none of ours, or of a newer version of this service.
        WrongPassphrase: it was made with another passphrase.
        Damaged: something in it was changed or is missing.
    """
    line, newline, rest = data.partition(b"\n")
    head = _head(line)
    n, salt, nonce, check = _parameters(head)
    key = passphrase.key(n, salt)
    if not hmac.compare_digest(key.check, check):
        raise WrongPassphrase("This is not the passphrase of this file.")
    try:
        packed = AESGCM(key.secret).decrypt(nonce, rest, line + newline)
    except InvalidTag:
        raise Damaged("The file is damaged, cut off or forged.") from None
    return _unpacked(packed)


def _head(line: bytes) -> dict[str, Any]:
    head = None
    if len(line) <= MAX_LINE_BYTES:
        with contextlib.suppress(ValueError, RecursionError):
            head = json.loads(line)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise BackupError(
            "This is no backup of a salon's link, or its first line is damaged."
        )
    version = head.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BackupError(
            f"This backup has format {version}, and this service knows {VERSION}:"
            " update it first."
        )
    if version != VERSION:
        raise Damaged("The first line of the file is damaged.")
    return head


def _parameters(head: dict[str, Any]) -> tuple[int, bytes, bytes, bytes]:
    lengths = {"salt": SALT_BYTES, "nonce": NONCE_BYTES, "check": CHECK_BYTES}
    found: dict[str, bytes] = {}
    with contextlib.suppress(binascii.Error, ValueError, TypeError, KeyError):
        found = {name: base64.b64decode(head[name], validate=True) for name in lengths}
    known = (head.get("kdf"), head.get("r"), head.get("p"), head.get("cipher")) == (
        "scrypt",
        SCRYPT_R,
        SCRYPT_P,
        "AES-256-GCM",
    )
    if (
        not known
        or head.get("n") not in _SCRYPT_NS
        or {name: len(value) for name, value in found.items()} != lengths
    ):
        raise Damaged("The first line of the file is damaged.")
    return int(head["n"]), found["salt"], found["nonce"], found["check"]


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, MAX_CONTENT_BYTES)
    except zlib.error:
        raise Damaged("The content of the file cannot be unpacked.") from None
    if not unpacker.eof:
        raise Damaged(f"The content has more than {MAX_CONTENT_BYTES} bytes.")
    return content


# --- on disk --------------------------------------------------------------------------


def write(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file that is whole or not there, and for its owner's eyes only.

    It is read back before it gets its name.

    Args:
        path: where; its folder must exist.
        data: all of it.
        force: put it in place of a file that is there.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
        Damaged: what was written is not what can be read.
    """
    if not force and os.path.lexists(path):
        raise FileExistsError(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if part.read_bytes() != data:
            raise Damaged("What was written reads differently: is the disk well?")
        _name(part, path, force=force)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _name(part: Path, path: Path, *, force: bool) -> None:
    if force:
        part.replace(path)
        return
    try:
        # Unlike a rename, it fails if somebody else has just made one.
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems know no second names.
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        part.rename(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: it cannot be read.
        BackupError: it is too large to be one of ours.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BackupError(f"{path} is too large to be a backup of a salon's link.")
    return data
