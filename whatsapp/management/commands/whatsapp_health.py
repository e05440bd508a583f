"""`whatsapp_health [--json]`: is the service well, and if not, why."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from django.utils import translation

from whatsapp.management.salon_command import TablesCommand
from whatsapp.services import health
from whatsapp.services.health import GatewayHealth, Health


class Command(TablesCommand):
    """Ends with exit code 0 if nobody has to act, else with 1."""

    help = "Say how the service is; exit code 1, and why, if somebody has to act."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        self.add_json(parser)

    def handle(self, *_args: Any, as_json: bool, **_options: Any) -> None:
        """Look, and say it."""
        with translation.override("en"):
            found = health.check()
        if as_json:
            report = {"ok": found.ok, **asdict(found)}
            self.stdout.write(json.dumps(report, ensure_ascii=False, indent=2))
        else:
            for line in _described(found):
                self.stdout.write(line)
        if not found.ok:
            raise CommandError(" ".join(found.problems))


def _described(found: Health) -> list[str]:
    if found.database != "ok" or found.missing_migrations:
        return []
    counts = ", ".join(f"{name} {n}" for name, n in found.statuses.items() if n)
    proof = found.oldest_proof
    facts = {
        "database": found.database,
        "channel layer": found.channel_layer,
        "salons": counts or "none",
        "not open": f"{len(found.not_open)} of those that are linked and wanted",
        "oldest proof": "-" if proof is None else f"{proof:.0f} s ago",
        "overdue": f"{found.overdue_attempts} link attempts",
        "untold": f"{found.untold} changes of status",
    }
    lines = [f"{name:<14} {fact}" for name, fact in facts.items()]
    for gateway in found.gateways:
        lines += _gateway(gateway)
    return lines + [f"notice: {notice}" for notice in found.notices]


def _gateway(gateway: GatewayHealth) -> list[str]:
    ago = f"looked {gateway.looked_ago:.0f} s ago"
    if not gateway.alive:
        return [f"gateway        {gateway.name}: lost, {ago}"]
    lines = [f"gateway        {gateway.name}: {gateway.salons} salons, {ago}"]
    for engine in gateway.engines:
        lines.append(
            f"  Node.js {engine['process'] or '(ward)'}"
            f" process {engine['pid'] or 'down'}, {engine['sessions']} sessions,"
            f" {engine['rss'] / 2**20:.0f} MB, lag {engine['lag_max_ms']:.0f} ms,"
            f" {engine['restarts']} restarts"
        )
    return lines
