"""The files in docs/deploy fit one another, the service, and the programs that read them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from tests.test_docs import settings_read
from whatsapp.management.commands import serve, whatsapp_gateway

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "docs" / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
GUIDE = ROOT / "docs" / "deploy.md"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
HOME = "/srv/aiadmin"

# Not of settings.py: of Django's commands, or of other programs' images.
NOT_OURS = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PYTHONUNBUFFERED"}


def named_in(path: Path) -> set[str]:
    """Return the environment variables that a file sets or reads."""
    lines = [line for line in path.read_text().splitlines() if line.strip()[:1] != "#"]
    text = "\n".join(lines)
    found = set(re.findall(r"(?m)^(?:Environment=|ENV )?([A-Z]\w+)=", text))
    found |= set(re.findall(r"(?m)^ +([A-Z][A-Z_]+): ", text))
    return found | set(re.findall(r"environ\['(\w+)'\]", text))


def unit(path: Path) -> dict[str, str]:
    """Return the settings of a unit; none of ours stands there twice."""
    lines = path.read_text().splitlines()
    pairs = [line.partition("=")[::2] for line in lines if re.match(r"[A-Z]\w+=", line)]
    assert len({name for name, _value in pairs}) == len(pairs)
    return dict(pairs)


# --- what they name exists ------------------------------------------------------------


def test_every_file_is_in_the_guide():
    text = GUIDE.read_text()
    assert len(FILES) > 8
    assert [path.name for path in FILES if path.name not in text] == []


def test_every_variable_is_a_setting_of_ours():
    systemd_and_env = [*SERVICES, DEPLOY / "aiadmin.env", DEPLOY / "compose.yaml"]
    found = set().union(
        *(named_in(path) for path in [*systemd_and_env, DEPLOY / "Dockerfile"])
    )
    ours = {name for name in found if "_" in name or name in settings_read()}
    known = settings_read() | NOT_OURS
    assert len(ours) > 8
    # systemd's own settings have small letters.
    assert {name for name in ours if name.isupper()} - known == set()


def commands_started() -> set[str]:
    found = set()
    for path in SERVICES:
        match = re.search(r"manage\.py (\w+)", unit(path)["ExecStart"])
        assert match, path
        found.add(match[1])
    return found | {each["command"][0] for each in ours_in_compose().values()}


def test_every_command_exists():
    assert {"serve", "whatsapp_gateway", "migrate"} <= commands_started()
    assert commands_started() <= set(get_commands())


def test_every_option_exists():
    """What they pass to our commands is what those take."""
    starts = [unit(path)["ExecStart"].rstrip("'") for path in SERVICES]
    options = [start.partition("manage.py ")[2] for start in starts]
    options += [" ".join(each["command"]) for each in ours_in_compose().values()]
    for line in options:
        name, *arguments = line.replace("%i", "8001").split()
        if name == "serve":
            parser = serve.Command().create_parser("manage.py", name)
            assert parser.parse_args(arguments).no_gateway


# --- systemd --------------------------------------------------------------------------

ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(
    not ANALYZE,
    reason="NOT TESTED: systemd-analyze is not installed (as root: make test installs it)",
)
def test_systemd_understands_the_units(tmp_path: Path):
    assert ANALYZE
    for path in UNITS:
        # It looks whether the program is there.
        (tmp_path / path.name).write_text(path.read_text().replace(HOME, str(ROOT)))
    result = subprocess.run(
        [ANALYZE, "verify", "--man=no", *(tmp_path / path.name for path in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    # What it does not understand is only told.
    ours = [line for line in result.stderr.splitlines() if "aiadmin-" in line]
    assert ours == []
    assert result.returncode == 0


def test_a_process_keeps_its_folder_when_the_link_leads_elsewhere(tmp_path: Path):
    """Python reads modules when it needs them: not those of another version."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / ".venv").symlink_to(sys.prefix)
    (tmp_path / "old" / "manage.py").write_text("import sys; print(sys.argv, sys.path)")
    (tmp_path / "link").symlink_to("old")
    for path in SERVICES:
        start = unit(path)["ExecStart"].replace("$$", "$").replace("%i", "8001")
        result = subprocess.run(
            shlex.split(start),
            cwd=tmp_path / "link",
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{tmp_path}/old/.venv/" in result.stdout
        assert f"{tmp_path}/link" not in result.stdout


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_is_nobody_special_and_may_not_become_it(path: Path):
    settings = unit(path)
    assert settings["User"] == "aiadmin"
    assert settings["NoNewPrivileges"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert settings["CapabilityBoundingSet"] == ""


def test_units_are_given_the_time_that_they_take_to_stop():
    page = unit(DEPLOY / "systemd/aiadmin-page@.service")
    assert int(page["TimeoutStopSec"]) > serve.DRAIN_SECONDS + 5
    gateway = unit(DEPLOY / "systemd/aiadmin-gateway@.service")
    assert int(gateway["TimeoutStopSec"]) > whatsapp_gateway.STOP_SECONDS + 5
    # To Python alone: Node.js would end before it has written what it holds.
    assert gateway["KillMode"] == "mixed"
    assert gateway["KillSignal"] == "SIGTERM"
    # V8 could not run.
    assert gateway["MemoryDenyWriteExecute"] == "no"
    for settings in (page, gateway):
        assert settings["Restart"] == "always"
        assert int(settings["LimitNOFILE"]) > 5000


# --- Docker ---------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.partition(" ")[::2] for line in lines]


KNOWN = {
    *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL"),
    *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
}


def test_the_image_is_built_of_what_is_there():
    assert {name for name, _arguments in instructions()} <= KNOWN
    for name, arguments in instructions():
        if name == "COPY" and not arguments.startswith("--from"):
            *sources, _target = arguments.split()
            assert [each for each in sources if not (ROOT / each).exists()] == []
            sent = [
                line.removeprefix("!")
                for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split()
                if line.startswith("!")
            ]
            for source in sources:
                assert any(
                    source == each or source.startswith(f"{each}/") for each in sent
                ), f"{source} is not sent to the build"


def test_the_image_runs_as_nobody_special_and_tells_no_secret():
    words = [name for name, _arguments in instructions()]
    last_stage = len(words) - words[::-1].index("FROM")
    assert dict(instructions()[last_stage:])["USER"] == "aiadmin"
    assert words.index("USER") < words.index("ENTRYPOINT")
    images = [text for name, text in instructions() if name == "FROM"]
    assert images[0].removesuffix(" AS build") == images[1]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", images[1])
    environment = [text for name, text in instructions() if name == "ENV"]
    assert environment == ["PYTHONUNBUFFERED=1"]


def test_the_lists_of_arguments_are_json_and_the_health_check_compiles():
    """A list that is none is taken for a line of the shell, which gets the signals."""
    lists = {
        name: yaml.safe_load(text[text.index("[") :])
        for name, text in instructions()
        if name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    }
    assert len(lists) == 3
    assert lists["ENTRYPOINT"] == [".venv/bin/python", "manage.py"]
    compile(lists["HEALTHCHECK"][2], "health", "exec")


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def ours_in_compose() -> dict[str, dict[str, Any]]:
    default = yaml.safe_load(
        next(text for name, text in instructions() if name == "CMD")
    )
    return {
        name: {"command": default, **each}
        for name, each in compose()["services"].items()
        if each["image"] == "aiadmin"
    }


KEYS = {
    *("image", "build", "env_file", "environment", "restart", "init", "read_only"),
    *("tmpfs", "cap_drop", "security_opt", "ulimits", "depends_on", "command"),
    *("stop_grace_period", "healthcheck", "volumes", "shm_size", "networks", "ports"),
    *("configs",),
}


def test_the_services_of_compose_fit_one_another():
    document = compose()
    services = document["services"]
    assert set(ours_in_compose()) == {
        *("migrate", "page-1", "page-2", "gateway-1", "gateway-2")
    }
    for name, each in services.items():
        assert set(each) <= KEYS, name
        assert set(each.get("depends_on", ())) <= set(services)
        assert set(each["networks"]) <= set(document["networks"])
        for on, wanted in each.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                # Ours have theirs in the image.
                assert (
                    services[on]["image"] == "aiadmin" or "healthcheck" in services[on]
                )
        tag = each["image"].partition(":")[2]
        assert tag != "latest"
        assert tag or each["image"] == "aiadmin"
    for each in services["nginx"]["volumes"]:
        source = each.split(":")[0]
        assert source == "./tls" or (DEPLOY / source).exists()
    assert (DEPLOY / services["page-1"]["env_file"]).exists()
    assert (DEPLOY / services["page-1"]["build"]["context"]).resolve() == ROOT


def test_containers_are_given_the_time_that_they_take_to_stop():
    for name, each in ours_in_compose().items():
        needed = {"page": serve.DRAIN_SECONDS, "gateway": whatsapp_gateway.STOP_SECONDS}
        if (kind := name.partition("-")[0]) in needed:
            assert int(each["stop_grace_period"].removesuffix("s")) > needed[kind] + 5


def test_the_pages_trust_nginx_and_nginx_finds_the_pages():
    services = compose()["services"]
    nginx = services["nginx"]["networks"]["inside"]["ipv4_address"]
    upstreams = compose()["configs"]["upstreams"]["content"]
    for name in ("page-1", "page-2"):
        assert services[name]["environment"]["TRUSTED_PROXIES"] == nginx
        address = services[name]["networks"]["inside"]["ipv4_address"]
        assert upstreams.count(f"server {address}:8000 ") == 2
    names = re.compile(r"upstream (\w+)")
    beside = (DEPLOY / "nginx-upstreams.conf").read_text()
    assert names.findall(upstreams) == names.findall(beside)
    # A name of nginx's, not of compose's.
    assert "$$binary_remote_addr" in upstreams


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path):
    settings = dict(
        line.partition("=")[::2]
        for line in path.read_text().splitlines()
        if re.match(r"[A-Z_]+=", line)
    )
    for name in ("DJANGO_SECRET_KEY", "MARKETPLACE_JWT_SECRET", "SENTRY_DSN"):
        assert settings.get(name, "") == ""
    assert not os.access(path, os.X_OK)
