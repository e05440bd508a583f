"""Makes .venv and node_modules with nothing but Python's own library.

    python3 -m aiadmin.install [--dev]

Every package comes from a lock with hashes (requirements.txt, package-lock.json).
What was made from the same locks is left alone. Its first lines must be readable
for an old Python, which is told what it lacks.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

OLDEST = (3, 11)
NEWER = ("python3.14", "python3.13", "python3.12", "python3.11")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOCK = os.path.join(ROOT, "requirements.txt")
ENGINE = os.path.join(ROOT, "whatsapp", "engine", "node")


def main():
    os.chdir(ROOT)
    if sys.version_info < OLDEST:
        newer = next(filter(None, map(shutil.which, NEWER)), None)
        if not newer:
            sys.exit(
                "AI Admin needs Python %d.%d or newer; python3 is %s."
                % (OLDEST + (sys.version.split()[0],))
            )
        os.execv(newer, [newer, "-m", "aiadmin.install"] + sys.argv[1:])
    python_packages()
    node_packages(dev="--dev" in sys.argv)


def python_packages():
    """Make .venv what the lock says."""
    with open(LOCK, "rb") as file:
        lock = file.read()
    stamp = os.path.join(VENV, "stamp")
    wanted = _digest(lock)
    if _read(stamp) == wanted and os.access(PYTHON, os.X_OK):
        return
    print("Installing Python packages into .venv", flush=True)
    pip = _make_venv()
    if not _with_uv(pip, lock.decode()):
        _run(pip + ["install", "--quiet", "--require-hashes", "-r", LOCK])
    # Tools that do not look into the current folder (pytest, daphne) find us, too.
    packages = next(iter(glob.glob(os.path.join(VENV, "lib", "*", "site-packages"))))
    _write(os.path.join(packages, "aiadmin.pth"), ROOT + "\n")
    _write(stamp, wanted)


def _make_venv():
    """Make .venv, or what is missing of it, and return how to run pip for it."""
    pip = [PYTHON, "-m", "pip"]
    if os.access(PYTHON, os.X_OK) and _works(pip + ["--version"]):
        return pip
    if _works([sys.executable, "-m", "venv", VENV]):
        return pip
    # Debian's python3 comes without ensurepip, but perhaps with a pip.
    pip = [sys.executable, "-m", "pip", "--python", PYTHON]
    if _works([sys.executable, "-m", "venv", "--without-pip", VENV]):
        if _works(pip + ["--version"]):
            return pip
    sys.exit(
        "%s cannot make a virtual environment with pip. "
        "On Debian and Ubuntu: apt-get install python3-venv" % sys.executable
    )


def _with_uv(pip, lock):
    """Install with uv, ten times as fast as pip; False if it does not work here."""
    own = re.findall(r"(?m)^uv==(?:.*\\\n)*.*\n", lock)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(own))
        file.flush()
        if not _works(
            pip + ["install", "--quiet", "--require-hashes", "-r", file.name]
        ):
            return False
    uv = os.path.join(VENV, "bin", "uv")
    # Machines behind a company's proxy know its certificate, uv and npm do not.
    return _works(
        [uv, "pip", "sync", "--system-certs", "--python", PYTHON]
        + ["--require-hashes", LOCK]
    )


def node_packages(dev):
    """Make the engine's node_modules what its lock says."""
    with open(os.path.join(ENGINE, "package-lock.json"), "rb") as file:
        wanted = _digest(file.read())
    stamp = os.path.join(ENGINE, "node_modules", ".stamp")
    # With the developers' packages there is all that a run needs, too.
    if _read(stamp) in [wanted + " dev"] + ([] if dev else [wanted]):
        return
    print("Installing Node.js packages into whatsapp/engine/node", flush=True)
    omit = ["--omit=peer", "--omit=optional"] + ([] if dev else ["--omit=dev"])
    # Node.js may be one of the Python packages: only the new Python finds it.
    npm = "import json; from aiadmin import embedded; print(json.dumps(embedded.npm_command()))"
    npm = json.loads(subprocess.check_output([PYTHON, "-c", npm]))
    os.environ["NODE_USE_SYSTEM_CA"] = "1"
    _run(npm + ["ci", "--ignore-scripts"] + omit, cwd=ENGINE)
    _write(stamp, wanted + " dev" if dev else wanted)


def _works(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return result.returncode == 0


def _run(command, cwd=ROOT):
    # Its output is of interest only if it fails.
    result = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if result.returncode:
        sys.stdout.buffer.write(result.stdout)
        sys.exit("Failed: %s" % " ".join(command))


def _digest(data):
    return hashlib.sha256(data).hexdigest()


def _read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
