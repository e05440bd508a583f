from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory

from aiadmin.middleware import ContentSecurityPolicyMiddleware

pytestmark = pytest.mark.django_db


def answer(path: str, **headers: str) -> HttpResponse:
    """Answer as if a view had: with the frame header that Django adds."""

    def view(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(headers={"X-Frame-Options": "DENY"})

    request = RequestFactory().get(path, headers=headers)
    return ContentSecurityPolicyMiddleware(view)(request)


def policy(response: Any) -> dict[str, str]:
    parts = response.headers["Content-Security-Policy"].split("; ")
    return dict(part.split(" ", 1) for part in parts)


def test_the_admin_cannot_be_framed_and_runs_no_inline_script(client: Client):
    response = client.get("/admin/login/")
    assert response.status_code == 200
    assert response.headers["X-Frame-Options"] == "DENY"
    rules = policy(response)
    assert rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == "'self' 'unsafe-eval'"  # no 'unsafe-inline'
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self' ws://testserver"


def test_the_salons_page_can_be_framed_by_the_marketplace_only(settings: Any):
    settings.MARKETPLACE_ALLOWED_ORIGINS = ["https://a.example", "https://n*.b.example"]
    response = answer("/marketplace/connect")
    assert policy(response)["frame-ancestors"] == "'self' https://a.example"
    assert "X-Frame-Options" not in response.headers
    assert "Referer" in response.headers["Vary"]


@pytest.mark.parametrize(
    ("referrer", "expected"),
    [
        ("https://n12.b.example/salon/7", "'self' https://n12.b.example"),
        ("https://n12.b.example.evil/", "'self'"),
        ("https://n1.evil.b.example/", "'self'"),
        ("https://n1;script-src *.b.example/", "'self'"),
        ("not an address", "'self'"),
    ],
)
def test_a_pattern_lets_in_the_one_page_that_embeds(
    settings: Any, referrer: str, expected: str
):
    settings.MARKETPLACE_ALLOWED_ORIGINS = ["https://n*.b.example"]
    response = answer("/marketplace/connect", Referer=referrer)
    assert policy(response)["frame-ancestors"] == expected


async def test_static_files_are_served_without_a_collecting_step(
    async_client: AsyncClient,
):
    response = await async_client.get("/static/admin/css/base.css")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/css")
    assert b"body" in response.content


def test_the_start_page_leads_to_the_admin(client: Client):
    response = client.get("/")
    assert (response.status_code, response.headers["Location"]) == (302, "/admin/")


def test_people_are_addressed_in_russian_unless_they_prefer_english(client: Client):
    assert "Войти" in client.get("/admin/login/").content.decode()
    english = client.get("/admin/login/", headers={"Accept-Language": "en"})
    assert "Log in" in english.content.decode()
