"""The documented nginx, on ports and with a certificate of the test's own."""

import datetime
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.redis_server import free_port

PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MISSING = "NOT TESTED: nginx is not installed (as root: make test installs it)"
CONFIGURATION = Path(__file__).resolve().parent.parent / "docs" / "deploy"
START_SECONDS = 60.0
NAME = "whatsapp.example.com"


class Nginx:
    """nginx in front of page servers. A context manager; leaving it ends it."""

    def __init__(self, folder: Path, pages: list[str]) -> None:
        """Start it.

        Args:
            folder: for all that it writes.
            pages: ``host:port`` of the page servers, in the places of the documented two.
        """
        assert PROGRAM, MISSING
        self.folder = folder
        self.http, self.https = free_port(), free_port()
        authority = certify(folder)
        self.tls = ssl.create_default_context(cafile=authority)
        upstreams = (CONFIGURATION / "nginx-upstreams.conf").read_text()
        for number, page in enumerate(pages, 1):
            upstreams = upstreams.replace(f"127.0.0.1:800{number}", page)
        (folder / "upstreams.conf").write_text(upstreams)
        site = (CONFIGURATION / "nginx.conf").read_text()
        for documented, here in (
            ("/etc/nginx/aiadmin-upstreams.conf", str(folder / "upstreams.conf")),
            ("/etc/ssl/aiadmin/", f"{folder}/"),
            ("listen [::]:80;", ""),
            ("listen [::]:443 ssl;", ""),
            ("listen 80;", f"listen 127.0.0.1:{self.http};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.https} ssl;"),
        ):
            assert documented in site
            site = site.replace(documented, here)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{each}_temp_path {folder}/{each};" for each in kinds)
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; worker_processes 1;\n"
            f"error_log {folder}/error.log; events {{ worker_connections 512; }}\n"
            f"http {{ access_log {folder}/access.log; {paths}\n{site} }}\n"
        )
        command = [PROGRAM, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        self.checked = subprocess.run(
            [*command, "-e", str(folder / "error.log"), "-t"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert self.checked.returncode == 0, self.checked.stderr
        self._process = subprocess.Popen(
            [*command, "-e", str(folder / "error.log")], stdin=subprocess.DEVNULL
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.https), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"nginx did not start:\n{self.errors}")

    @property
    def errors(self) -> str:
        """What it has complained of."""
        return (self.folder / "error.log").read_text()

    def __enter__(self) -> Self:
        """Return the running nginx."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(START_SECONDS)


def certify(folder: Path) -> str:
    """Write a certificate and its key; return the file that says to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    chain = folder / "fullchain.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(chain)
