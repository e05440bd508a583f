"""The documents name what there is, and nothing that there is not."""

import ast
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from django.core.management import get_commands

from whatsapp import alerts
from whatsapp.api import api
from whatsapp.errors import ErrorCode
from whatsapp.metrics import CATALOGUE
from whatsapp.models import WhatsAppSession
from whatsapp.roles import Scope

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
API = DOCS / "api.md"
REGRESSIONS = DOCS / "regressions.md"

TROUBLES = {"K": 47, "S": 28, "P": 41}
"""The numbered troubles of the previous service: K01 to K47, and so on."""

# In pieces, so that this file does not contain what it looks for.
REGISTRIES = [r"pyp" r"i\.org", r"pythonhost" r"ed\.org", r"npm" r"js\.(org|com)"]
MACHINE = r"(?<![\w.$}])/(work|ro" r"ot|ho" r"me|Us" r"ers)/"
SECRETS = [
    r"-----BEGIN [A-Z ]*PRIVATE " r"KEY",
    r"\beyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}",
    r"\bAK" r"IA[0-9A-Z]{16}\b",
    r"\bgh[pousr]_" r"\w{30,}",
    r"https://[0-9a-f]{32}@",
    r"\bsk_" r"live_\w+",
    r"\bwak_" r"[a-z0-9]{10}_[\w-]{43}",
]


def documents() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS)


def is_named(name: str, text: str) -> bool:
    """Say whether ``name`` stands in ``text`` as a word of its own."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def missing(names: set[str], path: Path) -> set[str]:
    text = path.read_text()
    return {name for name in names if not is_named(name, text)}


def settings_read() -> set[str]:
    """Return the names that settings.py hands to a function: all that it reads."""
    tree = ast.parse((ROOT / "aiadmin" / "settings.py").read_text())
    return {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
        and re.fullmatch(r"[A-Z]+(_[A-Z]+)+", call.args[0].value)
    }


def our_commands() -> set[str]:
    return {name for name, app in get_commands().items() if app == "whatsapp"}


def event_names() -> set[str]:
    """Return the events of the protocol; names with dots are the layer's own."""
    tree = ast.parse((ROOT / "whatsapp" / "events.py").read_text())
    constants = {
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.isupper()
        and not node.targets[0].id.startswith("_")
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    return {name for name in constants if "." not in name}


# --- what there is -------------------------------------------------------------------


def test_every_setting_is_in_the_documents():
    names = settings_read()
    assert len(names) > 20
    assert missing(names, DOCS / "operations.md") == set()
    assert missing(names, ROOT / ".env.example") == set()


def test_every_command_is_in_the_documents():
    assert len(our_commands()) > 5
    assert missing(our_commands(), DOCS / "operations.md") == set()


def test_every_websocket_event_is_in_the_documents():
    assert len(event_names()) > 10
    assert missing(event_names(), DOCS / "architecture.md") == set()


def test_every_error_code_is_in_the_documents():
    assert (
        missing({code.value for code in ErrorCode}, DOCS / "architecture.md") == set()
    )


def test_every_status_is_in_the_documents():
    statuses = set(WhatsAppSession.Status.values)
    assert missing(statuses, DOCS / "architecture.md") == set()
    assert missing(statuses, DOCS / "operations.md") == set()


def test_every_tag_component_and_operation_of_a_report_is_in_the_documents():
    names = {*alerts.TAGS, *alerts.COMPONENTS, *alerts.OPERATIONS, *alerts.CATEGORIES}
    assert len(names) > 40
    assert missing(names, DOCS / "operations.md") == set()


def test_every_operation_of_a_report_is_reported_somewhere():
    said = "\n".join(
        path.read_text()
        for folder in ("aiadmin", "whatsapp")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "alerts.py"
    )
    assert {name for name in alerts.OPERATIONS if f'"{name}"' not in said} == set()


def api_routes() -> set[str]:
    schema = api.get_openapi_schema()
    return {
        f"{method.upper()} {path}"
        for path, methods in schema["paths"].items()
        for method in methods
    }


def test_the_routes_in_the_documents_are_those_of_the_api():
    named = set(re.findall(r"^\| `([A-Z]+ /api/v1/[^`]*)`", API.read_text(), re.M))
    assert len(named) > 8
    assert named == api_routes()


def test_every_scope_and_field_of_a_problem_is_in_the_documents():
    problem = api.get_openapi_schema()["components"]["schemas"]["Problem"]
    assert len(problem["properties"]) > 5
    names = {*Scope, *problem["properties"]}
    assert missing(names, API) == set()


def test_every_metric_is_in_the_documents_with_its_labels_and_no_other():
    rows = re.findall(
        r"^\| `(whatsapp_\w+)` \| ((?:`\w+`(?:, )?)*) \|",
        (DOCS / "operations.md").read_text(),
        re.MULTILINE,
    )
    named = {name: tuple(re.findall(r"\w+", labels)) for name, labels in rows}
    assert len(rows) == len(named) > 40
    assert named == {name: metric.labels for name, metric in CATALOGUE.items()}


# --- and nothing that there is not ----------------------------------------------------


def test_documented_commands_exist():
    named = set(re.findall(r"manage\.py ([a-z]\w+)", documents()))
    assert len(named) > 5
    assert named - set(get_commands()) == set()


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)", documents()))
    assert {"run", "demo", "test"} <= named <= targets


def test_documented_files_exist():
    named = set(
        re.findall(r"`((?:aiadmin|whatsapp|tests|benchmarks)/[\w./-]+)", documents())
    )
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_documented_services_exist():
    services = {path.stem: path for path in (ROOT / "whatsapp/services").glob("*.py")}
    named = re.findall(r"`(\w+)\.(\w+)(?=[`(])", documents())
    ours = [(module, name) for module, name in named if module in services]
    assert len(ours) > 5
    assert [
        f"{module}.{name}"
        for module, name in ours
        if name not in {"py", *functions_in(f"whatsapp/services/{module}.py")}
    ] == []


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    ours = [target for target in targets if "://" not in target]
    assert [to for to in ours if not (path.parent / to).exists()] == []


# --- the regressions -----------------------------------------------------------------


@cache
def functions_in(path: str) -> set[str]:
    file = ROOT / path
    if not file.is_file():
        return set()
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_that_covers_a_regression_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", REGRESSIONS.read_text())
    assert len(named) > 100
    assert [
        f"{path}::{name}" for path, name in named if name not in functions_in(path)
    ] == []


def test_every_old_trouble_has_a_row_of_its_own():
    rows = re.findall(r"^\| ([KSP]\d\d) \|", REGRESSIONS.read_text(), re.M)
    wanted = [
        f"{letter}{number:02}"
        for letter, last in TROUBLES.items()
        for number in range(1, last + 1)
    ]
    assert sorted(rows) == sorted(wanted)


def test_every_row_says_what_covers_it():
    cells = [
        line.strip("| ").split(" | ")
        for line in REGRESSIONS.read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| id ", "| what "))
    ]
    assert len(cells) > 150
    words = ("`tests/", "cannot occur: ", "not yet: ", "no test: ", "outside")
    assert [row for row in cells if not row[-1].startswith(words)] == []


# --- what no file may say -------------------------------------------------------------


def our_files() -> list[Path]:
    """Return all files that are committed, or would be."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("NOT TESTED: this is no git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_registry_a_machine_or_a_secret():
    forbidden = re.compile("|".join([*REGISTRIES, MACHINE, *SECRETS]))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in our_files()
        if (match := forbidden.search(path.read_text(errors="ignore")))
    ]
    assert found == []


def test_what_is_forbidden_would_be_found():
    forbidden = re.compile("|".join([*REGISTRIES, MACHINE, *SECRETS]))
    for text in (
        "https://files.pythonhost" + "ed.org/x",
        "https://registry.npm" + "js.org/x",
        'cd "/ho' + 'me/anna/aiadmin"',
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        ".".join(["eyJ" + "a" * 30, "b" * 30, "c" * 30]),
    ):
        assert forbidden.search(text), text
    for text in ("templates/home/page.html", "/healthz", "/srv/aiadmin"):
        assert not forbidden.search(text), text
