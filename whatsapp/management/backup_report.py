"""What the commands about backups say of one: all but the secrets."""

from datetime import UTC, datetime
from typing import Any

from whatsapp.phones import mask_phone
from whatsapp.services.backup import Backup


def described(found: Backup) -> list[str]:
    """Return lines for people."""
    keys = ", ".join(f"{name} {count}" for name, count in _by_number(found))
    facts = {
        "phone": f"{mask_phone(found.phone)}, device {found.device}",
        "taken": f"{_time(found.taken_at)}, {_age(found.taken_at)} ago",
        "written": f"{_time(found.written_at)}, epoch {found.epoch},"
        f" batch {found.written}",
        "status": found.status + (", it ran" if found.running else ""),
        "keys": keys or "none",
    }
    lines = [f"company_{found.salon_id}  {found.title}"]
    return lines + [f"  {name:<8} {fact}" for name, fact in facts.items()]


def as_json(found: Backup) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "salon_id": found.salon_id,
        "session_id": f"company_{found.salon_id}",
        "title": found.title,
        "phone": mask_phone(found.phone),
        "device": found.device,
        "taken_at": _time(found.taken_at),
        "written_at": _time(found.written_at),
        "status": found.status,
        "running": found.running,
        "epoch": found.epoch,
        "written": found.written,
        "keys": dict(_by_number(found)),
    }


def _by_number(found: Backup) -> list[tuple[str, int]]:
    return sorted(found.counts.items(), key=lambda one: (-one[1], one[0]))


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _age(at: datetime) -> str:
    minutes = max(0, int((datetime.now(UTC) - at).total_seconds())) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"
