"""What we bring ourselves: PostgreSQL from a wheel, Node.js, and secrets.

Imports nothing else of ours and no Django: the settings and the installer need it
before either of them is there.
"""

from aiadmin.embedded.node import node_binary, npm_command
from aiadmin.embedded.postgres import DATABASE, Address, EmbeddedDatabase
from aiadmin.embedded.private import secret, write_private
from aiadmin.embedded.runner import POSTGRES_MAJOR
from aiadmin.embedded.wheels import EmbeddedError, package_folder

__all__ = [
    "DATABASE",
    "POSTGRES_MAJOR",
    "Address",
    "EmbeddedDatabase",
    "EmbeddedError",
    "node_binary",
    "npm_command",
    "package_folder",
    "secret",
    "write_private",
]
