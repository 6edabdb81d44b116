"""The journal on real databases: SQLite always, PostgreSQL where there is one (`tests.backends`)."""

from __future__ import annotations

import json
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, select, text

from agent_shim import events
from agent_shim.errors import JournalTooNew, JournalUnreachable, SettingsError
from telemetry import database, event_log, journal
from telemetry.journal import Ingested, Journal
from telemetry.rows import COLUMNS
from telemetry.tables import SQLModel
from tests.made_runs import RUN, USAGE, Event, Made, body, runs

if TYPE_CHECKING:
    from tests.backends import Postgres

pytest_plugins = ("tests.backends",)

Rows = dict[str, list[tuple[Any, ...]]]


def views(of: Journal, *names: str) -> Rows:
    """All rows of the views, by table."""
    with of.engine.connect() as connection:
        return {
            name: sorted(
                (tuple(row) for row in connection.execute(select(SQLModel.metadata.tables[name]))), key=repr
            )
            for name in names or COLUMNS
        }


def column(of: Journal, name: str) -> list[Any]:
    """One column as ``table.column``."""
    with of.engine.connect() as connection:
        table, _, wanted = name.partition(".")
        return list(connection.scalars(select(SQLModel.metadata.tables[table].c[wanted])))


@pytest.fixture
def opened(place: str) -> Iterator[Journal]:
    with Journal.open(place) as opened:
        yield opened


def small_run(run: str = RUN, **started: Any) -> Made:
    """A wrapped run with one call, orderly ended."""
    made = Made(run)
    wrapper, agent = made.process("wrapper"), made.process("agent")
    root = wrapper.say(events.RunStarted(way="run", agent="trae", **started))
    agent.call(usage=USAGE, model="gpt-5-x", response_id="resp_1")
    agent.seal()
    wrapper.say(events.RunFinished(outcome="exited", exit_code=0, producers=[agent.producer]), begin=root)
    wrapper.seal()
    return made


def run_id(number: int) -> str:
    return f"018f3a5c7d2e7000{number:016x}"


# --- taking events --------------------------------------------------------------------------------


def test_events_are_stored_verbatim_and_folded(opened: Journal) -> None:
    bodies = small_run().bodies()
    assert opened.ingest(bodies, "test") == Ingested(len(bodies), 0, 0, 0)
    assert sorted(column(opened, "event.body")) == sorted(b.decode() for b in bodies)
    assert column(opened, "run.complete") == [True]
    assert column(opened, "usage.input_tokens") == [100]


def test_the_same_events_again_change_nothing(opened: Journal) -> None:
    bodies = small_run().bodies()
    opened.ingest(bodies, "test")
    before = views(opened)
    assert opened.ingest(bodies * 2, "test") == Ingested(0, 2 * len(bodies), 0, 0)
    assert views(opened) == before


def test_an_event_twice_in_one_batch_is_one_event(opened: Journal) -> None:
    bodies = small_run().bodies()
    assert opened.ingest([bodies[0], bodies[0]], "test") == Ingested(1, 1, 0, 0)


def test_other_content_under_a_taken_number_is_kept_apart_and_the_first_stays(opened: Journal) -> None:
    made = small_run()
    opened.ingest(made.bodies(), "test")
    before = views(opened)
    forged = body(made.events[2] | {"name": "run.started", "data": {"way": "forged"}})
    assert opened.ingest([forged, forged], "a peer") == Ingested(0, 0, 2, 0)
    assert views(opened) == before
    (row,) = views(opened, "quarantine")["quarantine"]
    assert row[1:2] + row[3:] == ("conflict", "a peer", forged)


def test_a_number_taken_in_another_run_is_a_conflict_and_neighbours_are_kept(opened: Journal) -> None:
    made = small_run()
    opened.ingest(made.bodies(), "test")
    elsewhere = [event | {"run": run_id(7)} for event in made.events[:2]]
    mine = small_run(run_id(9))
    result = opened.ingest([*map(body, elsewhere), *mine.bodies()], "test")
    assert result == Ingested(len(mine.events), 0, 2, 0)
    assert sorted(column(opened, "run.run_id")) == sorted([RUN, run_id(9)])


GOOD = {
    "v": 1,
    "run": RUN,
    "producer": "0" * 32,
    "seq": 1,
    "name": "x.done",
    "time": 1,
    "mono": 1,
    "data": {},
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\x00 not text", "not JSON"),
        (b"{", "not JSON"),
        (body(GOOD).replace(b"{}", b'{"a":NaN}'), "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (body(GOOD).replace(b"{}", b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"), "not JSON"),
        (b"[]", "not the shape of an event"),
        (body(GOOD | {"v": 2}), "format version 2 is unknown"),
        (body(GOOD | {"v": 10**30}), "format version is unknown"),
        (body({k: v for k, v in GOOD.items() if k != "mono"}), "not the shape of an event"),
        (body(GOOD | {"seq": 0}), "not the shape of an event"),
        (body(GOOD | {"seq": True}), "not the shape of an event"),
        (body(GOOD | {"seq": 2**63}), "not the shape of an event"),
        (body(GOOD | {"time": 2**70}), "not the shape of an event"),
        (body(GOOD | {"run": "../../etc"}), "not the shape of an event"),
        (body(GOOD | {"producer": "0" * 31 + ":"}), "not the shape of an event"),
        (body(GOOD | {"data": []}), "not the shape of an event"),
        (body(GOOD | {"data": {"way": "a\0b"}}), "text with NUL"),
        (body(GOOD | {"data": {"way": "a\ud800"}}), "not JSON"),
        (body(GOOD | {"data": {"\0": 1}}), "text with NUL"),
    ],
)
def test_what_is_no_event_is_kept_with_the_reason_and_neighbours_are_taken(
    opened: Journal, content: bytes, reason: str
) -> None:
    made = small_run()
    assert opened.ingest([content, *made.bodies()], "a peer") == Ingested(len(made.events), 0, 0, 1)
    opened.ingest([content], "a peer")
    (row,) = views(opened, "quarantine")["quarantine"]
    assert (row[1], row[4]) == (reason, content)


@pytest.mark.parametrize(
    "value", ["naïve 😀 \\u0000 𐍈", "'; DROP TABLE event; --", "%s %(x)s ?1 :a", "\x1b[31m"]
)
def test_hostile_text_goes_through_unchanged(opened: Journal, value: str) -> None:
    made = small_run(task=value)
    assert opened.ingest(made.bodies(), value).quarantined == 0
    assert column(opened, "run.task") == [value]


def test_a_number_beyond_all_numbers_is_no_reason_to_refuse_the_event(opened: Journal) -> None:
    made = small_run(tags={"a": 1})
    bodies = [content.replace(b'{"a":1}', b'{"a":1e999}') for content in made.bodies()]
    assert opened.ingest(bodies, "test").new == len(bodies)
    assert column(opened, "run.tags") == ['{"a":"Infinity"}']


def test_an_event_of_an_unknown_name_is_kept(opened: Journal) -> None:
    opened.ingest([body(GOOD)], "test")
    assert column(opened, "event.name") == ["x.done"]
    assert column(opened, "run.events") == [1]


def test_what_is_held_is_told_as_ranges(opened: Journal) -> None:
    made = Made()
    one, two = made.process(), made.process()
    for _ in range(6):
        one.say(events.CaptureFailed(where="x", error_type="E"))
    kept = [event for event in made.events if event["producer"] != one.producer or event["seq"] not in (3, 6)]
    opened.ingest([body(event) for event in kept], "test")
    assert opened.held(RUN) == {one.producer: [(1, 2), (4, 5), (7, 7)], two.producer: [(1, 1)]}
    assert opened.held(run_id(1)) == {}


# --- the views ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@settings(max_examples=40)
@given(
    made=st.tuples(runs(run_id(1)), runs(run_id(2))),
    chance=st.randoms(use_true_random=False),
    size=st.integers(1, 12),
)
def test_any_order_and_batching_gives_the_rows_that_a_rebuild_gives(
    opened: Journal, made: tuple[list[Event], list[Event]], chance: random.Random, size: int
) -> None:
    _any_order(opened, made, chance, size)


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
@settings(max_examples=10)
@given(
    made=st.tuples(runs(run_id(1)), runs(run_id(2))),
    chance=st.randoms(use_true_random=False),
    size=st.integers(1, 12),
)
def test_any_order_and_batching_gives_the_same_rows_on_postgresql(
    opened: Journal, made: tuple[list[Event], list[Event]], chance: random.Random, size: int
) -> None:
    _any_order(opened, made, chance, size)


def _any_order(
    opened: Journal, made: tuple[list[Event], list[Event]], chance: random.Random, size: int
) -> None:
    empty(opened)
    bodies = [body(event) for event in made[0] + made[1]]
    opened.ingest(bodies, "at once")
    expected = views(opened)
    empty(opened)
    chance.shuffle(bodies)
    for start in range(0, len(bodies), size):
        batch = bodies[start : start + size]
        opened.ingest(batch + chance.choices(bodies[: start + size], k=2), "in batches")
        if chance.random() < 0.2:
            opened._folds.clear()  # as another process would find it
    assert views(opened) == expected
    opened.rebuild()
    assert views(opened) == expected


def empty(opened: Journal) -> None:
    with database.writing(opened.engine) as connection:
        for name in ("stored_event", "quarantine", *COLUMNS):
            connection.execute(SQLModel.metadata.tables[name].delete())


def test_a_fold_that_another_process_went_beyond_is_made_again(place: str) -> None:
    bodies = small_run().bodies()
    with Journal.open(place) as one, Journal.open(place) as other:
        one.ingest(bodies[:3], "one")
        other.ingest(bodies[3:9], "other")
        one.ingest(bodies[9:], "one")
        incremental = views(one)
        assert column(one, "run.complete") == [True]
        one.rebuild()
        assert views(one) == incremental


def test_folds_of_old_runs_are_let_go_and_made_again(
    opened: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "CACHED_EVENTS", 10)
    made = [small_run(run_id(number)) for number in range(1, 6)]
    for position in range(12):
        for run in made:
            opened.ingest([body(event) for event in run.events[position : position + 1]], "test")
    assert sum(fold.events for fold in opened._folds.values()) <= 10 + 12
    assert column(opened, "run.complete") == [True] * 5


FULL = "ab12" * 10


def commits(opened: Journal) -> dict[str, str]:
    with opened.engine.connect() as connection:
        table = SQLModel.metadata.tables["run"]
        return {row[0][-1]: row[1] for row in connection.execute(select(table.c.run_id, table.c.commit))}


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (5, 4, 3, 2, 1), (2, 5, 1, 4, 3)])
def test_a_short_commit_joins_its_unique_full_one_of_the_same_repository(
    opened: Journal, order: tuple[int, ...]
) -> None:
    given = {
        1: {"repository": "r", "commit": FULL},
        2: {"repository": "r", "commit": FULL[:8]},
        3: {"repository": "other", "commit": FULL[:8]},
        4: {"repository": "r", "commit": FULL[:3]},  # Git takes no such prefix
        5: {"commit": FULL[:8]},
    }
    for number in order:
        for event in small_run(run_id(number), **given[number]).events:
            opened.ingest([body(event)], "test")
    expected = {"1": FULL, "2": FULL, "3": FULL[:8], "4": FULL[:3], "5": FULL[:8]}
    assert commits(opened) == expected
    opened.rebuild()
    assert commits(opened) == expected


def test_a_short_commit_that_two_full_ones_share_stays_short(opened: Journal) -> None:
    for number, commit in enumerate([FULL[:8], FULL], 1):
        opened.ingest(small_run(run_id(number), repository="r", commit=commit).bodies(), "test")
    assert commits(opened)["1"] == FULL
    opened.ingest(small_run(run_id(3), repository="r", commit=FULL[:8] + "0" * 32).bodies(), "test")
    assert commits(opened)["1"] == FULL[:8]


# --- many processes -------------------------------------------------------------------------------

INGEST = """
import sys
from telemetry.journal import Journal
place, batch = sys.argv[1], int(sys.argv[2])
lines = [line.encode() for line in sys.stdin.read().splitlines()]
with Journal.open(place) as opened:
    print("ready", flush=True)
    for start in range(0, len(lines), batch):
        opened.ingest(lines[start:start + batch], "test")
        print(start + len(lines[start:start + batch]), flush=True)
"""


def start(program: str, *words: str, given: bytes = b"") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(given)
    process.stdin.close()
    process.stdin = None
    return process


def finished(process: subprocess.Popen[bytes]) -> list[str]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error.decode()
    return out.decode().split()


def test_eight_processes_may_open_a_fresh_journal_at_once(place: str) -> None:
    program = "import sys; from telemetry.journal import Journal; Journal.open(sys.argv[1]).close()"
    processes = [start(program, place) for _ in range(8)]
    for process in processes:
        finished(process)


def test_processes_that_ingest_the_same_runs_at_once_lose_and_double_nothing(place: str) -> None:
    """Each gets all events of all runs, in an order of its own."""
    made = [small_run(run_id(n), repository="r", commit=FULL[: 8 * n]) for n in range(1, 6)]
    bodies = [b for run in made for b in run.bodies()]
    processes = []
    for seed in range(4):
        shuffled = list(bodies)
        random.Random(seed).shuffle(shuffled)
        processes.append(start(INGEST, place, "7", given=b"\n".join(shuffled)))
    for process in processes:
        finished(process)
    with Journal.open(place) as opened:
        assert sorted(column(opened, "event.body")) == sorted(b.decode() for b in bodies)
        assert views(opened, "quarantine") == {"quarantine": []}
        incremental = views(opened)
        assert column(opened, "run.complete") == [True] * 5
        opened.rebuild()
        assert views(opened) == incremental


def test_what_was_acknowledged_survives_sigkill_and_is_there_once(place: str) -> None:
    made = [small_run(run_id(number)) for number in range(1, 41)]
    bodies = [b for run in made for b in run.bodies()]
    chance = random.Random(20251122)
    chance.shuffle(bodies)
    position = 0
    for _ in range(8):
        process = start(INGEST, place, "5", given=b"\n".join(bodies[position:]))
        assert process.stdout
        acknowledged = 0
        for _ in range(chance.randint(1, 12)):
            line = process.stdout.readline().strip()
            acknowledged = int(line) if line.isdigit() else acknowledged
        process.kill()
        rest = process.stdout.read().split()
        acknowledged = max([acknowledged, *(int(word) for word in rest if word.isdigit())])
        process.wait()
        process.stdout.close()
        assert process.stderr
        process.stderr.close()
        with Journal.open(place) as opened:
            stored = column(opened, "event.body")
            assert {b.decode() for b in bodies[: position + acknowledged]} <= set(stored)
            assert len(set(stored)) == len(stored)
            survived = views(opened)
            opened.rebuild()
            assert views(opened) == survived
        position += acknowledged
    finished(start(INGEST, place, "50", given=b"\n".join(bodies[position:])))
    with Journal.open(place) as opened:
        assert sorted(column(opened, "event.body")) == sorted(b.decode() for b in bodies)
        assert column(opened, "run.complete") == [True] * 40


# --- when the database is not there ---------------------------------------------------------------


def test_ingest_goes_on_after_a_server_was_restarted(postgres: Postgres) -> None:
    if postgres.restart is None:
        pytest.skip("the server is not ours to restart")
    url = postgres.create()
    made = small_run()
    with Journal.open(url) as opened:
        opened.ingest(made.bodies()[:4], "test")
        subprocess.run(postgres.restart, check=True, stdout=subprocess.DEVNULL, timeout=60)
        opened.ingest(made.bodies(), "test")
        assert column(opened, "run.complete") == [True]
    postgres.drop(url)


def test_a_full_disk_is_told_and_nothing_is_lost_or_stuck(tmp_path: Path) -> None:
    made = small_run()
    with Journal.open(tmp_path / "journal.db") as opened:
        opened.ingest(made.bodies()[:4], "test")
        with opened.engine.connect() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        big = body(GOOD | {"data": {"x": "y" * 100_000}})
        before = opened.held(RUN), views(opened)
        with pytest.raises(JournalUnreachable, match="full") as caught:
            opened.ingest([big, *made.bodies()], "test")
        assert "space" in str(caught.value.hint)
        assert (opened.held(RUN), views(opened)) == before
        with opened.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1000000")
        assert opened.ingest([big, *made.bodies()], "test").new == len(made.events) + 1 - 4


def test_a_journal_that_another_process_keeps_locked_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal.open(path, patience_s=0.2) as opened:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalUnreachable, match="locked"):
                opened.ingest(small_run().bodies(), "test")
        assert opened.ingest(small_run().bodies(), "test").new == len(small_run().events)


def test_no_error_shows_the_password() -> None:
    with pytest.raises(JournalUnreachable) as caught:
        Journal.open("postgresql://me:s3cret@127.0.0.1:1/nowhere", patience_s=1)
    assert "s3cret" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("place_", ["mysql://x/y", "http://sink:4318", "sqlite://", "postgresql://x:y/z"])
def test_a_place_that_is_no_database_of_ours_is_refused(place_: str) -> None:
    with pytest.raises(SettingsError):
        Journal.open(place_)


@pytest.mark.parametrize("content", [b"not a database at all, but longer than a header " * 30])
def test_a_file_that_is_something_else_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(JournalUnreachable, match="not a database"):
        Journal.open(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(JournalUnreachable, match="no journal"):
        Journal.open(path)
    assert path.read_bytes() == before


# --- files and migrations -------------------------------------------------------------------------


def test_the_file_is_private_and_commits_reach_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.db"
    with Journal.open(path) as opened:
        opened.ingest(small_run().bodies(), "test")
        with opened.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_models_and_migrations_agree(opened: Journal) -> None:
    options = {"compare_type": True, "include_object": lambda item, *_: not item.info.get("is_view")}
    with opened.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, SQLModel.metadata) == []
        assert context.get_current_revision() == database.HEAD


def test_events_stored_whole_are_the_same_when_a_newer_version_keeps_them_in_less(place: str) -> None:
    """Whatever their bytes: also those that nobody of ours would write so."""
    run = small_run()
    odd = [
        b'{"run":"%s","producer":"%s","v":1,"seq":1,"name":"x","time":-1,"mono":0,"data":{}}',
        b'{"v":1,"run":"%s","producer":"%s","seq":2,"name":"\\u0061 \\" :b","time":5,"mono":0,"data":{}}',
        b'{"v":1,"run":"%s","producer":"%s","seq":3,"name":":\xf0\x9f\x98\x80","time":-7,"mono":0,"data":{}}',
    ]
    bodies = run.bodies() + [text % (RUN.encode(), b"d" * 32) for text in odd]
    rows = [event_log.decode(content).row for content in bodies]
    url = database.url_of(place)
    if url.get_backend_name() == "sqlite":
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    with database.writing(engine) as connection:
        config = database._alembic(None)
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        insert = f"INSERT INTO event VALUES ({', '.join(f':{i}' for i in range(7))})"
        connection.execute(text(insert), [{str(i): value for i, value in enumerate(row)} for row in rows])
    engine.dispose()
    with Journal.open(place) as opened:
        assert views(opened, "event")["event"] == sorted(rows, key=repr)
        again = opened.ingest(bodies, "again")
        opened.rebuild()
        assert (again.new, again.duplicates, again.conflicts) == (0, len(bodies), 0)
        assert column(opened, "run.events") == [len(bodies)]


def test_a_newer_journal_is_refused_and_untouched(place: str) -> None:
    with Journal.open(place) as opened:
        opened.ingest(small_run().bodies(), "test")
        with database.writing(opened.engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        before = views(opened)
        with pytest.raises(JournalTooNew, match="9999"):
            Journal.open(place)
        assert views(opened) == before
        assert len(column(opened, "event.body")) == len(small_run().events)


TODAY = database.HEAD
"""The revision that the tables of this program have."""
NEXT = """
from alembic import op
import sqlalchemy as sa

revision = "next"
down_revision = "{head}"

def upgrade():
    op.add_column("run", sa.Column("mood", sa.String()))
    op.execute("UPDATE run SET mood = 'good'")
    {then}
"""


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program with one more migration; the file to write it to."""
    import shutil

    here = Path(database.__file__).with_name("migrations")
    copy = tmp_path / "program" / "migrations"
    shutil.copytree(here, copy)
    monkeypatch.setattr(database, "MIGRATIONS", copy)
    monkeypatch.setattr(database, "HEAD", "next")
    return copy / "versions" / "next_mood.py"


def test_an_upgrade_keeps_a_copy_of_the_journal_as_it_was(tmp_path: Path, next_version: Path) -> None:
    path = tmp_path / "journal.db"
    _older(path)
    next_version.write_text(NEXT.format(head=TODAY, then=""))
    with Journal.open(path) as upgraded, upgraded.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT mood FROM run").scalars().all() == ["good"]
    copy = path.with_name(f"journal.db.before-upgrade-from-{TODAY}")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("SELECT version_num FROM alembic_version").fetchone() == (TODAY,)
        assert kept.execute("SELECT count(*) FROM event").fetchone() == (len(small_run().events),)


@pytest.mark.parametrize("then", ["import os; os.kill(os.getpid(), 9)", "raise OSError('disk')"])
def test_a_migration_that_dies_in_the_middle_leaves_the_old_journal(
    tmp_path: Path, next_version: Path, then: str
) -> None:
    path = tmp_path / "journal.db"
    _older(path)
    next_version.write_text(NEXT.format(head=TODAY, then=then))
    program = (
        "import sys; from pathlib import Path; from telemetry import database;"
        "database.HEAD = 'next'; database.MIGRATIONS = Path(sys.argv[2]); database.connect(sys.argv[1])"
    )
    process = start(program, str(path), str(next_version.parent.parent))
    process.communicate(timeout=60)
    assert process.returncode != 0
    with closing(sqlite3.connect(path)) as left:
        assert left.execute("SELECT version_num FROM alembic_version").fetchone() == (TODAY,)
        assert "mood" not in [row[1] for row in left.execute("PRAGMA table_info(run)")]
    next_version.write_text(NEXT.format(head=TODAY, then=""))
    with Journal.open(path) as upgraded:
        assert len(column(upgraded, "event.body")) == len(small_run().events)


def _older(path: Path) -> None:
    program = "import sys; from telemetry.journal import Journal; j = Journal.open(sys.argv[1]);" + (
        "j.ingest([line.encode() for line in sys.stdin.read().splitlines()], 'test'); j.close()"
    )
    finished(start(program, str(path), given=b"\n".join(small_run().bodies())))


def test_opening_an_up_to_date_journal_does_not_import_alembic(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close()
    program = (
        "import sys; from telemetry.journal import Journal; Journal.open(sys.argv[1]).close();"
        "print(sorted(m for m in sys.modules if m.startswith('alembic')))"
    )
    assert finished(start(program, str(path))) == ["[]"]


def test_the_stored_text_is_what_the_spool_held(opened: Journal) -> None:
    """Its hash is comparable from spool to journal."""
    import hashlib

    bodies = small_run().bodies()
    opened.ingest(bodies, "test")
    stored = {bytes(sha) for sha in column(opened, "event.sha256")}
    assert stored == {hashlib.sha256(content).digest() for content in bodies}
    assert json.loads(column(opened, "event.body")[0])["v"] == 1
