"""Every event in the spool reaches its journal once, whoever is killed, and whatever cannot be reached."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import telemetry.deliverer
from agent_shim import spool
from agent_shim.events import CaptureFailed, RunFinished, RunStarted
from agent_shim.spool import Spool, new_id
from telemetry import handover, places
from telemetry.deliverer import JOURNAL, Deliverer, deliver
from telemetry.journal import Journal
from telemetry.places import Destination
from telemetry.settings import Endpoint, Settings
from telemetry.spooled import Producer, Run
from tests.backends import Postgres, postgres
from tests.generations import ROOT
from tests.test_exporter import Peer
from tests.wrapped import Wrap, eventually

__all__ = ["postgres"]

EVENT = CaptureFailed(where="here", error_type="none")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a data folder of this test's own."""
    return Settings.load({"AGENT_TELEMETRY_HOME": str(tmp_path / "home")})


class Writer:
    """A producer in this process; dead once it is closed without a seal."""

    def __init__(self, home: Path, run: str | None = None, role: str = "agent") -> None:
        self.spool = Spool(home / "spool", run or new_id(), role=role, redact=str)
        self.run = self.spool.run
        self.producer = self.spool.producer

    @property
    def path(self) -> Path:
        return self.spool.folder / f"{self.producer}.log"

    def write(self, count: int = 1) -> Writer:
        for _ in range(count):
            assert self.spool.append(EVENT)
        return self

    def die(self) -> Writer:
        """As if the process was killed: the lock is gone, and no seal is written."""
        assert self.spool._fd is not None
        os.close(self.spool._fd)
        self.spool._fd = None
        self.spool._sealed = True
        return self


def settle(settings: Settings, *, limit_s: float = 20.0) -> Any:
    return deliver(settings, os.environ, limit_s=limit_s, follow=False)


def journal_rows(settings: Settings, query: str, **values: Any) -> list[Any]:
    with Journal.open(settings.journal) as journal, journal.engine.connect() as connection:
        return list(connection.execute(text(query), values))


def in_journal(settings: Settings, run: str) -> dict[str, list[dict[str, Any]]]:
    """Producer → its events in the journal, in order."""
    rows = journal_rows(
        settings, "select producer, body from event where run_id = :run order by producer, seq", run=run
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for producer, body in rows:
        found.setdefault(producer, []).append(json.loads(body))
    return found


def seals(settings: Settings, run: str) -> dict[str, dict[str, Any]]:
    """Producer → how it was sealed; fails when one was sealed twice."""
    events = [event for events in in_journal(settings, run).values() for event in events]
    found = [event["data"] for event in events if event["name"] == "producer.sealed"]
    assert max(Counter(seal["producer"] for seal in found).values(), default=0) <= 1
    return {seal["producer"]: seal for seal in found}


def delivered(settings: Settings, run: str) -> Path:
    return settings.home / "delivered" / run


def assert_same(settings: Settings, run: str) -> None:
    """The journal has exactly what the run's files have, and every producer was sealed once."""
    files = {path.stem: path for path in places.producers(delivered(settings, run))}
    in_files = {
        producer: [json.loads(line.body) for line in spool.read(path) if line.body is not None]
        for producer, path in files.items()
    }
    there = in_journal(settings, run)
    assert there == {name: sorted(events, key=lambda e: e["seq"]) for name, events in in_files.items()}
    assert set(seals(settings, run)) == set(files)


# --- the way of an event ---------------------------------------------------------------------------


def test_a_producer_that_is_gone_is_sealed_and_its_run_retired(settings: Settings) -> None:
    writer = Writer(settings.home).write(3).die()
    assert settle(settings).waiting == {}
    assert seals(settings, writer.run)[writer.producer] == {
        "producer": writer.producer, "last_seq": 4, "reason": "process gone",
    }  # fmt: skip
    assert_same(settings, writer.run)
    assert not places.run_folder(settings.home, writer.run).exists()
    assert not places.positions_folder(settings.home, writer.run).exists()


def test_a_data_folder_that_cannot_be_written_keeps_no_question_from_being_asked(settings: Settings) -> None:
    writer = Writer(settings.home).write()
    writer.spool.seal()
    (settings.home / "deliverer.lock").mkdir()
    (why,) = settle(settings).waiting.items()
    assert why == (writer.run, f"{settings.home} cannot be written: Is a directory")
    (settings.home / "deliverer.lock").rmdir()
    settle(settings)
    assert_same(settings, writer.run)


def test_a_producer_that_sealed_itself_is_not_sealed_again(settings: Settings) -> None:
    writer = Writer(settings.home).write()
    writer.spool.seal()
    settle(settings)
    assert seals(settings, writer.run)[writer.producer]["reason"] == "closed"
    assert len(places.producers(delivered(settings, writer.run))) == 1


def test_a_producer_that_lives_is_followed_and_left_alone(settings: Settings) -> None:
    writer = Writer(settings.home).write(2)
    assert settle(settings).events == 3
    writer.write()
    assert settle(settings).events == 1
    assert seals(settings, writer.run) == {}
    assert places.run_folder(settings.home, writer.run).exists()
    writer.spool.seal()


def test_a_torn_line_was_never_an_event_and_its_length_is_said(settings: Settings) -> None:
    writer = Writer(settings.home).write().die()
    with writer.path.open("ab") as file:
        file.write(b'0badc0de {"v":1,"run":"')
    settle(settings)
    assert seals(settings, writer.run)[writer.producer]["torn_bytes"] == 23
    assert_same(settings, writer.run)


def test_a_corrupt_line_is_kept_in_quarantine_and_counted(settings: Settings) -> None:
    """Here one that would still be a good event without its checksum, with another number."""
    writer = Writer(settings.home).write(3).die()
    lines = writer.path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"seq":2', b'"seq":9')
    writer.path.write_bytes(b"".join(lines))
    settle(settings)
    assert [event["seq"] for event in in_journal(settings, writer.run)[writer.producer]] == [1, 3, 4]
    assert seals(settings, writer.run)[writer.producer]["corrupt_lines"] == 1
    ((content, source),) = journal_rows(settings, "select content, source from quarantine")
    assert bytes(content) == lines[1].rstrip(b"\n")
    assert writer.run in source


def test_a_file_that_lost_events_without_a_word_is_sealed_as_lossy(settings: Settings) -> None:
    writer = Writer(settings.home).write().die()
    writer.path.chmod(spool.LOSSY_MODE)
    settle(settings)
    assert seals(settings, writer.run)[writer.producer]["lossy"] is True


def test_a_producer_that_comes_late_joins_its_run(settings: Settings) -> None:
    """A process that outlived everything, also a delivered run, whose folder is gone."""
    writer = Writer(settings.home).write()
    writer.spool.seal()
    settle(settings)
    late = Writer(settings.home, writer.run).write().die()
    settle(settings)
    assert set(in_journal(settings, writer.run)) >= {writer.producer, late.producer}
    assert_same(settings, writer.run)
    assert not places.run_folder(settings.home, writer.run).exists()


def test_a_folder_in_which_a_producer_is_about_to_begin_stays(settings: Settings) -> None:
    writer = Writer(settings.home).write()
    writer.spool.seal()
    opening = Writer(settings.home, writer.run).write()
    hidden = opening.path.with_name(f".{opening.producer}")
    opening.path.rename(hidden)
    settle(settings)
    assert hidden.exists()
    (left := hidden.with_name(f".{new_id()}")).touch()
    hidden.rename(opening.path)
    opening.die()
    settle(settings)
    assert_same(settings, writer.run)
    assert not (delivered(settings, writer.run) / left.name).exists(), "its process was killed meanwhile"


def test_what_begins_while_a_run_is_delivered_is_delivered_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two people judge the same run."""
    run, ingest = new_id(), Journal.ingest

    def beside(journal: Journal, bodies: Any, source: str) -> Any:
        if len(places.producers(places.run_folder(settings.home, run))) < 3:
            Writer(settings.home, run).write().spool.seal()
        return ingest(journal, bodies, source)

    monkeypatch.setattr(Journal, "ingest", beside)
    Writer(settings.home, run).write().spool.seal()
    settle(settings)
    assert len(seals(settings, run)) == 3
    assert_same(settings, run)


def test_a_run_is_not_moved_while_a_file_begins_in_it(settings: Settings) -> None:
    writer = Writer(settings.home).write()
    writer.spool.seal()
    with spool.held(settings.home / "spool", fcntl.LOCK_SH, 0.0) as held:
        settle(settings)
        assert held
        assert places.runs(settings.home) == [writer.run]
    settle(settings)
    assert_same(settings, writer.run)


def test_a_run_that_goes_on_goes_where_it_went(settings: Settings, tmp_path: Path) -> None:
    """Whichever journal the next deliverer is told of; one that named none is no exception."""
    writer = Writer(settings.home).write()
    settle(settings)
    other = settings._replace(journal=str(tmp_path / "other.db"))
    writer.write().spool.seal()
    settle(other)
    Writer(settings.home, writer.run).write().spool.seal()
    settle(other)
    assert_same(settings, writer.run)
    assert not Path(other.journal).exists()


def test_a_run_whose_first_deliverer_died_goes_on_where_it_went(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its first events would be in two journals."""
    writer = Writer(settings.home).write()
    with monkeypatch.context() as dying:
        dying.setattr(Producer, "keep", lambda *_: os._exit(0))
        deliver_once_in_a_child(settings)
    writer.spool.seal()
    other = settings._replace(journal=str(tmp_path / "other.db"))
    settle(other)
    assert_same(settings, writer.run)
    assert not Path(other.journal).exists()


def test_positions_of_a_run_whose_deliverer_was_killed_when_it_had_moved_it_are_removed(
    settings: Settings,
) -> None:
    places.write_positions(settings.home, new_id(), new_id(), {JOURNAL: 1})
    (stuck := places.positions_folder(settings.home, "stuck") / "folder").mkdir(parents=True)
    Writer(settings.home).write().die()
    settle(settings)
    assert places.positioned(settings.home) == ["stuck"]
    assert stuck.exists(), "and one that cannot be removed holds up nothing"


def test_a_forked_child_has_a_file_of_its_own_that_is_delivered_too(settings: Settings) -> None:
    program = (
        "import os, sys; from agent_shim.spool import Spool; from agent_shim.events import CaptureFailed;"
        "s = Spool(sys.argv[1], sys.argv[2], role='agent', redact=str);"
        "e = CaptureFailed(where='here', error_type='none'); s.append(e); child = os.fork(); s.append(e);"
        "os._exit(0) if not child else os.waitpid(child, 0)"
    )
    run = new_id()
    command = [sys.executable, "-c", program, str(settings.home / "spool"), run]
    subprocess.run(command, cwd=ROOT, check=True)
    settle(settings)
    there = in_journal(settings, run)
    started = [events[0]["data"] for events in there.values()]
    assert sum(data["role"] == "agent" for data in started) == 2
    assert {data.get("forked_from") for data in started} - {None} <= set(there)
    assert_same(settings, run)


# --- killed at any moment --------------------------------------------------------------------------


def in_a_child(work: Callable[[], None]) -> int:
    """Do `work` in a forked process; the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def deliver_once(settings: Settings) -> None:
    """As the process does, until what is there is delivered."""
    held = handover.lock(settings.home)
    assert held is not None
    Deliverer(settings, os.environ, exports=False).settle(time.monotonic() + 20)


STEPS: list[tuple[Any, str]] = [
    (Journal, "ingest"), (Producer, "keep"), (Spool, "append"), (Spool, "seal"), (Run, "retire"),
]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=lambda value: getattr(value, "__name__", value))
def test_killed_at_any_step_nothing_is_lost_or_doubled(
    settings: Settings, owner: Any, step: str, when: str
) -> None:
    """The n-th call of each step is the last thing a deliverer does, for every n."""
    runs = [Writer(settings.home).write(3).die().run for _ in range(2)]
    original, kills = getattr(owner, step), 0
    while places.runs(settings.home):

        def work(n: int = kills % 3) -> None:
            calls = iter(range(n + 1))

            def deadly(*arguments: Any, **named: Any) -> Any:
                is_last = next(calls) == n
                if is_last and when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = original(*arguments, **named)
                if is_last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            setattr(owner, step, deadly)
            deliver_once(settings)

        kills += 1
        if in_a_child(work) == 0 or kills == 12:
            deliver_once_in_a_child(settings)
    assert kills
    for run in runs:
        assert_same(settings, run)


def deliver_once_in_a_child(settings: Settings) -> None:
    assert in_a_child(lambda: deliver_once(settings)) == 0


def test_killed_at_random_moments_while_producers_write(settings: Settings) -> None:
    """Writers are killed too: what they were told is written is in the journal."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    run = new_id()
    program = (
        "import sys, time; from agent_shim.spool import Spool; from agent_shim.events import CaptureFailed\n"
        "s = Spool(sys.argv[1], sys.argv[2], role='agent', redact=str)\n"
        "while True:\n"
        "    print(s.append(CaptureFailed(where='here', error_type='none')), flush=True); time.sleep(0.001)"
    )
    acknowledged: list[str] = []
    for _ in range(4):
        command = [sys.executable, "-c", program, str(settings.home / "spool"), run]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged.append(writer.stdout.readline().strip())
            for _ in range(8):
                _kill_a_deliverer(settings, chance.uniform(0.0, 0.12))
            writer.kill()
            acknowledged += writer.stdout.read().split()
    deliver_once_in_a_child(settings)
    there = {f"{p}:{event['seq']}" for p, events in in_journal(settings, run).items() for event in events}
    assert set(acknowledged) <= there
    assert len(acknowledged) > 100
    assert_same(settings, run)


def _kill_a_deliverer(settings: Settings, after_s: float) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                deliver_once(settings)
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_run_whose_wrapper_was_killed_is_picked_up_by_the_next_command(tmp_path: Path) -> None:
    wrap = Wrap(tmp_path / "home")
    settings = Settings.load({"AGENT_TELEMETRY_HOME": str(wrap.home)})
    wrap.home.mkdir()
    held = handover.lock(wrap.home)  # no deliverer can start
    assert held is not None
    with wrap.start(["sleep", "60"], task="killed") as process:
        wrap.wait_for("killed", "process.started")
        process.kill()
        process.communicate()
    os.close(held)
    (run,) = places.runs(wrap.home)
    assert settle(settings).waiting == {}
    assert_same(settings, run)
    ((state,),) = journal_rows(settings, "select state from run where run_id = :run", run=run)
    assert state == "interrupted"


# --- one deliverer ---------------------------------------------------------------------------------


@pytest.fixture
def at_work(settings: Settings) -> Iterator[Writer]:
    """A deliverer in a process of its own, kept there by a producer that lives."""
    writer = Writer(settings.home).write()
    handover.start(settings, {})
    eventually(lambda: handover.is_running(settings.home))
    yield writer
    writer.spool.seal()
    eventually(lambda: not handover.is_running(settings.home))


def test_a_second_deliverer_is_gone_at_once(settings: Settings, at_work: Writer) -> None:
    command = [sys.executable, "-m", "telemetry.deliverer"]
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(settings.home)}
    done = subprocess.run(command, cwd=ROOT, env=environ, timeout=30, check=False)
    assert done.returncode == 0
    assert handover.is_running(settings.home)


def test_a_command_waits_for_the_deliverer_that_is_at_work(settings: Settings, at_work: Writer) -> None:
    at_work.write(5)
    assert settle(settings).waiting == {}
    assert len(in_journal(settings, at_work.run)[at_work.producer]) == 7


def test_a_deliverer_that_cannot_be_waited_for_is_said(settings: Settings) -> None:
    writer = Writer(settings.home).write().die()
    held = handover.lock(settings.home)  # it hangs
    assert held is not None
    assert settle(settings, limit_s=0.2).waiting == {writer.run: "another process is still delivering it"}
    os.close(held)


def test_a_run_that_goes_elsewhere_is_nothing_to_wait_for(settings: Settings, tmp_path: Path) -> None:
    writer = Writer(settings.home).write()
    places.write_destination(settings.home, writer.run, Destination(str(tmp_path / "other.db")))
    writer.die()
    held = handover.lock(settings.home)
    assert held is not None
    assert settle(settings, limit_s=60).waiting == {}
    os.close(held)


def test_it_ends_when_nothing_is_left(settings: Settings) -> None:
    writer = Writer(settings.home).write().die()
    handover.start(settings, {})
    eventually(lambda: delivered(settings, writer.run).exists())
    eventually(lambda: not handover.is_running(settings.home))
    assert (settings.home / "deliverer.log").read_text() == ""


def test_a_run_that_began_while_it_was_leaving_is_not_forgotten(settings: Settings) -> None:
    """That run found the lock held, so it started no deliverer of its own."""
    first = Writer(settings.home).write().die()
    late = new_id()

    def work() -> None:
        os.environ["AGENT_TELEMETRY_HOME"] = str(settings.home)
        hold, began = telemetry.deliverer._hold, []

        def hold_and_begin(given: Settings) -> set[str]:
            left = hold(given)
            if not began:
                began.append(Writer(given.home, late).write().die())
            return left

        telemetry.deliverer._hold = hold_and_begin
        telemetry.deliverer.main()

    assert in_a_child(work) == 0
    assert_same(settings, first.run)
    assert_same(settings, late)


def test_many_runs_at_once_share_one_deliverer(settings: Settings) -> None:
    wrap = Wrap(settings.home)
    settings.home.mkdir()
    started = [wrap.start(["sh", "-c", f"sleep 0.2; exit {n}"], task=f"n{n}") for n in range(6)]
    codes = [process.communicate() and process.returncode for process in started]
    assert codes == list(range(6))
    eventually(lambda: not handover.is_running(settings.home))
    ended = journal_rows(settings, "select task, exit_code, complete from run order by task")
    assert [tuple(row) for row in ended] == [(f"n{n}", n, True) for n in range(6)]


def test_it_gets_of_the_environment_only_what_names_a_destination(settings: Settings) -> None:
    writer = Writer(settings.home).write()
    pid = handover.start(settings, {**os.environ, "OPENAI_API_KEY": "sk-secret", "OTEL_SERVICE_NAME": "mine"})
    eventually(lambda: handover.is_running(settings.home))
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    writer.spool.seal()
    eventually(lambda: not handover.is_running(settings.home))
    assert b"sk-secret" not in environ
    assert b"OTEL_SERVICE_NAME=mine" in environ
    assert f"AGENT_TELEMETRY_HOME={settings.home}".encode() in environ


def test_a_command_that_reads_leaves_the_rest_to_a_process_of_its_own(settings: Settings) -> None:
    writer = Writer(settings.home).write()
    deliver(settings, {}, follow=True)
    eventually(lambda: handover.is_running(settings.home))
    writer.write().spool.seal()
    eventually(lambda: delivered(settings, writer.run).exists())
    assert_same(settings, writer.run)


def test_nothing_to_deliver_is_nothing_done(settings: Settings) -> None:
    assert settle(settings) == (0, {})
    assert not settings.home.exists()


# --- what cannot be reached ------------------------------------------------------------------------


def test_a_journal_that_cannot_be_reached_holds_up_no_other(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "blocked").touch()
    stuck, other = Writer(settings.home).write(), Writer(settings.home).write()
    places.write_destination(settings.home, stuck.run, Destination(str(tmp_path / "blocked" / "journal.db")))
    stuck.die()
    other.die()
    waiting = settle(settings).waiting
    assert set(waiting) == {stuck.run}
    assert str(tmp_path / "blocked") in waiting[stuck.run]
    assert_same(settings, other.run)
    (tmp_path / "blocked").unlink()
    (tmp_path / "blocked").mkdir()
    assert settle(settings).waiting == {}
    assert_same(settings._replace(journal=str(tmp_path / "blocked" / "journal.db")), stuck.run)


def test_a_bad_run_holds_up_no_other(settings: Settings) -> None:
    bad, good = Writer(settings.home).write().die(), Writer(settings.home).write().die()
    bad.path.unlink()
    bad.path.mkdir()  # no file at all
    waiting = settle(settings).waiting
    assert set(waiting) == {bad.run}
    assert_same(settings, good.run)


def test_it_gives_up_after_its_patience_and_leaves_everything(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "blocked").touch()
    writer = Writer(settings.home).write()
    places.write_destination(settings.home, writer.run, Destination(str(tmp_path / "blocked" / "journal.db")))
    writer.die()
    said: list[str] = []
    deliverer = Deliverer(settings, os.environ, exports=False, say=said.append)
    deliverer.follow(patience_s=0.5)
    deliverer.close()
    assert deliverer.left() == {writer.run}
    assert places.run_folder(settings.home, writer.run).exists()
    assert len([line for line in said if writer.run in line]) == 1


def test_a_password_comes_from_the_environment_and_is_never_on_disk(
    settings: Settings, postgres: Postgres
) -> None:
    """The server here takes any password; what counts is where it is written."""
    url = postgres.create()
    secret = settings._replace(
        journal=url.replace("://", "://postgres:s3cret-word@", 1) if "@" not in url else url
    )
    writer = Writer(settings.home).write()
    places.write_destination(settings.home, writer.run, places.destination_of(secret))
    writer.die()
    handover.start(secret, os.environ)
    eventually(lambda: delivered(settings, writer.run).exists())
    eventually(lambda: not handover.is_running(settings.home))
    assert_same(secret, writer.run)
    assert not [
        path for path in settings.home.rglob("*") if path.is_file() and b"s3cret-word" in path.read_bytes()
    ]
    postgres.drop(url)


def test_a_seal_that_cannot_be_written_keeps_nobody_there(settings: Settings) -> None:
    """The disk is full, or the folder is read-only."""
    writer = Writer(settings.home).write().die()
    deliverer = Deliverer(settings, os.environ, exports=False)
    deliverer._seal_of(writer.run).folder = settings.home / "deliverer.lock" / "no folder"
    (settings.home / "deliverer.lock").touch()
    deliverer.follow(patience_s=0.5)
    deliverer.close()
    assert deliverer.left() == {writer.run}
    assert len(in_journal(settings, writer.run)[writer.producer]) == 2
    settle(settings)
    assert_same(settings, writer.run)


# --- an OpenTelemetry endpoint ---------------------------------------------------------------------


@pytest.fixture
def peer() -> Iterator[Peer]:
    """An endpoint that keeps what it gets."""
    peer = Peer()
    yield peer
    peer.close()


def whole_run(settings: Settings, destination: Destination) -> str:
    """The events of a run that ended, as a wrapper writes them."""
    wrapper = Writer(settings.home, role="wrapper")
    places.write_destination(settings.home, wrapper.run, destination)
    begin = wrapper.spool.append(RunStarted(way="run"))
    wrapper.spool.append(RunFinished(outcome="exited", exit_code=0, producers=[]), begin=begin)
    wrapper.spool.seal()
    return wrapper.run


def to(peer: Peer, settings: Settings) -> Destination:
    logs, traces = (Endpoint(f"{peer.url}/v1/{name}", "http/protobuf") for name in ("logs", "traces"))
    return Destination(settings.journal, logs, traces)


def follow(settings: Settings, *, patience_s: float = 20.0) -> Deliverer:
    deliverer = Deliverer(settings, {}, exports=True)
    deliverer.follow(patience_s)
    deliverer.close()
    return deliverer


def test_an_endpoint_gets_events_and_spans_beside_the_journal(settings: Settings, peer: Peer) -> None:
    run = whole_run(settings, to(peer, settings))
    follow(settings)
    assert_same(settings, run)
    (path,) = places.producers(delivered(settings, run))
    assert sorted(peer.bodies()) == sorted(line.body for line in spool.read(path) if line.body is not None)
    assert [span.name for span in peer.spans()].count("invoke_agent") == 1


def test_a_dead_endpoint_never_holds_up_the_journal(settings: Settings, peer: Peer) -> None:
    destination = to(peer, settings)
    peer.answer = lambda _: (503, {})
    run = whole_run(settings, destination)
    deliverer = follow(settings, patience_s=1.0)
    assert run in deliverer.left()
    assert {event["name"] for event in next(iter(in_journal(settings, run).values()))} >= {"run.finished"}
    assert handover.is_delivered(
        settings.home, run, places.producers(places.run_folder(settings.home, run))[0].stem
    )
    peer.answer = lambda _: (200, {})
    follow(settings)
    assert_same(settings, run)
    assert len(peer.spans()) >= 1


def test_an_endpoint_that_takes_spans_but_no_logs_gets_spans(settings: Settings, peer: Peer) -> None:
    peer.answer = lambda request: (404 if request.path.endswith("logs") else 200, {})
    run = whole_run(settings, to(peer, settings))
    follow(settings)
    assert_same(settings, run)
    assert [span.name for span in peer.spans()] == ["invoke_agent"]


def test_what_an_endpoint_has_is_not_sent_again_by_the_next_deliverer(settings: Settings, peer: Peer) -> None:
    wrapper = Writer(settings.home, role="wrapper")
    places.write_destination(settings.home, wrapper.run, to(peer, settings))
    begin = wrapper.spool.append(RunStarted(way="run"))
    first = Deliverer(settings, {}, exports=True)
    eventually(lambda: first.cycle() or len(peer.bodies()) == 2)
    eventually(lambda: places.read_positions(settings.home, wrapper.run, wrapper.producer).get("otlp"))
    first.close()
    wrapper.spool.append(RunFinished(outcome="exited", exit_code=0, producers=[]), begin=begin)
    wrapper.spool.seal()
    follow(settings)
    assert sorted(json.loads(body)["seq"] for body in peer.bodies() if wrapper.producer.encode() in body) == [
        1,
        2,
        3,
        4,
    ]
    assert [span.name for span in peer.spans()] == ["invoke_agent"]


def test_the_spans_of_a_run_that_was_killed_are_sent_at_its_end(settings: Settings, peer: Peer) -> None:
    wrapper = Writer(settings.home, role="wrapper")
    places.write_destination(settings.home, wrapper.run, to(peer, settings))
    wrapper.spool.append(RunStarted(way="run"))
    wrapper.die()
    follow(settings)
    assert_same(settings, wrapper.run)
    assert [span.name for span in peer.spans()] == ["invoke_agent: interrupted"]


# --- the data folder -------------------------------------------------------------------------------


def test_everything_in_the_data_folder_is_private(settings: Settings) -> None:
    places.make(settings.home)
    writer = Writer(settings.home).write().die()
    handover.start(settings, {})
    eventually(lambda: delivered(settings, writer.run).exists())
    eventually(lambda: not handover.is_running(settings.home))
    for path in settings.home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_positions_are_how_far_the_journal_is(settings: Settings) -> None:
    writer = Writer(settings.home).write(2)
    settle(settings)
    positions = places.read_positions(settings.home, writer.run, writer.producer)
    assert positions == {JOURNAL: writer.path.stat().st_size}
    writer.spool.seal()
