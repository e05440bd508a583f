"""Files that only we can read, and the secrets in them."""

import os
import secrets
import threading
from pathlib import Path


def private_folder(path: Path) -> Path:
    """Return ``path``, made if missing, closed to other users."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    return path


def secret(var: Path, name: str) -> str:
    """Return the secret ``name`` under ``var``, made at its first use."""
    path = private_folder(private_folder(var) / "secrets") / name
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48), replace=False)
    return path.read_text().strip()


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file that only we can read; other processes see all of it or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    if replace:
        draft.replace(path)
        return
    try:
        # Two first starts at once: a link does not overwrite, one of them wins.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
