"""Promises of the doctor."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from agent_shim.events import RunStarted
from agent_shim.spool import Spool
from telemetry import cli, health
from telemetry.database import HEAD
from telemetry.doctor import examine
from telemetry.health import STATES, Check, sqlite_version
from telemetry.journal import Journal
from telemetry.settings import Settings
from tests.journals import Told, filled

NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)


def found(home: Path, command: Sequence[str] = (), now: datetime = NOW, **environ: str) -> dict[str, Check]:
    """The checks by their name."""
    given = {"AGENT_TELEMETRY_HOME": str(home), "PATH": os.environ["PATH"], **environ}
    return {check.name: check for check in examine(Settings.load(given), given, command, now)}


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_every_check_has_a_state_and_every_trouble_a_way_out(data_home: Path) -> None:
    for check in found(data_home).values():
        assert check.state in STATES
        assert check.text
        assert check.state == "ok" or check.way_out, check


def test_looking_makes_no_journal_and_leaves_no_file(data_home: Path) -> None:
    checks = found(data_home)
    assert (checks["journal"].state, contents(data_home)) == ("ok", [])
    assert "the first run makes it" in checks["journal"].text


def test_a_journal_is_described_and_left_as_it_is(data_home: Path) -> None:
    data_home.mkdir()
    filled(data_home / "journal.db", Told(1).start().finish()).close()
    before = (data_home / "journal.db").read_bytes()
    check = found(data_home)["journal"]
    assert check.state == "ok"
    assert f"schema {HEAD}, 1 runs, 9 events" in check.text
    assert (data_home / "journal.db").read_bytes() == before


@pytest.mark.parametrize(("revision", "state"), [("0000", "warn"), ("9999", "fail")])
def test_another_schema_is_told_and_not_migrated(data_home: Path, revision: str, state: str) -> None:
    data_home.mkdir()
    with Journal.open(data_home / "journal.db") as journal, journal.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    check = found(data_home)["journal"]
    assert (check.state, f"schema {revision}" in check.text) == (state, True)


def test_a_file_that_is_no_journal_fails(data_home: Path) -> None:
    data_home.mkdir()
    (data_home / "journal.db").write_text("text" * 1000)
    assert found(data_home)["journal"].state == "fail"


def test_quarantine_and_times_to_come_are_told(data_home: Path) -> None:
    data_home.mkdir()
    with filled(data_home / "journal.db", Told(1).start().finish()) as journal:
        journal.ingest([b"no event"], "test")
    checks = found(data_home, now=NOW - timedelta(days=1))
    assert checks["quarantine"].text == "1 things that are no events were kept"
    assert "2026-11-23T12:00:00" in checks["clock of the runs"].text
    assert "clock of the runs" not in found(data_home)


def test_what_waits_in_the_spool_is_counted(data_home: Path) -> None:
    spool = Spool(data_home / "spool", "f" * 32, role="wrapper", redact=lambda text: text)
    spool.append(RunStarted(way="run"))
    check = found(data_home)["spool"]
    assert check.state == "warn"
    assert "1 not all in the journal, 1 not sealed" in check.text
    spool.seal()
    assert "1 not all in the journal, 0 not sealed" in found(data_home)["spool"].text


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    check = next(check for check in health._data_folder(place(home)) if check.name == "data folder")
    assert (check.state, check.way_out) == ("fail", "set AGENT_TELEMETRY_HOME")


def place(home: Path, **environ: str) -> health.Place:
    given = {"AGENT_TELEMETRY_HOME": str(home), **environ}
    return health.Place(Settings.load(given), given, (), NOW)


# --- the agent -----------------------------------------------------------------------------------


def test_a_python_agent_is_hooked_and_its_packages_are_named(data_home: Path) -> None:
    check = found(data_home, [sys.executable, "-m", "json.tool"])["agent"]
    assert check.state == "ok"
    assert f"is hooked in {sys.executable}: openai " in check.text


@pytest.mark.parametrize(
    ("command", "state", "said"),
    [
        (["no-such-program-here"], "fail", "there is no program 'no-such-program-here'"),
        (["ls"], "warn", "ls would run, but not be captured"),
        (["env", "python3", "x.py"], "unknown", "would be captured if it leads to a Python"),
    ],
)
def test_what_would_not_be_seen_is_told_beforehand(
    data_home: Path, command: list[str], state: str, said: str
) -> None:
    check = found(data_home, command)["agent"]
    assert (check.state, said in check.text) == (state, True), check


def test_capture_is_tried_with_one_call_that_stays_here(data_home: Path) -> None:
    check = found(data_home, [sys.executable, "-m", "json.tool"])["capture"]
    assert check.state == "ok", check
    assert not list(data_home.glob("spool/*"))


def test_a_client_that_changed_under_our_hooks_is_told(data_home: Path, tmp_path: Path) -> None:
    """A release that renamed what calls pass through: the agent would run on, unseen."""
    package = tmp_path / "openai"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import _base_client\n"
        "class OpenAI:\n"
        "    def __init__(self, **options): self.chat = self.completions = self\n"
        "    def create(self, **options): pass\n"
    )
    (package / "_base_client.py").write_text("class SyncAPIClient: pass\nclass AsyncAPIClient: pass\n")
    check = found(data_home, [sys.executable, "-m", "json.tool"], PYTHONPATH=str(tmp_path))["capture"]
    assert check.state == "fail"
    assert "0 calls, 0 requests, tokens unknown" in check.text
    assert "SyncAPIClient.request" in check.text


STAND_IN = "agent-telemetry-python"


@pytest.mark.parametrize(
    ("python", "words", "state", "said"),
    [
        ("", ["-m", "trae_agent.cli"], "fail", "stands in for no interpreter"),
        ("/no/such/python", ["-m", "trae_agent.cli"], "fail", "no such file"),
        (sys.executable, ["-m", "trae_agent.cli"], "ok", f"is hooked in {sys.executable}: openai "),
        (sys.executable, ["-m", "json.tool"], "warn", "would run this unrecorded"),
    ],
)
def test_the_stand_in_is_looked_through(
    data_home: Path, python: str, words: list[str], state: str, said: str
) -> None:
    check = found(data_home, [STAND_IN, *words], AGENT_TELEMETRY_PYTHON=python)["agent"]
    assert (check.state, said in check.text) == (state, True), check


def test_a_variable_that_means_nothing_is_told(data_home: Path) -> None:
    checks = found(data_home, AGENT_TELEMETRY_JOURNL="x.db", AGENT_TELEMETRY_RUN="1" * 32)
    assert checks["AGENT_TELEMETRY_JOURNL"].state == "warn"
    assert "AGENT_TELEMETRY_RUN" not in checks


def test_a_switched_off_recorder_is_told(data_home: Path) -> None:
    assert found(data_home, AGENT_TELEMETRY_DISABLED="1")["recording"].state == "warn"


# --- facts of the machine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 6, 23), "ok"),
        ((3, 7, 0), "warn"),
        ((3, 40, 1), "warn"),
        ((3, 44, 6), "ok"),
        ((3, 44, 5), "warn"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "warn"),
        ((3, 51, 3), "ok"),
    ],
)
def test_sqlite_versions_with_the_wal_reset_bug_are_named(version: tuple[int, int, int], state: str) -> None:
    assert sqlite_version(version).state == state


def test_the_file_system_is_that_of_the_longest_mount_point(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 0:20 / / rw - ext4 /dev/vda rw\n"
        f"22 21 0:21 / {tmp_path} rw shared:1 - nfs4 server:/x rw\n"
        f"23 21 0:22 / {tmp_path}/other rw - tmpfs tmpfs rw\n"
    )
    assert health._kind(tmp_path / "data", mounts) == "nfs4"
    assert health._kind(Path("/"), mounts) == "ext4"
    assert health._kind(tmp_path, tmp_path / "missing") is None
    assert "nfs4" in health.NETWORK


def test_an_endpoint_is_tried_and_secrets_are_not_shown(data_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        checks = found(
            data_home,
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer hidden",
        )
    assert checks["OpenTelemetry endpoint"].state == "ok"
    assert checks["OTEL_EXPORTER_OTLP_HEADERS"].text == "(set)"
    assert "hidden" not in str(checks)
    assert found(data_home, OTEL_EXPORTER_OTLP_ENDPOINT=url)["OpenTelemetry endpoint"].state == "warn"


def test_variables_of_opentelemetry_that_do_nothing_or_are_of_no_use_are_told(
    data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer hidden")
    checks = found(data_home, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_SDK_DISABLED="true")
    assert checks["OTEL_SDK_DISABLED"].text == "true: does nothing here"
    assert checks["OpenTelemetry variables"].state == "warn"
    assert "hidden" not in str(checks)


def test_prices_say_their_name_and_how_current_they_are(data_home: Path) -> None:
    check = found(data_home)["prices"]
    assert (check.state, check.text.startswith("genai-prices ")) == ("ok", True)
    assert found(data_home, now=NOW + timedelta(days=3650))["prices"].state == "warn"
    data_home.mkdir(exist_ok=True)
    (data_home / "config.toml").write_text("[[price]]\nmodel = 'x'\n")
    assert found(data_home)["prices"].state == "fail"


def test_a_missing_vocabulary_is_told(data_home: Path, tmp_path: Path) -> None:
    check = found(data_home, TIKTOKEN_CACHE_DIR=str(tmp_path))["tiktoken vocabulary"]
    assert check.state == "warn"
    assert "o200k_base, cl100k_base not on this machine" in check.text


def test_the_command_exits_with_1_when_a_check_fails(data_home: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(cli.main, ["doctor", "--json"]).exit_code == 0
    failed = runner.invoke(cli.main, ["doctor", "--json", "--", "no-such-program-here"])
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)[0] == {
        "name": "agent",
        "state": "fail",
        "text": "there is no program 'no-such-program-here'",
        "way_out": "name it with its path",
    }
