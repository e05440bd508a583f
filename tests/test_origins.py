import pytest

from whatsapp import origins

PATTERNS = ["https://allowed.example", "https://n*.yclients.example:8443", "http://*.x"]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (b"https://allowed.example", True),
        (b"HTTPS://Allowed.Example", True),
        (b"https://allowed.example:443", True),
        (b"https://allowed.example.evil", False),
        (b"https://allowed.example:8443", False),
        (b"http://allowed.example", False),
        (b"https://evil.example?https://allowed.example", False),
        (b"https://evil.example/https://allowed.example", False),
        (b"https://allowed.example@evil.example", False),
        (b"https://evil@allowed.example", False),
        (b"https://xallowed.example", False),
        (b"https://allowedxexample", False),
        (b"null", False),
        (b"", False),
        (b"file://", False),
        (b"https://", False),
        (b"https://allowed.example:port", False),
        (b"https://[", False),
        (b"\xff\xfe", False),
        (b"https://n123.yclients.example:8443", True),
        (b"https://n1.evil.yclients.example:8443", False),
        (b"https://n.yclients.example:8443", False),
        (b"https://n1.yclients.example", False),
        (b"http://salon.x", True),
        (b"http://a.b.x", False),
    ],
)
def test_an_origin_matches_a_pattern_from_end_to_end(origin: bytes, expected: bool):
    assert origins.allowed(origin, "salons.example", PATTERNS) is expected


def test_a_program_sends_no_origin_and_is_let_in_to_show_its_token():
    assert origins.allowed(None, "salons.example", [])


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (b"https://salons.example", "salons.example", True),
        (b"http://127.0.0.1:8000", "127.0.0.1:8000", True),
        (b"http://[::1]:8000", "[::1]:8000", True),
        (b"https://salons.example", "salons.example:443", True),
        (b"http://127.0.0.1:8001", "127.0.0.1:8000", False),
        (b"https://evil.example", "salons.example", False),
        (b"https://salons.example", None, False),
        (b"null", "null", False),
    ],
)
def test_our_own_pages_are_always_allowed(
    origin: bytes, host: str | None, expected: bool
):
    assert origins.allowed(origin, host, []) is expected
