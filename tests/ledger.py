"""What must be true of the tables after whatever has happened (design: invariants)."""

import re
from dataclasses import dataclass, field
from typing import Any

from tests.inline_gateways import Cluster
from tests.sealed import opened_archive, opened_creds, opened_key
from whatsapp.models import Salon

DEVICE = re.compile(r"[0-9]{7,15}:[0-9]+@s\.whatsapp\.net")
PHONE = re.compile(r"([0-9]{7,15})?")

_KEYS = "SELECT company_id, key_type, key_id, value FROM whatsapp_keys"
_ARCHIVE = """
SELECT a.id, a.salon_id, a.reason,
       'company_' || s.salon_id AS company_id, a.kid, a.payload
FROM whatsapp_archivedcredentials a JOIN whatsapp_salon s ON s.id = a.salon_id
ORDER BY a.id
"""
_SECRETS_LEFT = """
SELECT count(*) FROM whatsapp_pairingattempt
WHERE finished_at IS NOT NULL AND (code <> '' OR qr <> '' OR qr_until IS NOT NULL)
   OR finished_at IS NULL AND (deadline IS NULL OR stage = 'finishing'
                               AND (code <> '' OR qr <> ''))
   OR phone !~ '^[0-9]*$' OR linked_phone !~ '^[0-9]*$'
"""
_CROWDED = """
SELECT count(*) FROM (
    SELECT FROM whatsapp_pairingattempt WHERE finished_at IS NULL
    GROUP BY salon_id HAVING count(*) > 1
) crowded
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """Creds and keys of one device, where they lie now."""

    link: int
    written: int
    reason: str = ""
    """Of what lies in the archive."""


@dataclass(slots=True)
class Ledger:
    """Follows every device whose creds were ever stored."""

    cluster: Cluster
    salons: list[Salon]
    half_paired: set[int] = field(default_factory=set)
    """Salons in which an earlier time has left creds that no phone confirmed."""
    forgotten: set[int] = field(default_factory=set)
    """Devices that were stored when somebody asked for a reset."""
    stored: dict[int, Kept] = field(default_factory=dict)
    ever: dict[int, set[int]] = field(default_factory=dict)
    archived: list[tuple[int, int]] = field(default_factory=list)
    """(entry, salon) of what could be brought back."""
    _opened_archive: dict[int, Kept] = field(default_factory=dict)
    _written: dict[int, int] = field(default_factory=dict)

    def check(self) -> None:
        """Look at everything that must hold at any moment."""
        self.stored = self._read_stored()
        archive = self._read_archive()
        for salon in self.salons:
            self._check_salon(salon, archive.get(salon.pk, []))
        assert self.cluster.one(_SECRETS_LEFT) == 0, "what an attempt may not keep"
        assert self.cluster.one(_CROWDED) == 0, "two unfinished attempts of a salon"
        phones = self.cluster.all("SELECT phone FROM whatsapp_whatsappsession")
        assert all(PHONE.fullmatch(row.phone) for row in phones)

    def check_sockets(self) -> None:
        """At rest, no salon has two sockets, whoever runs them."""
        live: dict[str, int] = {}
        for gateway in self.cluster.gateways:
            for socket in gateway.engine.sockets.values() if gateway.engine else ():
                if socket.is_live:
                    name = socket.ref.session_id
                    live[name] = live.get(name, 0) + 1
        assert all(count == 1 for count in live.values()), f"live sockets: {live}"

    def check_looked_at(self, interval: float) -> None:
        """Where gateways look undisturbed, what pages are told is true.

        Args:
            interval: seconds between two looks.
        """
        overdue = self.cluster.one(
            "SELECT count(*) FROM whatsapp_pairingattempt WHERE finished_at IS NULL"
            " AND deadline < now() - make_interval(secs => %s)",
            interval,
        )
        assert overdue == 0, "an attempt outlives its deadline"
        open_epochs = {
            socket.ref.epoch
            for gateway in self.cluster.gateways
            for socket in (gateway.engine.sockets.values() if gateway.engine else ())
            if socket.is_open
        }
        promised = self.cluster.all(
            "SELECT salon_id, epoch FROM whatsapp_whatsappsession"
            " WHERE status IN ('open', 'degraded')"
        )
        for row in promised:
            assert row.epoch in open_epochs, f"salon {row.salon_id} is not connected"

    # Creds and keys -------------------------------------------------------------------

    def _read_stored(self) -> dict[int, Kept]:
        keys: dict[str, dict[tuple[str, str], Any]] = {}
        for row in self.cluster.all(_KEYS):
            value = opened_key(*row)
            keys.setdefault(row.company_id, {})[row.key_type, row.key_id] = value
        creds = {
            row.company_id: opened_creds(*row)
            for row in self.cluster.all("SELECT company_id, creds FROM whatsapp_auth")
        }
        found = {}
        for salon in self.salons:
            mine = keys.pop(salon.session_id, {})
            own = creds.get(salon.session_id)
            if own is None:
                assert mine == {}, "keys without creds"
                self.half_paired.discard(salon.pk)
            elif "account" in own or salon.pk not in self.half_paired:
                self.half_paired.discard(salon.pk)
                found[salon.pk] = self._judge(own, mine)
        assert keys == {}
        return found

    def _judge(
        self, creds: dict[str, Any], keys: dict[tuple[str, str], Any], reason: str = ""
    ) -> Kept:
        assert isinstance(creds.get("account"), dict), "creds that no phone confirmed"
        assert DEVICE.fullmatch(creds["me"]["id"]), "creds that are no device's"
        link = creds["link"]
        assert ("pre-key", "1") in keys, "a device without its keys"
        owners = {value["link"] for value in keys.values()}
        assert owners == {link}, f"creds of {link} with keys of {owners}"
        return Kept(link, keys["session", "x"]["written"], reason)

    def _read_archive(self) -> dict[int, list[Kept]]:
        archive: dict[int, list[Kept]] = {}
        self.archived = []
        for row in self.cluster.all(_ARCHIVE):
            if row.id not in self._opened_archive:
                self._opened_archive[row.id] = self._judge(
                    *opened_archive(*row[3:]), row.reason
                )
            self.archived.append((row.id, row.salon_id))
            archive.setdefault(row.salon_id, []).append(self._opened_archive[row.id])
        return archive

    def _check_salon(self, salon: Salon, archive: list[Kept]) -> None:
        whatsapp = self.cluster.whatsapp
        now = self.stored.get(salon.pk)
        kept = [*archive, *([now] if now else [])]
        ever = self.ever.setdefault(salon.pk, set())
        ever.update(one.link for one in kept)
        by_link = {one.link: one for one in kept}
        assert len(by_link) == len(kept), "a device is kept twice"
        for one in kept:
            assert whatsapp.links[one.link].session_id == salon.session_id
            assert one.written >= whatsapp.acknowledged.get(one.link, 0), (
                "a write that was acknowledged is lost"
            )
            assert one.written >= self._written.get(one.link, 0), (
                "an old value has overwritten a newer one"
            )
            self._written[one.link] = one.written
        for link in ever:
            self._check_fate(link, by_link.get(link), ever)

    def _check_fate(self, link: int, kept: Kept | None, ever: set[int]) -> None:
        whatsapp = self.cluster.whatsapp
        if link in self.forgotten:
            assert kept is None or kept.reason, "what was reset is stored again"
        elif kept is None:
            # A first login that was refused: there never was such a device.
            refused = link in whatsapp.refused and link not in whatsapp.opened
            assert refused, f"the creds of device {link} are lost"
        elif kept.reason == "logged_out":
            assert link in whatsapp.refused, "a logout that nobody has confirmed"
        elif kept.reason == "replaced":
            assert any(other > link for other in ever), "replaced by nothing"
