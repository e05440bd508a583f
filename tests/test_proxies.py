"""Who asks is told by proxies that we trust, and by nobody else."""

import asyncio
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from channels.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from hypothesis import given
from hypothesis import strategies as st

from aiadmin import asgi, proxies
from aiadmin.proxies import ClientAddress, TrustedProxies
from tests.pages import HEADERS
from whatsapp import addresses

TRUSTED = TrustedProxies.read(["10.0.0.0/8", "fd00::/8"])
OURS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))

own = st.one_of(*(st.ip_addresses(network=network) for network in OURS))


def is_stranger(address: Any) -> bool:
    known = addresses.read(str(address))
    return known is not None and known not in TRUSTED


strangers = st.ip_addresses().filter(is_stranger)
written = st.text(
    st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40
)
forged = st.lists(st.one_of(written, own.map(str), strangers.map(str)), max_size=4)
secure = st.sampled_from(["https", "HTTPS", " https "])


def scope_of(
    peer: Any, *headers: tuple[str, str], kind: str = "http"
) -> dict[str, Any]:
    return {
        "type": kind,
        "scheme": "http",
        "root_path": "",
        "client": None if peer is None else [str(peer), 4711],
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers
        ],
    }


def who(scope: dict[str, Any]) -> str:
    return str(addresses.read(scope["client"][0]))


def plain(address: Any) -> str:
    return str(addresses.read(str(address)))


# --- what strangers write changes nothing ---------------------------------------------


@given(peer=strangers, chain=forged, proto=st.one_of(secure, written))
def test_a_stranger_is_who_he_is_whatever_he_writes(peer, chain, proto):
    scope = scope_of(
        peer,
        ("host", "one.example"),
        ("x-forwarded-for", ", ".join(chain)),
        ("x-forwarded-proto", proto),
    )
    seen = proxies.seen(scope, TRUSTED)
    assert seen == {**scope, "headers": [(b"host", b"one.example")]}


@given(
    client=strangers,
    hops=st.lists(own, min_size=1, max_size=4),
    chain=forged,
    apart=st.booleans(),
)
def test_behind_our_proxies_a_client_is_who_the_first_of_them_saw(
    client, hops, chain, apart
):
    """Each proxy adds who is connected to it: the client, then one another."""
    added = [str(client), *map(str, hops[:-1])]
    lines = (
        [", ".join(chain), ", ".join(added)] if apart else [", ".join(chain + added)]
    )
    headers = [("x-forwarded-for", line) for line in lines]
    seen = proxies.seen(scope_of(hops[-1], *headers), TRUSTED)
    assert who(seen) == plain(client)
    assert seen["headers"] == []


@given(peer=own, chain=forged)
def test_whatever_a_proxy_hands_on_there_is_an_address(peer, chain):
    seen = proxies.seen(scope_of(peer, ("x-forwarded-for", ",".join(chain))), TRUSTED)
    known = {plain(peer), *(plain(each) for each in ",".join(chain).split(","))}
    assert who(seen) in known


@given(st.lists(st.sampled_from(proxies.FORGEABLE), min_size=1), strangers)
def test_what_claims_an_address_reaches_nobody(names, peer):
    headers = [(name.decode(), "192.0.2.1") for name in names]
    headers += [(name.replace("-", "_"), value) for name, value in headers]
    headers += [("x-forwarded-host", "evil.example"), ("x_forwarded_for", "192.0.2.1")]
    for trusted in (TrustedProxies(), TRUSTED):
        assert proxies.seen(scope_of(peer, *headers), trusted)["headers"] == []


def test_nobody_says_under_which_address_we_are():
    for peer in ("192.0.2.7", "10.0.0.1"):
        scope = {**scope_of(peer), "root_path": "//evil.example"}
        assert proxies.seen(scope, TRUSTED)["root_path"] == ""


# --- the ways in which an address is written ------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:61234", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:61234", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::7"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2.007", None),
        ("192.0.2.7:x", None),
        ("192.0.2", None),
        ("2001:db8::7]:443", None),
        ("1" * 100_000, None),
    ],
)
def test_an_address_is_read_as_proxies_write_it(text: str, address: str | None):
    assert addresses.read(text) == (None if address is None else ip_address(address))


def test_an_address_of_the_new_kind_counts_with_its_whole_network():
    assert addresses.household("2001:db8:0:1::7") == addresses.household(
        "2001:db8:0:1:ffff::8"
    )
    assert addresses.household("2001:db8:0:1::7") != addresses.household(
        "2001:db8:0:2::7"
    )
    assert addresses.household("::ffff:192.0.2.7") == addresses.household("192.0.2.7")
    assert addresses.household("192.0.2.7") != addresses.household("192.0.2.8")
    assert addresses.household("unix:/run/x") == ""


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("", "10.0.0.1"),
        ("10.0.0.9", "10.0.0.9"),  # a client inside of our own network
        ("192.0.2.7, garbage", "10.0.0.1"),
        ("garbage, 10.0.0.9", "10.0.0.9"),
        ("198.51.100.1, 192.0.2.7, 10.0.0.9", "192.0.2.7"),
        ("192.0.2.7:61234, ::ffff:10.0.0.9", "192.0.2.7"),
    ],
)
def test_the_walk_goes_from_the_right_and_ends_at_a_stranger(chain: str, client: str):
    seen = proxies.seen(scope_of("10.0.0.1", ("x-forwarded-for", chain)), TRUSTED)
    assert who(seen) == client


def test_a_proxy_is_trusted_however_the_listener_writes_its_address():
    header = ("x-forwarded-for", "192.0.2.7")
    assert (
        who(proxies.seen(scope_of("::ffff:10.0.0.1", header), TRUSTED)) == "192.0.2.7"
    )


def test_a_unix_socket_is_trusted_only_if_that_is_said():
    scope = scope_of(
        None, ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")
    )
    believed = proxies.seen(scope, TrustedProxies.read(["unix"]))
    assert (who(believed), believed["scheme"]) == ("192.0.2.7", "https")
    assert proxies.seen(scope, TRUSTED) == {**scope, "headers": []}


# --- the scheme -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "protos", "scheme"),
    [
        ("http", ["https"], "https"),
        ("http", ["HTTPS"], "https"),
        ("http", ["http"], "http"),
        ("http", [], "http"),
        ("http", ["gopher"], "http"),
        # Forged by the client, and appended to by a proxy that does not replace it.
        ("http", ["https", "http"], "http"),
        ("http", ["https, http"], "http"),
        ("http", ["https, https"], "https"),
        ("websocket", ["https"], "wss"),
    ],
)
def test_the_scheme_is_what_all_proxies_say(kind: str, protos: list[str], scheme: str):
    headers = [("x-forwarded-proto", proto) for proto in protos]
    seen = proxies.seen(scope_of("10.0.0.1", *headers, kind=kind), TRUSTED)
    assert seen["scheme"] == scheme


# --- in the service -------------------------------------------------------------------


async def test_whatever_is_no_request_passes():
    async def lifespan(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": scope["type"]})

    asked = ApplicationCommunicator(ClientAddress(lifespan), {"type": "lifespan"})
    async with asyncio.timeout(60):
        assert await asked.receive_output() == {"type": "lifespan"}


async def ask(
    application: Any, peer: str, **headers: str
) -> tuple[int, dict[str, str]]:
    scope = scope_of(peer, *HEADERS.items(), *headers.items())
    scope |= {"method": "GET", "path": "/marketplace/connect", "query_string": b""}
    asked = ApplicationCommunicator(application, scope)
    await asked.send_input({"type": "http.request", "body": b""})
    answer = await asked.receive_output(timeout=60)
    await asked.wait(timeout=60)
    found = {name.decode(): value.decode() for name, value in answer["headers"]}
    return answer["status"], found


BY_HTTPS = {"x-forwarded-proto": "https"}


async def test_only_a_trusted_proxy_may_say_that_a_request_came_by_https(settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.TRUSTED_PROXIES = TRUSTED
    # Django's middleware reads the setting when it is made.
    application = ClientAddress(get_asgi_application())
    status, headers = await ask(application, "192.0.2.7", **BY_HTTPS)
    assert status == 301
    assert headers["Location"] == "https://testserver/marketplace/connect"
    status, _headers = await ask(application, "10.0.0.1", **BY_HTTPS)
    assert status == 200


async def test_the_whole_service_knows_the_scheme(settings):
    settings.TRUSTED_PROXIES = TRUSTED
    _status, headers = await ask(asgi.application, "10.0.0.1", **BY_HTTPS)
    assert "wss://testserver" in headers["Content-Security-Policy"]
    _status, headers = await ask(asgi.application, "192.0.2.7", **BY_HTTPS)
    assert "wss://" not in headers["Content-Security-Policy"]
