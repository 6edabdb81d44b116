"""The spool: an event exists when it is in here, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent_shim import spool as spools
from agent_shim.events import CallFinished, CallStarted, CaptureFailed, EventsLost, RunStarted
from agent_shim.redaction import Redactor
from agent_shim.spool import Spool, new_id
from telemetry.testing import FixedClock, FixedIds

ROOT = Path(__file__).resolve().parent.parent
EVENT = CallStarted(surface="responses", model="gpt-5")


def open_spool(folder: Path, **options: Any) -> Spool:
    return Spool(folder, new_id(), role="agent", redact=options.pop("redact", Redactor()), **options)


def lines(spool: Spool) -> list[dict[str, Any]]:
    return [event for path in sorted(spool.folder.glob("*.log")) for event in read(path)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line.body) for line in spools.read(path) if line.body is not None]


def numbers(path: Path) -> list[int]:
    return sorted(event["seq"] for event in read(path))


def test_an_event_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    begin = spool.append(EVENT)
    end = spool.append(CallFinished(ended="completed"), begin=begin)
    first, second, third = lines(spool)
    assert (first["name"], first["seq"], first["data"]["role"]) == ("producer.started", 1, "agent")
    assert begin == f"{spool.producer}:2"
    assert end == f"{spool.producer}:3"
    assert third["begin"] == begin
    assert second["data"] == {"surface": "responses", "model": "gpt-5"}


def test_the_same_events_give_the_same_bytes(tmp_path: Path) -> None:
    def write(folder: Path) -> bytes:
        spool = Spool(
            folder,
            "0" * 32,
            role="agent",
            redact=Redactor(),
            clock=FixedClock(),
            monotonic=FixedClock(),
            ids=FixedIds(),
        )
        spool.append(EVENT)
        body = (spool.folder / f"{spool.producer}.log").read_bytes()
        return body.splitlines()[1]

    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    ids = []
    for _ in range(20):
        ids.append(new_id())
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert {(one[12], one[16] in "89ab") for one in ids} == {("7", True)}


def test_the_file_is_only_for_its_owner(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "new")
    spool.append(EVENT)
    [path] = spool.folder.glob("*.log")
    assert (path.stat().st_mode & 0o777, spool.folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_sixteen_threads_write_a_dense_sequence(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)

    def write() -> None:
        for _ in range(200):
            spool.append(EVENT)

    threads = [threading.Thread(target=write) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [path] = spool.folder.glob("*.log")
    assert numbers(path) == list(range(1, 16 * 200 + 2))


def test_a_finaliser_that_records_while_we_write_neither_hangs_nor_breaks_the_sequence(
    tmp_path: Path,
) -> None:
    spool = open_spool(tmp_path)

    class Dropped:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            spool.append_later(CallFinished(ended="abandoned"), begin="x:1")

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            Dropped()
            spool.append(EVENT)
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    spool.flush()
    [path] = spool.folder.glob("*.log")
    events = read(path)
    assert numbers(path) == list(range(1, len(events) + 1))
    assert sum(event["name"] == "llm.call.finished" for event in events) == 300


def test_a_signal_handler_that_records_in_the_middle_of_an_append_breaks_nothing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        spool.append(CaptureFailed(where="handler", error_type="E"))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(3000):
            spool.append(EVENT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    [path] = spool.folder.glob("*.log")
    assert handled > 0
    assert numbers(path) == list(range(1, 3000 + handled + 2))


def test_a_forked_child_opens_a_file_of_its_own(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(EVENT)
    parent = spool.producer

    def child() -> None:
        for _ in range(50):
            spool.append(EVENT)
        os._exit(0)  # what multiprocessing and many launchers do: no clean-up runs

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    for _ in range(50):
        spool.append(EVENT)
    process.join()
    files = {path.stem: path for path in spool.folder.glob("*.log")}
    assert len(files) == 2
    assert numbers(files.pop(parent)) == list(range(1, 53))
    [(_, path)] = files.items()
    assert numbers(path) == list(range(1, 52))
    assert read(path)[0]["data"]["forked_from"] == parent


def test_a_descriptor_that_the_agent_closed_and_uses_itself_is_not_written_to(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append(EVENT)
    (first,) = spool.folder.glob("*.log")
    number = spool._fd
    assert number is not None
    with (tmp_path / "agents").open("wb") as agents:
        os.dup2(agents.fileno(), number)
        assert spool.append(EVENT)
        spool.seal()
        os.close(number)
    assert not (tmp_path / "agents").read_bytes()
    second = next(path for path in spool.folder.glob("*.log") if path != first)
    assert not spools.is_alive(first), "whoever delivers seals it"
    assert [event["name"] for event in read(second)] == [
        "producer.started",
        "llm.call.started",
        "producer.sealed",
    ]
    assert read(second)[0]["data"]["forked_from"] == first.stem


def test_an_event_is_in_the_spool_though_its_folder_was_moved_when_its_file_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads a file that did not get its name."""
    spool = open_spool(tmp_path / "spool")
    first, rename = spool.producer, os.rename

    def moved(source: Path, target: Path) -> None:
        if spool.producer == first:
            rename(spool.folder, tmp_path / "delivered")
        rename(source, target)

    monkeypatch.setattr(os, "rename", moved)
    said = spool.append(EVENT)
    assert [f"{event['producer']}:{event['seq']}" for event in lines(spool)] == [f"{spool.producer}:1", said]


def test_a_forked_child_that_records_nothing_leaves_no_file_and_frees_no_lock(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(EVENT)
    process = multiprocessing.get_context("fork").Process(target=lambda: None)
    process.start()
    process.join()
    [path] = spool.folder.glob("*.log")
    assert spools.is_alive(path)


def test_a_child_forked_beside_writing_threads_does_not_hang(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            spool.append(EVENT)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                spool.append(EVENT)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(list(spool.folder.glob("*.log"))) == 21


def test_a_producer_that_is_sealed_says_its_last_number_and_lets_go(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(EVENT)
    [path] = spool.folder.glob("*.log")
    assert spools.is_alive(path)
    spool.seal()
    spool.seal()
    last = read(path)[-1]
    assert (last["name"], last["data"]["last_seq"], last["seq"]) == ("producer.sealed", 3, 3)
    assert not spools.is_alive(path)


def test_an_event_after_the_seal_starts_a_new_producer(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    begin = spool.append(EVENT)
    sealed = spool.producer
    spool.seal()
    spool.append(CallFinished(ended="abandoned"), begin=begin)
    files = {path.stem: read(path) for path in spool.folder.glob("*.log")}
    assert len(files) == 2
    del files[sealed]
    [(started, end)] = files.values()
    assert (started["data"]["forked_from"], end["begin"]) == (sealed, begin)


def test_an_event_kept_for_later_is_written_at_exit(tmp_path: Path) -> None:
    program = f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        from agent_shim.spool import *; from agent_shim.events import *; from agent_shim.redaction import *
        spool = Spool({str(tmp_path)!r}, "r", role="agent", redact=Redactor())
        begin = spool.append(CallStarted(surface="responses"))
        spool.append_later(CallFinished(ended="abandoned"), begin=begin)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    [path] = tmp_path.glob("r/*.log")
    assert [event["name"] for event in read(path)][-1] == "llm.call.finished"


# --- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Any:
    """A folder on a file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root: " + mounted.stderr.decode().strip())
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_counted_and_said_when_there_is_room_again(full_disk: Path) -> None:
    spool = open_spool(full_disk)
    big = RunStarted(way="run", cwd="x" * 900)
    results = [spool.append(big) for _ in range(400)]
    [path] = spool.folder.glob("*.log")
    refused = results.count("")
    assert refused > 50
    assert numbers(path) == list(range(1, len(numbers(path)) + 1))  # what was cut short was cut back
    assert spools.is_lossy(path)
    subprocess.run(["mount", "-o", "remount,size=1m", full_disk], check=True)
    assert spool.append(EVENT)
    events = read(path)
    assert numbers(path) == list(range(1, len(events) + 1))
    assert events[-1]["name"] == "llm.call.started"
    said = [sum(event["data"]["reasons"].values()) for event in events if event["name"] == EventsLost.event]
    assert sum(said) == refused
    assert not spools.is_lossy(path)
    spool.seal()


def test_a_short_write_is_cut_back(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(EVENT)
    [path] = spool.folder.glob("*.log")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        assert spool.append(EVENT) == ""
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert spool.append(EVENT) == f"{spool.producer}:4"
    assert numbers(path) == [1, 2, 3, 4]
    assert read(path)[2]["data"] == {"reasons": {"short write": 1}}


def test_a_read_only_folder_costs_events_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    spool = open_spool(folder)
    assert spool.append(EVENT) == ""
    assert spool.append(EVENT) == ""
    assert spool.lost == {"EEXIST": 2}
    spool.flush()
    spool.seal()


def test_an_error_of_the_disk_is_counted_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path)
    spool.append(EVENT)

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(spools.os, "write", fails)  # a broken disk cannot be had otherwise
    assert spool.append(EVENT) == ""
    assert spool.append(EVENT) == ""
    monkeypatch.undo()
    spool.append(EVENT)
    [lost] = [event for event in lines(spool) if event["name"] == "events.lost"]
    assert lost["data"]["reasons"] == {"EIO": 2}


# --- death ---------------------------------------------------------------------------------------

WRITER = """
import sys; sys.path.insert(0, {root!r})
from agent_shim.spool import *; from agent_shim.events import *; from agent_shim.redaction import *
spool = Spool({folder!r}, "r", role="agent", redact=Redactor())
while True:
    sys.stdout.write(spool.append(RunStarted(way="run", cwd="x" * 3000)) + "\\n"); sys.stdout.flush()
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    """Thirty processes killed at a random moment: no acknowledged event is missing, a torn tail is told."""
    chance = random.Random(7)
    for _ in range(30):
        program = WRITER.format(root=str(ROOT), folder=str(tmp_path))
        writer = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(chance.random() * 0.03)
        writer.kill()
        acknowledged = [first.strip(), *writer.stdout.read().split("\n")[:-1]]
        writer.wait()
        writer.stdout.close()
        producer = first.split(":")[0]
        path = tmp_path / "r" / f"{producer}.log"
        found = {f"{producer}:{seq}" for seq in numbers(path)}
        assert set(acknowledged) <= found
        assert numbers(path) == list(range(1, len(found) + 1))
        assert not spools.is_alive(path)


def test_a_torn_tail_and_a_corrupt_line_are_told_apart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for _ in range(3):
        spool.append(EVENT)
    [path] = spool.folder.glob("*.log")
    data = bytearray(path.read_bytes())
    second = data.index(b"\n") + 20
    data[second] ^= 1
    path.write_bytes(bytes(data[:-10]))
    found = list(spools.read(path))
    assert [line.body is None for line in found] == [False, True, False]
    assert spools.tail(path, found[-1].offset).torn_bytes > 0


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for _ in range(5):
        spool.append(EVENT)
    [path] = spool.folder.glob("*.log")
    offset, seqs = 0, []
    while found := list(spools.read(path, offset, limit=1)):
        seqs += [json.loads(line.body)["seq"] for line in found if line.body]
        offset = found[-1].offset
    assert seqs == [1, 2, 3, 4, 5, 6]


def test_nothing_of_a_secret_reaches_the_disk(tmp_path: Path) -> None:
    secret = "very-secret-value-0815"
    spool = open_spool(tmp_path, redact=Redactor([secret]))
    spool.append(
        RunStarted(way="run", command=["x", secret], tags={secret: f"a {secret}"}, cwd=f"/{secret}/")
    )
    [path] = spool.folder.glob("*.log")
    assert secret.encode() not in path.read_bytes()
    assert b"[redacted:live]" in path.read_bytes()
