"""``reconcile``: the files of a machine against its journal, in real folders and journals of both kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from agent_shim import spool
from agent_shim.errors import NotFound
from agent_shim.events import ProcessFinished
from telemetry import deliverer, places, spooled
from telemetry.journal import Journal
from telemetry.reconcile import Reconciled, reconcile
from telemetry.settings import Settings
from tests.recordings import RUN, Recording, example_run
from tests.test_sink import RunningSink

pytest_plugins = ("tests.backends",)


def settings_of(home: Path, place: str) -> tuple[Settings, dict[str, str]]:
    environ = {"AGENT_TELEMETRY_HOME": str(home), "AGENT_TELEMETRY_JOURNAL": place}
    return Settings.load(environ), environ


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_journal_that_has_everything_is_left_alone(home: Path, place: str) -> None:
    bodies = example_run(home / "spool").bodies()
    settings, environ = settings_of(home, place)
    deliverer.deliver(settings, environ, follow=False)
    assert list(reconcile(settings, environ)) == [Reconciled(RUN, len(bodies), 0, 0, None)]


@pytest.mark.parametrize("through", ["database", "sink"])
def test_events_that_a_journal_lost_are_sent_again(home: Path, place: str, through: str) -> None:
    """Three of one producer in the middle, and all of another, as after a backup was restored."""
    bodies = example_run(home / "spool").bodies()
    settings, environ = settings_of(home, place)
    deliverer.deliver(settings, environ, follow=False)
    with Journal.open(place) as journal:
        with journal.engine.begin() as connection:
            first = json.loads(bodies[0])["producer"]
            gone = connection.execute(
                text(
                    "DELETE FROM stored_event WHERE seq BETWEEN 3 AND 5 OR producer = "
                    "(SELECT number FROM identifier WHERE id = :p)"
                ),
                {"p": first},
            ).rowcount
        journal.rebuild()
    running = RunningSink(place) if through == "sink" else None
    if running:
        (home / "delivered" / RUN / "destination.json").unlink(missing_ok=True)
        settings, environ = settings_of(home, f"http://127.0.0.1:{running.port}")
    assert list(reconcile(settings, environ)) == [Reconciled(RUN, len(bodies), gone, 0, None)]
    assert list(reconcile(settings, environ)) == [Reconciled(RUN, len(bodies), 0, 0, None)]
    if running:
        running.stop()
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        assert connection.execute(text("SELECT events, complete FROM run")).one() == (len(bodies), True)


def test_what_was_never_delivered_is_sent_too(home: Path, place: str) -> None:
    bodies = example_run(home / "spool").bodies()
    settings, environ = settings_of(home, place)
    (found,) = reconcile(settings, environ)
    assert found == Reconciled(RUN, len(bodies), len(bodies), 0, None)


def test_a_file_of_many_megabytes_is_compared_to_its_end(home: Path) -> None:
    """A spool file is read eight megabytes at a time."""
    recording = Recording(home / "spool")
    producer = recording.process()
    for _ in range(200):
        producer.append(ProcessFinished(outcome="exited", stdout_tail="x" * 100_000))
    (path,) = producer.folder.glob("*.log")
    assert path.stat().st_size > 9 * 2**20
    settings, environ = settings_of(home, str(home / "journal.db"))
    (found,) = reconcile(settings, environ)
    assert (found.events, found.missing, found.lost) == (201, 201, 0)


def test_a_run_that_is_moved_while_it_is_compared_is_compared_all_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deliverer beside it moves each run once it is complete."""
    bodies = example_run(home / "spool").bodies()
    settings, environ = settings_of(home, str(home / "journal.db"))
    read = spool.read

    def moved_first(path: Path, *rest: int) -> Iterator[spool.Line]:
        if places.run_folder(home, RUN).is_dir():
            run = spooled.Run(home, RUN)
            run.producers = {path.stem: spooled.Producer(home, path) for path in places.producers(run.folder)}
            assert run.retire()
        return read(path, *rest)

    monkeypatch.setattr(spool, "read", moved_first)
    assert list(reconcile(settings, environ)) == [Reconciled(RUN, len(bodies), len(bodies), 0, None)]
    assert places.delivered_folder(home, RUN).is_dir()


@pytest.mark.parametrize("name", [RUN, RUN[-8:], RUN[:12], "@last"])
def test_a_run_is_named_as_for_other_commands(home: Path, name: str) -> None:
    example_run(home / "spool")
    settings, environ = settings_of(home, str(home / "journal.db"))
    (found,) = reconcile(settings, environ, name)
    assert found.run == RUN


def test_a_run_that_is_not_here_is_no_success(home: Path) -> None:
    example_run(home / "spool")
    settings, environ = settings_of(home, str(home / "journal.db"))
    with pytest.raises(NotFound, match="There is no run 'nope' in"):
        list(reconcile(settings, environ, "nope"))


def test_a_number_that_the_journal_has_for_another_event_is_no_loss_to_repair(home: Path, place: str) -> None:
    """It holds the number, so nothing is sent."""
    bodies = example_run(home / "spool").bodies()
    settings, environ = settings_of(home, place)
    with Journal.open(place) as journal:
        journal.ingest([bodies[0].replace(b'"pid":', b'"pid":9')], "another")
    (found,) = reconcile(settings, environ)
    assert (found.missing, found.lost) == (len(bodies) - 1, 0)


def test_a_journal_that_cannot_be_asked_is_a_finding(home: Path, tmp_path: Path) -> None:
    example_run(home / "spool")
    (tmp_path / "file").write_text("in the way")
    environ = {
        **os.environ,
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_JOURNAL": str(tmp_path / "file" / "journal.db"),
    }
    code = "from telemetry.cli import main; main()"
    command = [sys.executable, "-c", code, "reconcile"]
    root = Path(__file__).parent.parent
    asked = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert asked.returncode == 1
    assert "cannot be used" in asked.stderr
    environ["AGENT_TELEMETRY_JOURNAL"] = str(tmp_path / "journal.db")
    asked = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert (asked.returncode, "were missing and sent again" in asked.stderr) == (0, True)
