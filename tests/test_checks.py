"""`manage.py check --deploy` is content with the documented production, and says why not."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs" / "deploy" / "aiadmin.env"
FILLED = {
    "DJANGO_SECRET_KEY": "a-secret-of-64-letters-or-more-that-nobody-would-ever-guess-0123456789",
    "MARKETPLACE_JWT_SECRET": "another-secret-of-thirty-two-bytes-or-more",
    "CREDENTIAL_ENCRYPTION_KEYS": base64.urlsafe_b64encode(bytes(range(32))).decode(),
}
"""What the example leaves empty, so that nobody goes into production with ours."""


def check(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Check the example, with some lines changed, and nothing of this environment."""
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        name, is_setting, _value = line.partition("=")
        if is_setting and name in changes:
            line = f"{name}={changes.pop(name)}"
        lines.append(line)
    lines += [f"{name}={value}" for name, value in changes.items()]
    file = folder / "aiadmin.env"
    file.write_text("\n".join(lines))
    command = ["manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )


def found(result: subprocess.CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"\(((?:aiadmin|security)\.\w\d+)\)", result.stderr))


def test_the_documented_production_is_clean(tmp_path: Path):
    result = check(tmp_path, **FILLED)
    assert result.returncode == 0, result.stderr
    assert found(result) <= {"aiadmin.I001"}


def test_the_example_does_not_start_with_secrets_that_everybody_knows(tmp_path: Path):
    result = check(tmp_path)
    assert result.returncode != 0
    assert "DJANGO_SECRET_KEY is missing" in result.stderr


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path):
    result = check(
        tmp_path,
        DATABASE_URL="postgresql://aiadmin@127.0.0.1:6432/aiadmin",
        REDIS_URL="",
        DJANGO_SECRET_KEY="short",
        MARKETPLACE_JWT_SECRET="short",
        CREDENTIAL_ENCRYPTION_KEYS="",
        MARKETPLACE_ALLOWED_ORIGINS="",
        DJANGO_HTTPS="0",
        TRUSTED_PROXIES="0.0.0.0/0",
        WHATSAPP_WS_URL="ws://127.0.0.1:9",
    )
    assert result.returncode != 0
    ours = {each for each in found(result) if each.startswith("aiadmin.")}
    assert ours == {
        *("aiadmin.E001", "aiadmin.E002", "aiadmin.W001", "aiadmin.W003"),
        *("aiadmin.W004", "aiadmin.W005", "aiadmin.W006", "aiadmin.W007"),
        *("aiadmin.W008", "aiadmin.I001"),
    }


@pytest.mark.parametrize("proxies", ["", "127.0.0.1"])
def test_https_behind_a_proxy_that_nobody_named_is_a_warning(
    tmp_path: Path, proxies: str
):
    result = check(tmp_path, **FILLED, TRUSTED_PROXIES=proxies)
    assert ("aiadmin.W002" in found(result)) == (not proxies)
    assert (result.returncode == 0) == bool(proxies)
