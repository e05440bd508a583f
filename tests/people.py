"""People of the staff for a running service, and their logins."""

import base64
import hashlib
import http.cookiejar
import re
import urllib.parse
import urllib.request

from tests.scenarios import SalonUnderTest, World

PASSWORD = "invented for tests"


def make_person(
    world: World,
    username: str,
    role: str = "",
    *salons: SalonUnderTest,
    superuser: bool = False,
) -> int:
    """Write a user and what he is to the salons; return his primary key.

    Args:
        world: where.
        username: his name.
        role: in each of ``salons``; ``support`` needs none.
        salons: that he works for.
        superuser: whether he may everything.
    """
    ((pk,),) = world.query(
        "INSERT INTO auth_user (password, is_superuser, username, first_name,"
        " last_name, email, is_staff, is_active, date_joined)"
        " VALUES (%s, %s, %s, '', '', '', true, true, now()) RETURNING id",
        _hash(PASSWORD),
        superuser,
        username,
    )
    nowhere: list[int | None] = [None] if role else []
    for salon_pk in [salon.pk for salon in salons] or nowhere:
        world.query(
            "INSERT INTO whatsapp_membership (user_id, salon_id, role)"
            " VALUES (%s, %s, %s)",
            pk,
            salon_pk,
            role,
        )
    return int(pk)


def log_in(world: World, username: str) -> str:
    """Log in as a browser does; return the value of the login session's cookie."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    url = f"{world.server.url.rstrip('/')}/admin/login/"
    with opener.open(url) as answer:
        form = re.search(
            r'name="csrfmiddlewaretoken" value="(\w+)"', answer.read().decode()
        )
    assert form
    data = {
        "csrfmiddlewaretoken": form[1],
        "username": username,
        "password": PASSWORD,
        "next": "/healthz",
    }
    opener.open(url, urllib.parse.urlencode(data).encode()).close()
    return str(next(cookie.value for cookie in jar if cookie.name == "sessionid"))


def _hash(password: str) -> str:
    """Django's form of a hash, with one round: a login in a test need not be slow."""
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", 1)
    return f"pbkdf2_sha256$1$salt${base64.b64encode(digest).decode()}"
