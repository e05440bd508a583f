"""Settings, read from the environment and from `.env`; .env.example explains each.

With DATABASE_URL this is production: a missing secret stops the start. Without
it, the embedded default makes its own database and secrets under VAR_DIR.
"""

import base64
import re
import sys
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from aiadmin import embedded
from aiadmin.proxies import TrustedProxies

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
_env_file = Path(env.str("ENV_FILE", default=str(BASE_DIR / ".env")))
if _env_file.is_file():
    env.read_env(_env_file)


def _text(name: str, default: str = "") -> str:
    """Read a setting; an empty line in .env means the default."""
    value: str = env.str(name, default="")
    return value or default


def _number(name: str, default: float) -> float:
    text = _text(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1
    if value <= 0:
        raise ImproperlyConfigured(f"{name} must be a positive number, not {text!r}.")
    return value


def _count(name: str, default: int, least: int) -> int:
    text = _text(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ImproperlyConfigured(
            f"{name} must be a whole number, {least} or more, not {text!r}."
        )
    return int(text)


def _list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in _text(name, default).split(",") if item.strip()]


def _secret(name: str) -> str:
    value = _text(name)
    if value:
        return value
    if DATABASE_URL:
        raise ImproperlyConfigured(
            f"{name} is missing. With DATABASE_URL the secrets must be given, so that "
            "all processes have the same."
        )
    return embedded.secret(VAR_DIR, name.lower())


# --- Where things are --------------------------------------------------------

VAR_DIR = (BASE_DIR / _text("VAR_DIR", "var")).resolve()
DATABASE_URL = _text("DATABASE_URL")
REDIS_URL = _text("REDIS_URL")

EMBEDDED_DATABASE = None if DATABASE_URL else embedded.EmbeddedDatabase(VAR_DIR)


IDLE_IN_TRANSACTION = "-c idle_in_transaction_session_timeout=10s"


def _database() -> dict[str, Any]:
    if EMBEDDED_DATABASE:
        config: dict[str, Any] = {
            "ENGINE": "aiadmin.postgres",
            "NAME": embedded.DATABASE,
        }
    else:
        config = dict(env.db_url_config(DATABASE_URL))
        if config["ENGINE"] != "django.db.backends.postgresql":
            raise ImproperlyConfigured(
                "DATABASE_URL must be a PostgreSQL address (postgresql://…)."
            )
    # A request's thread ends with the request, and a connection of its own with
    # it: only a pool outlives both, and connecting takes ten times a query.
    config["CONN_MAX_AGE"] = 0
    config["CONN_HEALTH_CHECKS"] = True
    given = config.get("OPTIONS", {})
    config["OPTIONS"] = {
        **given,
        # A process that is stopped in a transaction must not keep its rows from the one
        # that takes over. What the address says comes later, and wins.
        "options": f"{IDLE_IN_TRANSACTION} {given.get('options', '')}".strip(),
        "pool": {
            "min_size": 0,
            "max_size": 20,
            "timeout": 4,
            # Whoever asks next tries anew: the pool's own tries come ever more rarely.
            "reconnect_timeout": 1,
        },
        "connect_timeout": 5,
    }
    return config


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if REDIS_URL:
    CHANNEL_LAYERS: dict[str, Any] = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL]},
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "aiadmin.layers.OneProcessLayer"}}

# --- Who may come, and from where --------------------------------------------

DEBUG = env.bool("DJANGO_DEBUG", default=False)
SECRET_KEY = _secret("DJANGO_SECRET_KEY")
MARKETPLACE_JWT_SECRET = _secret("MARKETPLACE_JWT_SECRET")

ALLOWED_HOSTS = _list(
    "DJANGO_ALLOWED_HOSTS", "" if DATABASE_URL else "127.0.0.1,localhost,[::1]"
)
# Exact origins, or patterns in which * stands for letters and digits.
MARKETPLACE_ALLOWED_ORIGINS = _list("MARKETPLACE_ALLOWED_ORIGINS")

DJANGO_HTTPS = env.bool("DJANGO_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = DJANGO_HTTPS
SECURE_SSL_REDIRECT = DJANGO_HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = 31_536_000 if DJANGO_HTTPS else 0
SECURE_REFERRER_POLICY = "same-origin"


def _proxies() -> TrustedProxies:
    # Somebody in front of us speaks HTTPS, so a request of this very machine is his.
    text = _list("TRUSTED_PROXIES", "127.0.0.0/8,::1" if DJANGO_HTTPS else "")
    try:
        return TrustedProxies.read(text)
    except ValueError as error:
        raise ImproperlyConfigured(
            "TRUSTED_PROXIES must be addresses, networks (10.0.0.0/8) or the word unix, "
            f"separated by commas: {error}."
        ) from None


# Not Django's SECURE_PROXY_SSL_HEADER, which believes everybody (aiadmin/proxies.py).
TRUSTED_PROXIES = _proxies()
TRUSTED_PROXIES_GIVEN = bool(_text("TRUSTED_PROXIES"))
X_FRAME_OPTIONS = "DENY"

SILENCED_SYSTEM_CHECKS = [
    # Both would speak for every other host of our domain, about which we know nothing.
    *("security.W005", "security.W021"),
]


def _metrics_token(text: str) -> str:
    if not re.fullmatch(r"|[!-~]{16,}", text, re.ASCII):
        raise ImproperlyConfigured(
            "METRICS_TOKEN must have 16 characters or more: letters, digits, signs."
        )
    return text


def _networks(name: str) -> list[IPv4Network | IPv6Network]:
    try:
        return [ip_network(item) for item in _list(name)]
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{name} must be networks like 10.20.0.0/16: {error}."
        ) from None


# /metrics is there for whoever fulfils all that is set here; for nobody if nothing is.
METRICS_TOKEN = _metrics_token(_text("METRICS_TOKEN"))
METRICS_NETWORKS = _networks("METRICS_NETWORKS")

# --- WhatsApp ----------------------------------------------------------------

WHATSAPP_WS_URL = _text("WHATSAPP_WS_URL")
WHATSAPP_WEB_VERSION = _text("WHATSAPP_WEB_VERSION")
if not re.fullmatch(r"|\d+\.\d+\.\d+", WHATSAPP_WEB_VERSION, re.ASCII):
    raise ImproperlyConfigured(
        "WHATSAPP_WEB_VERSION must look like 2.3000.1023223821, not "
        f"{WHATSAPP_WEB_VERSION!r}."
    )


def _version_url(text: str) -> str:
    """Read where the present web version is looked up; empty: nowhere."""
    if text == "off":
        return ""
    url = urlsplit(text)
    if url.scheme == "https" or (url.scheme, url.hostname) == ("http", "127.0.0.1"):
        return text
    raise ImproperlyConfigured(
        f"WHATSAPP_VERSION_URL must be an https:// address or off, not {text!r}."
    )


# A service that does not talk to WhatsApp does not ask it for its version either.
WHATSAPP_VERSION_URL = _version_url(
    _text(
        "WHATSAPP_VERSION_URL",
        "off" if WHATSAPP_WS_URL else "https://web.whatsapp.com/sw.js",
    )
)
WHATSAPP_DEFAULT_REGION = _text("WHATSAPP_DEFAULT_REGION", "RU")
WHATSAPP_PAIRING_TIMEOUT = _number("WHATSAPP_PAIRING_TIMEOUT", 20)
WHATSAPP_LINK_TIMEOUT = _number("WHATSAPP_LINK_TIMEOUT", 160)
WHATSAPP_FINISH_TIMEOUT = _number("WHATSAPP_FINISH_TIMEOUT", 30)
WHATSAPP_CONNECT_TIMEOUT = _number("WHATSAPP_CONNECT_TIMEOUT", 20)
WHATSAPP_LOOK_INTERVAL = _number("WHATSAPP_LOOK_INTERVAL", 2)
WHATSAPP_START_RATE = _number("WHATSAPP_START_RATE", 50)
WHATSAPP_READY_CODES = _count("WHATSAPP_READY_CODES", 256, least=0)
WHATSAPP_ENGINE_PROCESSES = _count("WHATSAPP_ENGINE_PROCESSES", 1, least=1)
WHATSAPP_ENGINE_MEMORY_MB = _count("WHATSAPP_ENGINE_MEMORY_MB", 3072, least=256)
WHATSAPP_ARCHIVE_DAYS = int(_number("WHATSAPP_ARCHIVE_DAYS", 30))


def _encryption_keys(name: str) -> list[str]:
    """Read keys of 32 bytes in URL-safe base64, the one that encrypts first."""
    keys = _list(name)
    for number, key in enumerate(keys, start=1):
        # Never the key itself: it would lie in a log.
        try:
            usable = len(base64.b64decode(key, altchars=b"-_", validate=True)) == 32
        except ValueError:
            usable = False
        if not usable:
            raise ImproperlyConfigured(
                f"Key {number} of {name} is not 32 bytes in URL-safe base64. "
                "`manage.py whatsapp_encrypt --new-key` prints one."
            )
    if len(set(keys)) < len(keys):
        raise ImproperlyConfigured(f"{name} has a key twice.")
    return keys


CREDENTIAL_ENCRYPTION_KEYS = _encryption_keys("CREDENTIAL_ENCRYPTION_KEYS")
WHATSAPP_BACKUP_PASSPHRASE = _text("WHATSAPP_BACKUP_PASSPHRASE")
NODE_BINARY = _text("NODE_BINARY") or embedded.node_binary()


def _rate(name: str, default: str) -> tuple[int, int]:
    """Read "times/seconds"."""
    text = _text(name, default)
    match = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", text, re.ASCII)
    if not match:
        raise ImproperlyConfigured(f"{name} must look like {default}, not {text!r}.")
    return int(match[1]), int(match[2])


WHATSAPP_PAIRING_BUDGET = _rate("WHATSAPP_PAIRING_BUDGET", "10/3600")
WHATSAPP_API_RATE = _rate("WHATSAPP_API_RATE", "120/60")

# --- Django ------------------------------------------------------------------

INSTALLED_APPS = [
    # Its `runserver` is all that we need from the app, and importing Twisted
    # costs every other command a second.
    *(["daphne"] if "runserver" in sys.argv else []),
    # Its other configuration would put its own site in place of ours.
    "unfold.apps.BasicAppConfig",
    "aiadmin.apps.AdminConfig",
    "aiadmin.apps.ProjectConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    # For the files of its documentation page, which else come from strangers' servers.
    "ninja",
    "whatsapp",
]

MIDDLEWARE = [
    "aiadmin.middleware.ContentSecurityPolicyMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "aiadmin.middleware.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "aiadmin.urls"
ASGI_APPLICATION = "aiadmin.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

STATIC_URL = "/static/"
# Served from where they lie: no collectstatic that somebody can forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_ALLOW_ALL_ORIGINS = False

LANGUAGE_CODE = "ru"
LANGUAGES = [("ru", "Русский"), ("en", "English")]
LOCALE_PATHS = [BASE_DIR / "whatsapp" / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'"
    "%3E%3Crect width='32' height='32' rx='8' fill='%23059669'/%3E%3Cpath d='M8 9h16a2 "
    "2 0 0 1 2 2v8a2 2 0 0 1-2 2H14l-5 4v-4H8a2 2 0 0 1-2-2v-8a2 2 0 0 1 2-2z' "
    "fill='white'/%3E%3C/svg%3E"
)
# Whoever comes to the login by itself is led to the first page.
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "AI Admin",
    "SITE_HEADER": "AI Admin",
    "SITE_SUBHEADER": _("WhatsApp of the salons"),
    "SITE_URL": None,
    "SITE_SYMBOL": "forum",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _ICON}],
    "SHOW_LANGUAGES": True,
    "SHOW_VIEW_ON_SITE": False,
    # Ours is the audit; it knows more, and nobody can take anything out of it.
    "SHOW_HISTORY": False,
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "whatsapp.admin.dashboard.context",
    "SIDEBAR": {"navigation": "whatsapp.admin_site.navigation"},
    "COLORS": {
        "primary": {
            "50": "oklch(97.9% .021 166.113)",
            "100": "oklch(95% .052 163.051)",
            "200": "oklch(90.5% .093 164.15)",
            "300": "oklch(84.5% .143 164.978)",
            "400": "oklch(76.5% .177 163.223)",
            "500": "oklch(69.6% .17 162.48)",
            "600": "oklch(50.8% .118 165.612)",
            "700": "oklch(43.2% .095 166.913)",
            "800": "oklch(37.8% .077 168.94)",
            "900": "oklch(26.2% .051 172.552)",
            "950": "oklch(20% .04 172.5)",
        },
    },
}


def _version() -> str:
    with (BASE_DIR / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


LOG_LEVEL = _text("LOG_LEVEL", "INFO").upper()
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "scrubbed": {
            "()": "aiadmin.scrubber.ScrubbingFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        },
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "scrubbed"},
    },
    "filters": {"once_per_minute": {"()": "aiadmin.logs.OncePerMinute"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "aiadmin": {"level": LOG_LEVEL},
        "whatsapp": {"level": LOG_LEVEL},
        # Repeats itself with a traceback every second while Redis is away.
        "channels_redis.pubsub": {"filters": ["once_per_minute"]},
        # Django's own handler prints unscrubbed, and only while debugging.
        "django": {"handlers": [], "level": "INFO"},
    },
}

SENTRY_DSN = _text("SENTRY_DSN")
SENTRY_ENVIRONMENT = _text("SENTRY_ENVIRONMENT", "production")
if not re.fullmatch(r"[\w.-]{1,64}", SENTRY_ENVIRONMENT, re.ASCII):
    raise ImproperlyConfigured(
        "SENTRY_ENVIRONMENT must be one word of letters, digits, dots, - and _, not "
        f"{SENTRY_ENVIRONMENT!r}."
    )
if SENTRY_DSN:
    # Takes a third of a second to import, so only those pay who use it.
    from aiadmin import sentry

    sentry.init(
        SENTRY_DSN, environment=SENTRY_ENVIRONMENT, release=f"aiadmin@{_version()}"
    )
    sentry.watch_the_uncaught()
    LOGGING["handlers"]["sentry"] = {"class": "aiadmin.sentry.SentryHandler"}
    LOGGING["root"]["handlers"].append("sentry")
