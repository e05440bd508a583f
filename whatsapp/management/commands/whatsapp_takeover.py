"""`whatsapp_takeover [--dry-run] [--json]`: adopt what the previous service left."""

import json
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.progress import Progress
from whatsapp.management.salon_command import ACTOR, INTERRUPTED, TablesCommand
from whatsapp.services import legacy, takeover
from whatsapp.services.takeover import Case, Outcome, Survey

NAMED = 10
"""So many ids are named in a line; all of them are in the JSON."""


class Command(TablesCommand):
    """Surveys the two old tables, and takes the salons over one by one."""

    help = "Take over the salons that the previous service left in the database."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be done, and stop"
        )
        self.add_json(parser)

    def handle(
        self, *_args: Any, dry_run: bool, as_json: bool, **_options: Any
    ) -> None:
        """Look, and do it."""
        found = takeover.survey()
        if not as_json:
            for line in _described(found):
                self.stdout.write(line)
        outcomes: Counter[str] = Counter()
        try:
            if not dry_run:
                self._carry_out(found.to_do, outcomes)
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted: {outcomes[Outcome.DONE]} of {len(found.to_do)} salons"
                " are taken over, none is half done. Run it again to go on.",
                returncode=INTERRUPTED,
            ) from None
        if as_json:
            report = _as_json(found, outcomes, dry_run=dry_run)
            self.stdout.write(json.dumps(report, ensure_ascii=False, indent=2))
        else:
            self.stdout.write(_summary(found, outcomes, dry_run=dry_run))

    def _carry_out(self, cases: list[Case], outcomes: Counter[str]) -> None:
        with Progress(self.stderr, "Taking over", len(cases)) as progress:
            for case in cases:
                outcomes[takeover.carry_out(case, ACTOR)] += 1
                progress.step()


def _named(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _ids(cases: list[Case]) -> str:
    return _named([str(case.salon_id) for case in cases])


def _described(found: Survey) -> list[str]:
    """Return the survey as lines for people; what does not occur is left out."""
    forms = ", ".join(f"{name} {count}" for name, count in sorted(found.forms.items()))
    lines = [
        f"Found: {len(found.cases)} linked salons, {found.rows} rows of creds"
        f" ({forms or 'none'}), {found.keys} keys."
    ]
    lines += [
        f"  {words}: {len(cases)} ({_ids(cases)})"
        for words, cases in _kinds(found).items()
        if cases
    ]
    dated = sum(case.plan.dated for case in found.to_do)
    if dated:
        lines.append(f"  keys whose date of expiry goes: {dated}")
    return lines + _left_alone(found)


def _kinds(found: Survey) -> dict[str, list[Case]]:
    to_do = found.to_do

    def of(field: str) -> list[Case]:
        return [case for case in to_do if getattr(case.plan, field)]

    return {
        "become salons": [case for case in to_do if case.is_new],
        "get their title": [case for case in to_do if case.title and not case.is_new],
        "move to company_<salon id>": of("move_from"),
        "have two links; the older one goes to the archive": of("archive"),
        "of these copies of one link, whose keys are merged": of("merge_keys"),
        "get the keys that lie under their other id": of("adopt_keys"),
        "lose what no phone confirmed, or has no creds, and is in the way": of(
            "discard"
        ),
        "have uninstalled: stopped, the link is kept (whatsapp_reset forgets it)": [
            case for case in to_do if case.stop
        ],
        "in use and left alone": [
            case for case in found.cases if case.in_use and not case.is_done
        ],
    }


def _left_alone(found: Survey) -> list[str]:
    lines = []
    if found.half_paired:
        lines.append(
            f"  creds that no phone confirmed: {len(found.half_paired)}"
            f" ({_named(found.half_paired)}); whatsapp_cleanup deletes them"
        )
    if found.orphans:
        lines.append(
            f"  keys without creds: {sum(found.orphans.values())} of"
            f" {_named(sorted(found.orphans))}; whatsapp_cleanup deletes them"
        )
    if found.foreign:
        lines.append(f"  ids that are no salon's, left alone: {_named(found.foreign)}")
    warnings = []
    if found.foreign_linked:
        warnings.append(
            f"linked creds lie under {_named(found.foreign_linked)}: say whose they are"
            " by renaming them to company_<salon id> in both tables"
        )
    warnings += [
        f"salons {_named([str(one) for one in shared])} have the same link and will"
        " throw each other out: reset all but one"
        for shared in found.shared_devices
    ]
    if found.recently_written:
        warnings.append(
            f"{found.recently_written} keys were written by the previous service within"
            f" {legacy.RECENT_MINUTES} minutes: stop it, for good"
        )
    if found.backups:
        warnings.append(
            f"{_named(found.backups)} hold copies of secrets: drop them when you can"
        )
    return lines + [f"  WARNING: {warning}" for warning in warnings]


def _summary(found: Survey, outcomes: Counter[str], *, dry_run: bool) -> str:
    if dry_run:
        return f"Nothing was changed; {len(found.to_do)} salons would be."
    said = f"Taken over: {outcomes[Outcome.DONE]}."
    if outcomes[Outcome.IN_USE]:
        said += (
            f" In use by now, and left alone: {outcomes[Outcome.IN_USE]}."
            " Run it again when the gateways are stopped."
        )
    return said


def _as_json(found: Survey, outcomes: Counter[str], *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "taken_over": outcomes[Outcome.DONE],
        "left_in_use": outcomes[Outcome.IN_USE],
        "linked_salons": len(found.cases),
        "rows": found.rows,
        "keys": found.keys,
        "forms": dict(found.forms),
        "salons": [_case(case) for case in found.cases if not case.is_done],
        "half_paired": found.half_paired,
        "keys_without_creds": found.orphans,
        "foreign_ids": found.foreign,
        "foreign_linked": found.foreign_linked,
        "shared_links": found.shared_devices,
        "recently_written_keys": found.recently_written,
        "backup_tables": found.backups,
    }


def _case(case: Case) -> dict[str, Any]:
    plan = case.plan
    facts: dict[str, Any] = {
        "new": case.is_new,
        "title": case.title,
        "move_from": plan.move_from,
        "archive": plan.archive,
        "merge_keys": plan.merge_keys,
        "adopt_keys_from": plan.adopt_keys,
        "discard": plan.discard,
        "dated_keys": plan.dated,
        "stop": case.stop,
        "in_use": case.in_use,
    }
    return {"salon_id": case.salon_id} | {
        name: fact for name, fact in facts.items() if fact
    }
