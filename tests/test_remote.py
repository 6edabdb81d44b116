"""A journal behind a sink: events delivered, ranges asked for, nothing lost when the sink is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from errno import ECONNREFUSED
from pathlib import Path

import pytest

from agent_shim.errors import JournalUnreachable, SettingsError
from telemetry import deliverer, doctor
from telemetry.journal import Journal
from telemetry.remote import MAX_BATCH_BYTES, TOKEN, RemoteJournal
from telemetry.settings import Settings
from tests.recordings import RUN, example_run
from tests.test_sink import RunningSink, hashes, rows, stored

TOO_MANY = 3


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningSink]:
    running = RunningSink(tmp_path / "journal.db", token="secret")
    yield running
    running.stop()


@pytest.fixture
def remote(running: RunningSink) -> Iterator[RemoteJournal]:
    with RemoteJournal(f"http://127.0.0.1:{running.port}/", {TOKEN: "secret"}) as remote:
        yield remote


def test_what_it_takes_is_committed_once_and_told_as_ranges(remote: RemoteJournal, tmp_path: Path) -> None:
    bodies = example_run(tmp_path / "spool").bodies()
    remote.ingest(bodies, "test")
    remote.ingest(bodies[3:], "test")
    assert hashes(stored(tmp_path / "journal.db")) == hashes(bodies)
    with Journal.open(tmp_path / "journal.db") as journal:
        assert remote.held(RUN) == journal.held(RUN)
    assert remote.held("f" * 32) == {}


@pytest.mark.parametrize("content", [b"no event", b"\xff\xfe", b'0123456789abcdef {"v":1'])
def test_what_is_no_event_comes_into_quarantine_as_it_is(
    remote: RemoteJournal, tmp_path: Path, content: bytes
) -> None:
    remote.ingest([content], "test")
    assert [row[-1] for row in rows(tmp_path / "journal.db", "quarantine")] == [content]


def test_many_events_go_in_requests_that_a_sink_takes(remote: RemoteJournal, tmp_path: Path) -> None:
    body = example_run(tmp_path / "spool").bodies()[0]
    large = [
        body.replace(b'"seq":1', b'"seq":%d' % seq).replace(b'"pid":', b'"note":"%s","pid":' % (b"x" * 2**20))
        for seq in range(1, 2 + TOO_MANY * MAX_BATCH_BYTES // 2**20)
    ]
    remote.ingest(large, "test")
    assert len(stored(tmp_path / "journal.db")) == len(large)


def test_a_wrong_token_and_a_sink_that_is_away_are_said_without_the_token(running: RunningSink) -> None:
    for url, why in (
        (f"http://127.0.0.1:{running.port}", "401 the bearer token is missing or wrong"),
        ("http://user:password@127.0.0.1:1", f"as it should: [Errno {ECONNREFUSED}] Connection refused"),
    ):
        with RemoteJournal(url, {TOKEN: "wrong-one"}) as remote, pytest.raises(JournalUnreachable) as caught:
            remote.held(RUN)
        assert why in str(caught.value)
        assert "wrong-one" not in str(caught.value) and "password" not in str(caught.value)


def test_a_deliverer_delivers_through_a_sink(running: RunningSink, tmp_path: Path) -> None:
    home = tmp_path / "home"
    recording = example_run(home / "spool")
    environ = {
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_JOURNAL": f"http://127.0.0.1:{running.port}",
        TOKEN: "wrong",
    }
    settings = Settings.load(environ)
    bodies = recording.bodies()
    waiting = deliverer.deliver(settings, environ, follow=False).waiting
    assert "401" in waiting[RUN]
    environ[TOKEN] = "secret"
    assert deliverer.deliver(settings, environ, follow=False) == (len(bodies), {})
    assert hashes(stored(tmp_path / "journal.db")) == hashes(bodies)
    assert not (home / "spool" / RUN).exists()
    assert "secret" not in "".join(p.read_text() for p in home.rglob("*.json"))


def test_a_journal_behind_a_sink_cannot_be_asked_and_says_so() -> None:
    with pytest.raises(SettingsError, match="behind a sink") as caught:
        Journal.open("http://127.0.0.1:4319")
    assert "--journal" in str(caught.value.hint)


def test_the_doctor_asks_the_sink(running: RunningSink, tmp_path: Path) -> None:
    environ = {
        "AGENT_TELEMETRY_HOME": str(tmp_path / "home"),
        "AGENT_TELEMETRY_JOURNAL": f"http://127.0.0.1:{running.port}",
    }
    for token, state in (("secret", "ok"), ("wrong", "fail")):
        checks = doctor.examine(Settings.load(environ), {**environ, TOKEN: token})
        assert [check.state for check in checks if check.name == "journal"] == [state]


def test_an_answer_of_something_else_is_no_answer(tmp_path: Path) -> None:
    running = RunningSink(tmp_path / "journal.db")
    with RemoteJournal(f"http://127.0.0.1:{running.port}/healthz?", {}) as other:
        with pytest.raises(JournalUnreachable, match="as no sink does"):
            other.held(RUN)
    assert json.loads(running.request("GET", "/healthz").body) == {"status": "ok"}
    running.stop()
