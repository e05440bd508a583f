import os
import runpy
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

SETTINGS = Path(__file__).parent.parent / "aiadmin" / "settings.py"
PRODUCTION = {
    "DATABASE_URL": "postgresql://user:pass@db.example:5433/salons",
    "DJANGO_SECRET_KEY": "one",
    "MARKETPLACE_JWT_SECRET": "two",
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return what the settings are in an environment with only these variables."""

    def read(**variables: str) -> dict[str, Any]:
        for name in list(os.environ):
            if name not in ("PATH", "HOME"):
                monkeypatch.delenv(name)
        defaults = {"ENV_FILE": os.devnull, "VAR_DIR": str(tmp_path / "var")}
        for name, value in {**defaults, **variables}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(SETTINGS))

    return read


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("WHATSAPP_ENGINE_PROCESSES", "0"),
        ("WHATSAPP_ENGINE_PROCESSES", "1.5"),
        ("WHATSAPP_ENGINE_PROCESSES", "many"),
        ("WHATSAPP_ENGINE_MEMORY_MB", "255"),
        ("WHATSAPP_ENGINE_MEMORY_MB", "-1"),
    ],
)
def test_an_engine_needs_a_process_and_some_memory(read, name: str, text: str):
    with pytest.raises(ImproperlyConfigured, match=f"{name} must be a whole number"):
        read(**{name: text})


def test_the_engine_is_as_large_as_the_settings_say(read):
    settings = read(WHATSAPP_ENGINE_PROCESSES="3", WHATSAPP_ENGINE_MEMORY_MB="512")
    assert settings["WHATSAPP_ENGINE_PROCESSES"] == 3
    assert settings["WHATSAPP_ENGINE_MEMORY_MB"] == 512
    assert read()["WHATSAPP_ENGINE_PROCESSES"] == 1


@pytest.mark.parametrize("name", ["DJANGO_SECRET_KEY", "MARKETPLACE_JWT_SECRET"])
def test_production_does_not_start_without_its_secrets(read, name: str):
    with pytest.raises(ImproperlyConfigured, match=f"{name} is missing"):
        read(**{**PRODUCTION, name: ""})


def test_who_stops_in_a_transaction_does_not_keep_its_rows_for_ever(read):
    options = read(**PRODUCTION)["DATABASES"]["default"]["OPTIONS"]["options"]
    assert options == "-c idle_in_transaction_session_timeout=10s"
    url = f"{PRODUCTION['DATABASE_URL']}?options=-c%20work_mem%3D9MB"
    settings = read(**{**PRODUCTION, "DATABASE_URL": url})
    given = settings["DATABASES"]["default"]["OPTIONS"]["options"]
    assert given == f"{options} -c work_mem=9MB"


def test_production_uses_what_it_is_given(read, tmp_path: Path):
    settings = read(**PRODUCTION, REDIS_URL="redis://cache:6379/0")
    database = settings["DATABASES"]["default"]
    assert database["ENGINE"] == "django.db.backends.postgresql"
    assert (database["HOST"], database["NAME"]) == ("db.example", "salons")
    assert settings["SECRET_KEY"] == "one"
    assert settings["MARKETPLACE_JWT_SECRET"] == "two"
    assert settings["ALLOWED_HOSTS"] == []
    assert "RedisPubSub" in settings["CHANNEL_LAYERS"]["default"]["BACKEND"]
    assert settings["EMBEDDED_DATABASE"] is None
    assert not settings["DEBUG"]
    assert not (tmp_path / "var").exists()


def test_the_embedded_default_makes_secrets_that_stay_and_starts_no_database(
    read, tmp_path: Path
):
    first, second = read(), read()
    assert first["SECRET_KEY"] == second["SECRET_KEY"]
    assert first["SECRET_KEY"] != first["MARKETPLACE_JWT_SECRET"]
    files = list((tmp_path / "var" / "secrets").iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert [each.name for each in (tmp_path / "var").iterdir()] == ["secrets"]
    assert first["ALLOWED_HOSTS"] == ["127.0.0.1", "localhost", "[::1]"]


def test_another_database_than_postgresql_is_refused(read):
    with pytest.raises(ImproperlyConfigured, match="must be a PostgreSQL address"):
        read(**{**PRODUCTION, "DATABASE_URL": "sqlite:///x"})


def test_numbers_have_defaults_and_can_be_set(read):
    settings = read(WHATSAPP_PAIRING_TIMEOUT="0.5", WHATSAPP_PAIRING_BUDGET="3/60")
    assert settings["WHATSAPP_PAIRING_TIMEOUT"] == 0.5
    assert settings["WHATSAPP_PAIRING_BUDGET"] == (3, 60)
    defaults = read()
    assert defaults["WHATSAPP_PAIRING_TIMEOUT"] == 20
    assert defaults["WHATSAPP_PAIRING_BUDGET"] == (10, 3600)
    assert defaults["WHATSAPP_API_RATE"] == (120, 60)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WHATSAPP_PAIRING_TIMEOUT", "soon"),
        ("WHATSAPP_PAIRING_TIMEOUT", "-1"),
        ("WHATSAPP_PAIRING_BUDGET", "5"),
        ("WHATSAPP_PAIRING_BUDGET", "0/10"),
        ("WHATSAPP_API_RATE", "60"),
        ("WHATSAPP_API_RATE", "60/0"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(read, name: str, value: str):
    with pytest.raises(ImproperlyConfigured, match=name):
        read(**{name: value})


def test_lists_are_separated_by_commas(read):
    settings = read(
        MARKETPLACE_ALLOWED_ORIGINS="https://a.example, https://n*.b.example,",
        CREDENTIAL_ENCRYPTION_KEYS="",
    )
    assert settings["MARKETPLACE_ALLOWED_ORIGINS"] == [
        "https://a.example",
        "https://n*.b.example",
    ]
    assert settings["CREDENTIAL_ENCRYPTION_KEYS"] == []


def test_a_dotenv_file_is_read_and_the_environment_wins(read, tmp_path: Path):
    file = tmp_path / "some.env"
    file.write_text("WHATSAPP_DEFAULT_REGION=KZ\nWHATSAPP_WEB_VERSION=2.3000.1\n")
    settings = read(ENV_FILE=str(file), WHATSAPP_DEFAULT_REGION="BR")
    assert settings["WHATSAPP_DEFAULT_REGION"] == "BR"
    assert settings["WHATSAPP_WEB_VERSION"] == "2.3000.1"


def test_https_makes_cookies_secure(read):
    assert read(DJANGO_HTTPS="1")["SESSION_COOKIE_SECURE"]
    assert not read()["SESSION_COOKIE_SECURE"]


def test_nobody_is_believed_who_asks_unless_https_ends_on_this_machine(read):
    here, there = ip_address("127.0.0.1"), ip_address("10.0.3.7")
    assert not read()["TRUSTED_PROXIES"]
    behind = read(DJANGO_HTTPS="1")["TRUSTED_PROXIES"]
    assert here in behind
    assert there not in behind
    given = read(DJANGO_HTTPS="1", TRUSTED_PROXIES="10.0.3.0/24, unix")
    assert there in given["TRUSTED_PROXIES"]
    assert here not in given["TRUSTED_PROXIES"]
    assert given["TRUSTED_PROXIES"].unix


@pytest.mark.parametrize("text", ["nginx", "10.0.0.1/8", "127.0.0.1:80", "10.0.0"])
def test_a_proxy_that_is_none_is_named(read, text: str):
    with pytest.raises(ImproperlyConfigured, match="TRUSTED_PROXIES must be addresses"):
        read(TRUSTED_PROXIES=text)


def test_the_example_names_every_setting(read):
    example = (SETTINGS.parent.parent / ".env.example").read_text()
    source = SETTINGS.read_text()
    import re

    names = set(re.findall(r'_(?:text|number|list|secret)\(\s*"([A-Z_]+)"', source))
    names |= set(re.findall(r'env\.\w+\("([A-Z_]+)"', source))
    assert len(names) > 20
    assert {name for name in names if f"#{name}=" not in example} == set()


def test_the_present_web_version_is_looked_up_at_whatsapp_only_by_who_talks_to_it(read):
    assert read()["WHATSAPP_VERSION_URL"] == "https://web.whatsapp.com/sw.js"
    elsewhere = {"WHATSAPP_WS_URL": "ws://127.0.0.1:9"}
    assert read(**elsewhere)["WHATSAPP_VERSION_URL"] == ""
    assert read(WHATSAPP_VERSION_URL="off")["WHATSAPP_VERSION_URL"] == ""
    page = "http://127.0.0.1:8/sw.js"
    given = read(**elsewhere, WHATSAPP_VERSION_URL=page)
    assert given["WHATSAPP_VERSION_URL"] == page


@pytest.mark.parametrize("url", ["http://web.whatsapp.com/sw.js", "file:///x", "on"])
def test_another_address_of_the_web_version_is_refused(read, url: str):
    with pytest.raises(ImproperlyConfigured, match="WHATSAPP_VERSION_URL must be"):
        read(WHATSAPP_VERSION_URL=url)


@pytest.mark.parametrize("version", ["2.3000", "2.3000.x", "v2.3000.1", "2.3000.1\n"])
def test_a_web_version_is_three_numbers(read, version: str):
    assert read(WHATSAPP_WEB_VERSION="2.3000.12")["WHATSAPP_WEB_VERSION"] == "2.3000.12"
    with pytest.raises(ImproperlyConfigured, match="WHATSAPP_WEB_VERSION must look"):
        read(WHATSAPP_WEB_VERSION=version)


@pytest.mark.parametrize("token", ["fifteen-letters", "sixteen letters!", "ключ" * 5])
def test_a_token_of_metrics_that_can_be_guessed_is_refused(read, token: str):
    assert read()["METRICS_TOKEN"] == ""
    assert read(METRICS_TOKEN="sixteen-letters!")["METRICS_TOKEN"] == "sixteen-letters!"
    with pytest.raises(
        ImproperlyConfigured, match="METRICS_TOKEN must have 16"
    ) as told:
        read(METRICS_TOKEN=token)
    assert token not in str(told.value)


def test_networks_of_metrics_are_networks(read):
    assert read()["METRICS_NETWORKS"] == []
    networks = read(METRICS_NETWORKS="10.20.0.0/16, 127.0.0.1,2001:db8::/32")
    assert [str(one) for one in networks["METRICS_NETWORKS"]] == [
        "10.20.0.0/16",
        "127.0.0.1/32",
        "2001:db8::/32",
    ]


@pytest.mark.parametrize("text", ["10.20.0.1/16", "prometheus.internal", "10.0.0.0/33"])
def test_what_is_no_network_is_refused(read, text: str):
    with pytest.raises(ImproperlyConfigured, match="METRICS_NETWORKS must be networks"):
        read(METRICS_NETWORKS=text)


@pytest.mark.parametrize("name", ["our staging", "a/b", "x" * 65])
def test_what_reports_are_filed_under_is_one_word(read, name: str):
    assert read()["SENTRY_ENVIRONMENT"] == "production"
    assert read(SENTRY_ENVIRONMENT="staging")["SENTRY_ENVIRONMENT"] == "staging"
    with pytest.raises(ImproperlyConfigured, match="SENTRY_ENVIRONMENT must be"):
        read(SENTRY_ENVIRONMENT=name)
