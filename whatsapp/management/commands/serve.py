"""Pages and gateway in one process."""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channels.routing import get_default_application
from django import urls
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.template.loader import get_template

from whatsapp import alerts, interpreter
from whatsapp.management.salon_command import database_errors
from whatsapp.models import Salon
from whatsapp.services import claims, proofs, salons, tokens

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

logger = logging.getLogger(__name__)

FIRST_SALON = 1
BACKLOG = 1024
DRAIN_SECONDS = 10.0
DRAIN_LOOK = 0.05
# Who has just connected has a request, and may not have been read yet.
DRAIN_PAUSE = 0.3
LARGEST_MESSAGE = 64 * 1024
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (compared, not bound)


class Command(BaseCommand):
    """Serve the pages and run the gateway, until SIGINT or SIGTERM.

    1. Take the port, so that a second start fails before it touches anything.
    2. Embedded default: start PostgreSQL, migrate, make a first user and salon.
    3. Serve. A gateway that fails ends the process with exit code 1: pages
       without one look alive and link nobody, and whoever supervises us starts
       all of it afresh.
    4. Told to stop: take nobody new, answer whoever has asked already, hand the
       sessions over, then stop PostgreSQL.
    """

    help = "Serve the pages and run the gateway in one process."
    # Seconds matter at a start, and `manage.py check` is part of the tests.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--host", default="127.0.0.1", help="%(default)s if you do not say"
        )
        parser.add_argument(
            "--port", type=int, default=8000, help="%(default)s; 0 takes a free one"
        )
        parser.add_argument(
            "--no-gateway", action="store_true", help="serve the pages only"
        )
        parser.add_argument(
            "--migrate",
            action="store_true",
            help="bring the tables up to date first (the embedded database always is)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until told to stop."""
        listener = _listen(options["host"], options["port"])
        url = _url(listener)
        embedded = settings.EMBEDDED_DATABASE
        try:
            if embedded:
                embedded.serve()
                _allow(options["host"])
            with database_errors():
                steps = self._prepare(url, migrate=options["migrate"])
            connections.close_all()
            _load_pages()
            server = PageServer(listener, gateway=not options["no_gateway"])
            server.run(lambda: self._say(f"Listening on {url}", *steps))
        finally:
            listener.close()
            connections.close_all()
            if embedded:
                embedded.stop()
        if server.failed:
            sys.exit(1)

    def _prepare(self, url: str, *, migrate: bool) -> list[str]:
        embedded = bool(settings.EMBEDDED_DATABASE)
        self._migrate(allowed=embedded or migrate)
        # No page shall hear "connected" of a link that ended with the last run.
        if not embedded:
            proofs.demote_unowned()
            return []
        claims.forget_owners()
        proofs.demote_unowned(grace=0)
        return self._first_steps(url)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.stdout.write(line)
        self.stdout.flush()

    def _migrate(self, *, allowed: bool) -> None:
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if not plan:
            return
        if not allowed:
            raise CommandError(
                f"The database lacks {len(plan)} migrations. Run `manage.py migrate` "
                "(with --fake-initial on the previous service's database), "
                "or start with --migrate."
            )
        call_command("migrate", fake_initial=True, interactive=False, verbosity=0)

    def _first_steps(self, url: str) -> list[str]:
        """Make what a newcomer needs to look around, and say where to look."""
        users = get_user_model()._default_manager
        if not users.exists():
            password = secrets.token_urlsafe(12)
            users.create_superuser(username="admin", email="", password=password)
            self._say(
                f"First start: you are admin, with the password {password}",
                "(shown only now; manage.py changepassword admin sets another).",
            )
        salon = Salon.objects.order_by("pk").first()
        if salon is None:
            salon = salons.create(FIRST_SALON, "Первый салон")
        token = tokens.issue(salon)
        return [
            f"Admin: {url}/admin/",
            f"Page of salon {salon.salon_id}, for an hour: "
            f"{url}/marketplace/connect#token={token}",
        ]


class PageServer:
    """Daphne on a socket of ours, with the gateway in its event loop."""

    def __init__(self, listener: socket.socket, *, gateway: bool) -> None:
        """Keep what is to be served.

        Args:
            listener: a listening socket.
            gateway: run the gateway too.
        """
        self.failed = False
        self._listener = listener
        self._wants_gateway = gateway
        self._stop = asyncio.Event()
        self._gateway: asyncio.Task[None] | None = None
        self._reactor: Any = None
        self._server: Any = None
        self._port: Any = None

    def run(self, when_ready: Callable[[], None]) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP, or until the gateway fails."""
        # Installs Twisted's reactor and takes most of a second: not for those
        # who only ask for the help of this command.
        from daphne.server import Server
        from twisted.internet import reactor

        # Twisted fills in the module's attributes when a reactor is installed.
        self._reactor = reactor
        server = self._server = Server(
            application=get_default_application(),
            # Replaced by our socket: an endpoint cannot be handed one without
            # a search through all plugins of Twisted.
            endpoints=["ours"],
            websocket_max_message_size=LARGEST_MESSAGE,
            websocket_max_frame_size=LARGEST_MESSAGE,
            # A page may stay open for days; a dead one fails its pings.
            websocket_timeout=-1,
            server_name="aiadmin",
        )
        server.endpoints = []

        def start() -> None:
            self._port = self._reactor.adoptStreamPort(
                self._listener.fileno(), self._listener.family, server.http_factory
            )
            # The port has a copy; a second one would go on taking connections.
            self._listener.close()
            self._when_told_to_stop()
            if self._wants_gateway:
                self._gateway = asyncio.create_task(self._run_gateway())
            when_ready()
            interpreter.settle()

        # Daphne has no lifespan: the loop runs from the first callLater on.
        self._reactor.callWhenRunning(lambda: self._reactor.callLater(0, start))
        self._reactor.addSystemEventTrigger("before", "shutdown", self._hand_over)
        server.run()

    def _when_told_to_stop(self) -> None:
        # After Twisted has set its own, which end all requests at once.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._reactor.callFromThread(self._drain)

    def _drain(self) -> None:
        """Refuse connections and answer requests, then stop; told twice: stop."""
        port, self._port = self._port, None
        if port is None:
            self._stop_reactor()
            return
        self._stop.set()
        # Whoever waits to be taken would be cut off, and a proxy repeats no POST.
        port.doRead()
        port.stopListening()
        self._reactor.callLater(
            DRAIN_PAUSE, self._stop_when_answered, time.monotonic() + DRAIN_SECONDS
        )

    def _stop_when_answered(self, deadline: float) -> None:
        if self._is_answering() and time.monotonic() < deadline:
            self._reactor.callLater(DRAIN_LOOK, self._stop_when_answered, deadline)
        else:
            self._stop_reactor()

    def _is_answering(self) -> bool:
        from daphne.http_protocol import WebRequest

        # Not WebSockets: their pages connect to another server, and lose nothing.
        return any(
            isinstance(protocol, WebRequest) and not _is_over(details)
            for protocol, details in self._server.connections.items()
        )

    def _stop_reactor(self) -> None:
        from twisted.internet.error import ReactorNotRunning

        with contextlib.suppress(ReactorNotRunning):
            self._reactor.stop()

    async def _run_gateway(self) -> None:
        from whatsapp.management.commands.whatsapp_gateway import run_until

        try:
            await run_until(self._stop)
        except Exception:
            logger.exception(
                "The gateway failed; the service ends",
                extra=alerts.tags("gateway_failed", component="gateway"),
            )
            self.failed = True
            if not self._stop.is_set():
                self._reactor.stop()

    def _hand_over(self) -> "Deferred[None] | None":
        from twisted.internet.defer import Deferred

        self._stop.set()
        if self._gateway is None:
            return None
        return Deferred.fromFuture(self._gateway)


def _load_pages() -> None:
    """Load now what the first visitor would wait for otherwise."""
    urls.get_resolver().url_patterns  # noqa: B018  (a property that imports them all)
    get_template("whatsapp/marketplace.html")


def _is_over(details: dict[str, Any]) -> bool:
    """Say whether a connection of daphne's was answered, and nothing works on it."""
    application = details.get("application_instance")
    return "disconnected" in details and (application is None or application.done())


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError(f"Cannot serve on {host}: {error.strerror}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"Cannot serve on {host}:{port}: {error.strerror}. "
            "Another port: --port, or make run PORT=…"
        ) from error
    listener.setblocking(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow(host: str) -> None:
    """Answer under the name that the server was told to serve on."""
    name = f"[{host}]" if ":" in host else host
    if host not in EVERYWHERE and name not in settings.ALLOWED_HOSTS:
        settings.ALLOWED_HOSTS.append(name)
