"""What happens to salons' sessions, for code of others: Django signals.

Sent by the gateways, after the change is committed, from a thread that is in no
transaction. Each change is told at least once: a crash may repeat one, with the same
``change``. The changes of a salon come in order. docs/operations.md has an example.

All have ``salon_id`` (the marketplace's number), ``session_id``, ``at`` (a datetime).
"""

from django.dispatch import Signal

session_status_changed = Signal()
"""``before``, ``after`` (statuses), ``reason``, ``owner`` (the gateway), ``change``."""

session_flapping = Signal()
"""Too many changes: ``status``, ``reason``, ``changes`` (so many), ``seconds`` (in so
many), ``change``. None of this salon is told any more until ``session_settled``."""

session_settled = Signal()
"""It is over: ``status``, ``reason``, ``changes`` (so many were not told), ``since``."""
