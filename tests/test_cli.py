"""Promises of the command line: through click's runner, and as a program of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent_shim.events import RunStarted
from agent_shim.spool import Spool
from telemetry import cli, filters, options
from telemetry.costs import price_pending
from telemetry.journal import Journal
from telemetry.pricing import PriceBook
from telemetry.testing import Answer, ScriptedServer, Usage
from tests.journals import NOON_NS, SECOND, Told, filled, usage

HEAVY = {"sqlmodel", "sqlalchemy", "genai_prices", "tiktoken", "opentelemetry", "rich", "uvicorn", "pydantic"}
PROGRAM = [sys.executable, "-m", "telemetry.cli"]
EVIL = "\x1b]0;pwned\x07\x1b[2J\u202e"
AGENT = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-test")
print(client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}]).id)
"""


def ask(*words: str) -> Result:
    """A command in this process; its output is no terminal."""
    return CliRunner().invoke(cli.main, words)


def program(*words: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own."""
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60)


def on_terminal(words: Sequence[str], columns: int) -> str:
    """What a command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    running = subprocess.Popen([*PROGRAM, *words], stdout=theirs, stderr=subprocess.DEVNULL, stdin=theirs)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    assert running.wait(60) == 0
    return written.decode()


def one_run() -> Told:
    run = Told(1).start(commit="a" * 40, task=f"t{EVIL}")
    run.call(usage=usage(1_000_000, 100_000, cached=200_000))
    return run.finish(stdout_tail=EVIL)


@pytest.fixture
def home(data_home: Path) -> Path:
    """A data folder whose journal holds one run that is not priced yet."""
    data_home.mkdir()
    filled(data_home / "journal.db", one_run()).close()
    return data_home


# --- help and mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-h"], ["run", "-h"], ["cost", "--help"]])
def test_help_loads_nothing_that_is_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom telemetry.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert end.code == 0\n"
        f"sys.exit(','.join({HEAVY!r} & set(sys.modules)) or 0)"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("Usage: ")


def test_every_status_that_the_help_names_can_be_asked_for() -> None:
    assert set(options.STATUSES) == set(filters.STATUSES)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lst"], 2, "No such command 'lst'"),
        (["runs", "--since", "soon"], 2, "'soon' is neither a day (2026-01-31) nor an ISO 8601 time"),
        (["runs", "--tz", "Mars/Base"], 2, "'Mars/Base' is no time zone"),
        (["runs", "--status", "won"], 2, "'won' is not one of"),
        (["runs", "--journal", "mysql://x"], 2, "has a scheme that is not known: mysql"),
        (["show", "nobody"], 2, "No run 'nobody' is in the journal.\n  agent-telemetry runs lists them."),
        (["run"], 2, "Missing argument"),
        (["run", "--tag", "x", "--", "true"], 2, "write NAME=VALUE"),
    ],
)
def test_a_mistake_is_told_in_words_with_the_way_out(
    data_home: Path, words: list[str], code: int, message: str
) -> None:
    asked = ask(*words)
    assert (asked.exit_code, asked.stdout) == (code, "")
    assert message in asked.stderr
    assert "Traceback" not in asked.stderr


def test_a_journal_that_is_something_else_is_unreachable(data_home: Path, tmp_path: Path) -> None:
    (tmp_path / "not.db").write_text("text" * 1000)
    asked = ask("runs", "--journal", str(tmp_path / "not.db"))
    assert asked.exit_code == 3
    assert "file is not a database" in asked.stderr


def test_a_server_that_does_not_answer_is_unreachable_and_its_password_is_not_shown(data_home: Path) -> None:
    asked = ask("cost", "--journal", "postgresql://u:hidden@127.0.0.1:1/x?connect_timeout=1")
    assert asked.exit_code == 3
    assert "hidden" not in asked.stderr


def test_a_mistake_in_the_prices_is_told_before_anything_is_shown(home: Path) -> None:
    (home / "config.toml").write_text("[[price]]\nmodel = 'x'\ninput = 1\n")
    asked = ask("runs")
    assert asked.exit_code == 2
    assert "[[price]] number 1: 'output' is missing" in asked.stderr
    assert asked.stdout == ""


# --- asking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "lines"), [("runs", 1), ("cost", 1)])
def test_a_journal_that_is_not_there_is_empty_and_is_not_made(
    data_home: Path, command: str, lines: int
) -> None:
    asked = ask(command)
    assert (asked.exit_code, len(asked.stdout.splitlines())) == (0, lines)
    assert f"there is no journal at {data_home / 'journal.db'} yet" in asked.stderr
    assert not (data_home / "journal.db").exists()


def test_the_last_run_of_an_empty_journal_is_asked_for_in_vain(data_home: Path) -> None:
    asked = ask("show")
    assert (asked.exit_code, asked.stdout) == (2, "")
    assert "No run is in the journal yet." in asked.stderr
    assert "agent-telemetry run -- COMMAND records one." in asked.stderr


def test_reading_prices_what_is_not_priced(home: Path) -> None:
    (run,) = json.loads(ask("runs", "--json").stdout)
    assert run["cost"] == [{"currency": "USD", "amount": 2.025}]
    (line,) = json.loads(ask("cost", "--by", "model", "--json").stdout)["lines"]
    assert (line["model"], line["cost"], line["cost_reason"]) == ("gpt-5", run["cost"], None)


def test_the_users_prices_hold(home: Path) -> None:
    (home / "config.toml").write_text("[[price]]\nmodel = 'gpt-5'\ncurrency = 'EUR'\ninput = 1\noutput = 0\n")
    assert json.loads(ask("cost", "--json").stdout)["total"]["cost"] == [{"currency": "EUR", "amount": 1.0}]


def test_reading_delivers_what_a_killed_wrapper_left(data_home: Path) -> None:
    spool = Spool(data_home / "spool", "f" * 32, role="wrapper", redact=lambda text: text)
    spool.append(RunStarted(way="run", agent="trae"))
    (run,) = json.loads(ask("runs", "--json").stdout)
    assert (run["run_id"], run["state"], run["cost_reason"]) == ("f" * 32, "running", "1 run not complete")
    spool.seal()
    assert json.loads(ask("runs", "--json").stdout)[0]["state"] == "interrupted"


def test_times_are_shown_in_the_zone_that_is_asked_for(home: Path) -> None:
    started = ask("runs", "--tz", "Asia/Kolkata").stdout.splitlines()[1].split("\t")[1]
    assert started == "2026-11-23 17:30:00+05:30"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--since", "2026-11-23"], 1),
        (["--since", "2026-11-24"], 0),
        (["--until", "2026-11-23"], 1),
        (["--until", "2026-11-22"], 0),
        (["--until", "2026-11-23T12:00"], 0),
        (["--since", "2026-11-23T14:00+02:00"], 1),
        (["--since", "2026-11-23T14:00:01+02:00"], 0),
        (["--since", "2026-11-23T17:30", "--tz", "Asia/Kolkata"], 1),
        (["--since", "2026-11-23T17:31", "--tz", "Asia/Kolkata"], 0),
        (["--status", "failed", "--status", "exit-0"], 1),
        (["--model", "claude*"], 0),
    ],
)
def test_filters_choose(home: Path, words: list[str], found: int) -> None:
    assert len(json.loads(ask("runs", "--json", "--tz", "UTC", *words).stdout)) == found


def test_a_limit_cuts_lines_and_not_totals(home: Path) -> None:
    with Journal.open(home / "journal.db") as journal:
        other = Told(2, NOON_NS + 100 * SECOND).start(commit="b" * 40).finish()
        journal.ingest(other.bodies, "test")
    report = json.loads(ask("cost", "--limit", "1", "--json").stdout)
    assert (len(report["lines"]), report["lines_left_out"], report["total"]["runs"]) == (1, 1, 2)
    assert len(json.loads(ask("runs", "--limit", "1", "--json").stdout)) == 1


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", [["runs"], ["show"], ["cost"], ["cost", "--by", "model"], ["doctor"]])
def test_a_terminal_gets_lines_that_fit_and_nothing_to_obey(
    home: Path, words: list[str], columns: int
) -> None:
    """What is left of escape sequences are rich's own colours."""
    written = on_terminal(words, columns)
    bare = "".join(part.partition("m")[2] if n else part for n, part in enumerate(written.split("\x1b[")))
    lines = bare.replace("\r\n", "\n").split("\n")
    assert max(map(len, lines)) <= columns
    assert all(line.isprintable() for line in lines)


def test_a_reader_that_leaves_early_is_no_error(data_home: Path) -> None:
    """The answer is larger than what a pipe holds."""
    data_home.mkdir()
    filled(data_home / "journal.db", Told(1).start().finish(stdout_tail="x" * 500_000)).close()
    command = f"{sys.executable} -m telemetry.cli show --json | head -c 9"
    asked = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (asked.stdout, asked.stderr) == ('{\n  "run"', "")


def test_rebuild_makes_the_same_rows_and_prices_them_anew(home: Path) -> None:
    before = ask("cost", "--json").stdout
    with Journal.open(home / "journal.db") as journal:
        price_pending(journal.engine, PriceBook({"price": [{"model": "gpt-5", "input": 9, "output": 9}]}))
    asked = ask("rebuild")
    assert (asked.exit_code, asked.stdout) == (0, "")
    assert asked.stderr.startswith("Rebuilt; 1 run priced with genai-prices")
    assert ask("cost", "--json").stdout == before


# --- running -------------------------------------------------------------------------------------


def test_a_run_is_recorded_and_can_be_asked_for(
    data_home: Path, tmp_path: Path, server: ScriptedServer
) -> None:
    server.script(Answer(text="hello", usage=Usage(input=1000, cached=200, output=50, reasoning=10)))
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    ran = program("run", "--commit", "abc1234", "--tag", "a=b", "--", sys.executable, str(agent), server.url)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("chatcmpl")
    (run,) = json.loads(program("runs", "--json").stdout)
    assert (run["commit"], run["tags"], run["calls"], run["status"]) == ("abc1234", {"a": "b"}, 1, "exit 0")
    assert run["cost"] == [{"currency": "USD", "amount": 0.001525}]
    assert program("show", run["run_id"][-8:]).returncode == 0


@pytest.mark.parametrize(("words", "code"), [(["sh", "-c", "exit 7"], 7), (["no-such-program-here"], 127)])
def test_run_gives_the_agents_own_exit_code(data_home: Path, words: list[str], code: int) -> None:
    assert program("run", "--no-tails", "--", *words).returncode == code


def test_options_behind_the_first_word_are_the_agents(data_home: Path) -> None:
    ran = program("run", "echo", "--json", "-h")
    assert (ran.returncode, ran.stdout) == (0, "--json -h\n")


def test_a_run_whose_settings_cannot_be_used_does_not_start(data_home: Path) -> None:
    ran = program("run", "--journal", "mysql://x", "--", "echo", "started")
    assert (ran.returncode, ran.stdout) == (125, "")
    assert "has a scheme that is not known" in ran.stderr


def test_the_sink_refuses_the_world_without_a_token(data_home: Path) -> None:
    asked = ask("sink", "--host", "0.0.0.0", "--port", "0")
    assert asked.exit_code == 2
    assert "without a token" in asked.stderr


def test_env_prints_what_sends_a_shell_to_the_stack(data_home: Path, tmp_path: Path) -> None:
    """A shell that evaluates it has the stack's endpoint, and the journal that was asked for."""
    place = str(tmp_path / "a journal's.db")
    exports = program("env", "--journal", place).stdout
    names = ("HOME", "JOURNAL", "JAEGER")
    echo = " ".join(f'"$AGENT_TELEMETRY_{name}"' for name in names)
    script = f'{exports}\nprintf "%s\\n" {echo} "$OTEL_EXPORTER_OTLP_ENDPOINT"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        str(data_home), place, "http://127.0.0.1:16686", "http://127.0.0.1:4318",
    ]  # fmt: skip


def test_env_keeps_what_is_set(data_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example.org:4318")
    exports = program("env", "--jaeger", "http://jaeger.example.org").stdout
    assert "export OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.example.org:4318\n" in exports
    assert "export AGENT_TELEMETRY_JAEGER=http://jaeger.example.org\n" in exports


def test_show_links_to_the_trace_where_jaeger_is_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = json.loads(ask("show", "--json").output)
    assert run["trace_url"] is None
    monkeypatch.setenv("AGENT_TELEMETRY_JAEGER", "http://jaeger.example.org/")
    link = f"http://jaeger.example.org/trace/{run['run']['run_id']}"
    assert json.loads(ask("show", "--json").output)["trace_url"] == link
    assert f"trace     {link}" in on_terminal(["show"], 120)
