"""Before somebody looks: what is not true any more is taken back.

Gateways and the pages' sockets sweep while there are any. Who reads rows without them,
over the API, in the admin or by a command, sweeps first, or would be told what died
with the last gateway.
"""

import time
from threading import Lock

from django.conf import settings

from whatsapp.services import attempts, proofs

_turn = Lock()
_next = 0.0
"""When the next look of this process is due; of the monotonic clock."""


def before_reading() -> None:
    """Sweep, if nobody in this process has within WHATSAPP_LOOK_INTERVAL.

    So what is read is never older than that, and costs no more however many read.
    """
    global _next  # one pace for all threads of the process
    with _turn:
        now = time.monotonic()
        if now < _next:
            return
        _next = now + settings.WHATSAPP_LOOK_INTERVAL
    sweep()


def sweep() -> None:
    """End overdue attempts, and call nothing connected that nobody proves.

    Two cheap queries, as long as everything is true.
    """
    attempts.expire_overdue()
    proofs.demote_unproved()
