"""The documented nginx in front of real page servers."""

import asyncio
import http.client
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import websockets

from tests.admin_world import PASSWORD, SUPERUSER, make_user
from tests.factories import make_salon
from tests.nginx_server import MISSING, NAME, PROGRAM, Nginx
from tests.pages import call
from tests.server import Server
from whatsapp import failures
from whatsapp.services import tokens

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not PROGRAM, reason=MISSING),
]

# nginx itself comes from 127.0.0.1, the only address that is trusted.
HERE, THERE = "127.0.0.2", "127.0.0.3"
SETTINGS = {
    "DJANGO_HTTPS": "1",
    "DJANGO_ALLOWED_HOSTS": NAME,
    "TRUSTED_PROXIES": "127.0.0.1",
    "WHATSAPP_WS_URL": "ws://127.0.0.1:9",
}


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: str


class Service:
    """Two page servers, and nginx before them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = [self.start_page() for _ in range(2)]
        self.nginx = Nginx(folder, [self.address(page) for page in self.pages])

    def start_page(self, port: int = 0) -> Server:
        return Server.start(self.folder, SETTINGS, gateway=False, port=port)

    @staticmethod
    def address(page: Server) -> str:
        return page.url.removeprefix("http://")

    def connect(self, address: str) -> socket.socket:
        """Connect to nginx as a client with ``address``."""
        return socket.create_connection(
            ("127.0.0.1", self.nginx.https), timeout=120, source_address=(address, 0)
        )

    def ask(
        self,
        method: str,
        path: str,
        address: str = HERE,
        body: str = "",
        **headers: str,
    ) -> Answer:
        connection = http.client.HTTPConnection(NAME)
        connection.sock = self.nginx.tls.wrap_socket(
            self.connect(address), server_hostname=NAME
        )
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, {"Host": NAME, **names})
        with connection.getresponse() as response:
            answer = Answer(response.status, response.headers, response.read().decode())
        connection.close()
        return answer

    def log_in(
        self, name: str, password: str, address: str = HERE, **more: str
    ) -> Answer:
        form = self.ask("GET", "/admin/login/", address)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.body)
        assert token, form
        cookie = SimpleCookie(form.headers["Set-Cookie"])["csrftoken"]
        assert cookie["secure"]
        return self.ask(
            "POST",
            "/admin/login/",
            address,
            f"csrfmiddlewaretoken={token[1]}&username={name}&password={password}",
            Cookie=f"csrftoken={cookie.value}",
            Referer=f"https://{NAME}/admin/login/",
            Content_Type="application/x-www-form-urlencoded",
            Accept_Language="en",
            **more,
        )

    def stop(self) -> None:
        self.nginx.__exit__(None, None, None)
        for page in self.pages:
            page.stop()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    try:
        yield running
    finally:
        running.stop()


def ask_page_itself(page: Server, address: str, **headers: str) -> Answer:
    """Ask a page server past nginx."""
    host, port = Service.address(page).split(":")
    connection = http.client.HTTPConnection(
        host, int(port), timeout=120, source_address=(address, 0)
    )
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", "/marketplace/connect", None, {"Host": NAME, **names})
    with connection.getresponse() as response:
        answer = Answer(response.status, response.headers, "")
    connection.close()
    return answer


def test_pages_come_by_https_and_probes_do_not_come_out(service: Service):
    answer = service.ask("GET", "/marketplace/connect")
    assert answer.status == 200
    assert f"wss://{NAME}" in answer.headers["Content-Security-Policy"]
    assert "max-age" in answer.headers["Strict-Transport-Security"]
    assert service.ask("GET", "/static/admin/css/base.css").status == 200
    for path in ("/metrics", "/healthz", "/readyz"):
        assert service.ask("GET", path).status == 404
    plain = http.client.HTTPConnection("127.0.0.1", service.nginx.http, timeout=120)
    plain.request("GET", "/admin/", headers={"Host": NAME})
    with plain.getresponse() as response:
        assert response.status == 301
        assert response.headers["Location"] == f"https://{NAME}/admin/"
    plain.close()
    # Past nginx nobody is believed that he came by HTTPS.
    page = service.pages[0]
    by_https = {"X_Forwarded_Proto": "https"}
    assert ask_page_itself(page, HERE, **by_https).status == 301
    assert ask_page_itself(page, "127.0.0.1", **by_https).status == 200


async def test_a_websocket_comes_through(service: Service):
    salon = await call(make_salon)
    token = await call(tokens.issue, salon)
    async with websockets.connect(
        f"wss://{NAME}/ws/marketplace/",
        sock=await asyncio.to_thread(service.connect, HERE),
        ssl=service.nginx.tls,
        server_hostname=NAME,
        origin=websockets.Origin(f"https://{NAME}"),
        additional_headers={"Authorization": f"Bearer {token}"},
        open_timeout=120,
    ) as page:
        told = json.loads(await page.recv())
        assert (told["event"], told["data"]["status"]) == ("status", "unlinked")
    assert "error" not in service.nginx.errors


def test_clients_behind_it_are_told_apart_and_cannot_pretend(
    service: Service, settings: Any
):
    # The servers know nothing of the tests' quick passwords.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    anna = make_user(SUPERUSER, password=PASSWORD).username
    password = PASSWORD.replace(" ", "+")
    # As many as are free, and the one that begins the wait. Each server counts for
    # itself, but an address always comes to the same one.
    free = failures.LOGINS_HERE._free
    for _ in range(free + 1):
        assert service.log_in(anna, "wrong").status == 200
    assert service.log_in(anna, password).status == 429
    for name in ("X_Forwarded_For", "X_Real_IP", "Forwarded"):
        forged = {name: "127.0.0.9", "Daphne_Root_Path": "//evil.example"}
        answer = service.log_in(anna, password, **forged)
        assert answer.status == 429
        assert "evil.example" not in answer.body
    answer = service.log_in(anna, password, THERE)
    assert (answer.status, answer.headers["Location"]) == (302, "/admin/")


class Visitors:
    """People who ask, one after another, all the time; every answer is kept."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self.answers: list[tuple[str, int]] = []
        self._threads = [
            threading.Thread(target=self._visit, args=what)
            for what in (("GET", "/marketplace/connect"), ("POST", "/api/v1/sessions"))
        ]

    def _visit(self, method: str, path: str) -> None:
        while not self._over.is_set():
            try:
                status = self._service.ask(method, path, body="{}").status
            except OSError:
                status = 0
            self.answers.append((method, status))

    def wait_for_more(self) -> None:
        """Wait until some more have been answered."""
        wanted = len(self.answers) + 10
        deadline = time.monotonic() + 120
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def __enter__(self) -> "Visitors":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()


def test_page_servers_are_replaced_one_by_one_and_nobody_notices(service: Service):
    with Visitors(service) as visitors:
        for number, page in enumerate(service.pages):
            visitors.wait_for_more()
            assert page.stop() == 0, page.logs
            visitors.wait_for_more()
            port = int(Service.address(page).split(":")[1])
            service.pages[number] = service.start_page(port)
        visitors.wait_for_more()
    answers = Counter(visitors.answers)
    # What changes something is not sent twice by nginx: one that was on its way in the
    # instant of closing may be lost, and is said to be.
    cut = answers.pop(("POST", 502), 0)
    assert cut <= len(service.pages)
    assert set(answers) == {("GET", 200), ("POST", 405)}
