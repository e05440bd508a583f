"""`whatsapp_key create|list|revoke [--json]`: keys of the API, for programs."""

from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.salon_command import ACTOR, SalonCommand
from whatsapp.models import ApiKey, Salon
from whatsapp.roles import Scope
from whatsapp.services import api_keys, words


class Command(SalonCommand):
    """Makes keys, shows what there are, and ends them."""

    help = "Make, list or revoke keys of the API."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare what can be done, and with what."""
        done = parser.add_subparsers(dest="done", required=True)
        create = done.add_parser("create", help="make a key; it is shown once")
        where = create.add_mutually_exclusive_group(required=True)
        where.add_argument("--salon", help="salon id, or company_<salon id>")
        where.add_argument("--service", action="store_true", help="for all salons")
        create.add_argument("--name", required=True, help="of the program")
        create.add_argument(
            "--scopes", required=True, help=f"some of {','.join(Scope)}, with commas"
        )
        create.add_argument("--days", type=int, help="until it expires; else never")
        shown = done.add_parser("list", help="show keys, without what opens anything")
        shown.add_argument("--salon", help="of this salon only")
        revoke = done.add_parser("revoke", help="end a key")
        revoke.add_argument("beginning", help="its first part: wak_ and ten letters")
        for parsed in (create, shown, revoke):
            self.add_json(parsed)

    def handle(self, *_args: Any, done: str, **options: Any) -> None:
        """Do it."""
        if done == "create":
            self._create(**options)
        elif done == "list":
            self._list(options["salon"], as_json=options["as_json"])
        else:
            self._revoke(options["beginning"], as_json=options["as_json"])

    def _create(
        self,
        salon: str | None,
        name: str,
        scopes: str,
        days: int | None,
        as_json: bool,
        **_options: Any,
    ) -> None:
        if days is not None and not 0 < days <= api_keys.MOST_DAYS:
            raise CommandError(f"--days is a number from 1 to {api_keys.MOST_DAYS}.")
        try:
            key, text = api_keys.create(
                ACTOR,
                None if salon is None else self.find(salon),
                name,
                [scope.strip() for scope in scopes.split(",")],
                None if days is None else timedelta(days=days),
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stderr.write(
            f"Whoever has this key may {', '.join(key.scopes)} {_where(key.salon)}"
            f" {_until(key)}. It is shown only now."
        )
        self.answer({"key": text, **_as_json(key)}, text, as_json=as_json)

    def _list(self, salon: str | None, *, as_json: bool) -> None:
        keys = ApiKey.objects.select_related("salon").order_by("pk")
        if salon is not None:
            keys = keys.filter(salon=self.find(salon))
        lines = [_described(key) for key in keys]
        self.answer(
            [_as_json(key) for key in keys],
            "\n".join(lines) or "There are no keys: make one with whatsapp_key create.",
            as_json=as_json,
        )

    def _revoke(self, beginning: str, *, as_json: bool) -> None:
        prefix = beginning.removeprefix(api_keys.BEGINNING).partition("_")[0]
        key = ApiKey.objects.filter(prefix=prefix).first()
        if key is None:
            raise CommandError(f"There is no key that begins with wak_{prefix[:10]}.")
        now = api_keys.revoke(ACTOR, key)
        key.refresh_from_db()
        was = "is revoked" if now else "was revoked before"
        self.answer(_as_json(key), f"{key} {was}.", as_json=as_json)


def _described(key: ApiKey) -> str:
    used = "never" if key.last_used_at is None else _day(key.last_used_at)
    return (
        f"{api_keys.BEGINNING}{key.prefix}  {key.name}: {','.join(key.scopes)}"
        f" {_where(key.salon)}, {_until(key)}; made by"
        f" {words.actor(key.created_by)}, last used {used}"
    )


def _as_json(key: ApiKey) -> dict[str, Any]:
    return {
        "beginning": f"{api_keys.BEGINNING}{key.prefix}",
        "name": key.name,
        "session_id": key.salon and key.salon.session_id,
        "scopes": key.scopes,
        "created_by": key.created_by,
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
        "last_used_at": _iso(key.last_used_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _where(salon: Salon | None) -> str:
    return "all salons" if salon is None else salon.session_id


def _until(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    return "for ever" if key.expires_at is None else f"until {_day(key.expires_at)}"


def _day(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
