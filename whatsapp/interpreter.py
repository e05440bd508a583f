"""How Python itself is set up in a process that people wait for."""

import gc
import sys

SWITCH_SECONDS = 0.001


def settle() -> None:
    """Let nobody wait for the interpreter. Call it once all that stays is loaded.

    The event loop shares the interpreter with the threads that ask the database, and has
    to get it back after every word to a socket: it waits 1 ms for that, not 5. What is
    loaded by now is never garbage: to look through it again would stop everybody for a
    tenth of a second, several times in a busy minute.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
