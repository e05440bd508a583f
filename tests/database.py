"""A pytest plugin: PostgreSQL for the tests, and settings that depend on nobody's .env.

A given DATABASE_URL is used (its user must be allowed to create databases); else one
embedded cluster under a temporary folder serves the whole run, all workers of
pytest-xdist included: each makes a database of its own in it.
"""

import atexit
import base64
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from aiadmin.embedded import EmbeddedDatabase

# What fails in these is to be told in full, as in the tests themselves.
pytest.register_assert_rewrite(
    "tests.admin_world",
    "tests.backup_fixtures",
    "tests.engine_fixtures",
    "tests.matrix_cells",
    "tests.salon_life",
    "tests.salon_rules",
    "tests.service_fixtures",
    "tests.simulator.client_fixtures",
    "tests.socket_fixtures",
)

SECRETS = {
    "DJANGO_SECRET_KEY": "a secret of the tests, as long as it ought to be",
    "MARKETPLACE_JWT_SECRET": "another secret of the tests, just as long",
}


NO_TIMEOUT = "-c idle_in_transaction_session_timeout=0"


KEYS = "CREDENTIAL_ENCRYPTION_KEYS"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run have encryption at rest on; here, because it is read so early."""
    parser.addoption(
        "--encrypted",
        action="store_true",
        help="run everything with creds and keys encrypted in the tables",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Prepare the environment; pytest-django reads the settings after this."""
    # Workers inherit the key, too: they may look at one and the same service.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        encrypted = early_config.known_args_namespace.encrypted
        os.environ[KEYS] = new_key() if encrypted else ""
    os.environ["ENV_FILE"] = os.devnull
    os.environ |= SECRETS
    os.environ.setdefault("DJANGO_ALLOWED_HOSTS", "testserver,127.0.0.1,localhost")
    os.environ.pop("REDIS_URL", None)
    os.environ.pop("SENTRY_DSN", None)
    # Whatever a test does: nobody asks WhatsApp itself.
    os.environ["WHATSAPP_VERSION_URL"] = "off"
    # Hundreds of gateways start: none shall be busy with codes that nobody asks for.
    os.environ["WHATSAPP_READY_CODES"] = "2"
    # Workers inherit the address from the process that started them.
    if not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = _start()


def new_key() -> str:
    """Return a key for ``CREDENTIAL_ENCRYPTION_KEYS``; asks for no settings."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def _start() -> str:
    folder = Path(tempfile.mkdtemp(prefix="aiadmin-tests-"))
    # Registered first, so done last: after the database has stopped.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    url = EmbeddedDatabase(folder, durable=False).connect().url
    # A test is one transaction, and may have to wait in it.
    return f"{url}?{urlencode({'options': NO_TIMEOUT}, quote_via=quote)}"
