"""Changes of salons' states at a steady pace, told as the services tell them.

A process of pages.py: reads one JSON object ({"salons": {pk: status}, "rate": 1/s,
"seconds": s}) and prints one line per change, "pk status time" by the monotonic clock,
which all processes of a machine share. The statuses are two that need no gateway at work.
"""

import json
import sys
import time

import django

OTHER = {"stopped": "logged_out", "logged_out": "stopped"}


def main() -> None:
    """Change one salon after the other."""
    django.setup()
    from django.db import connection, transaction

    from whatsapp import events

    order = json.loads(sys.stdin.readline())
    salons = {int(pk): status for pk, status in order["salons"].items()}
    pks, interval = list(salons), 1 / order["rate"]
    connection.ensure_connection()
    began = time.monotonic()
    for number in range(int(order["rate"] * order["seconds"])):
        due = began + number * interval
        while (left := due - time.monotonic()) > 0:
            time.sleep(left)
        pk = pks[number % len(pks)]
        salons[pk] = OTHER[salons[pk]]
        told = time.monotonic()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "UPDATE whatsapp_whatsappsession SET status = %s, since = now(),"
                " revision = revision + 1 WHERE salon_id = %s",
                [salons[pk], pk],
            )
            events.publish(pk)
        sys.stdout.write(f"{pk} {salons[pk]} {told}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
