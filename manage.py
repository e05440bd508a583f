#!/usr/bin/env python
"""Django's entry point."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

from aiadmin.embedded import EmbeddedError

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiadmin.settings")
    try:
        execute_from_command_line(sys.argv)
    except (EmbeddedError, ImproperlyConfigured) as error:
        # Whoever starts us can act on the sentence; a traceback hides it.
        sys.exit(f"Cannot start: {error}")
