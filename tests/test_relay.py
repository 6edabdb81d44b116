"""Output is passed on byte for byte, its end is kept without secrets, and memory stays bounded."""

from __future__ import annotations

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from agent_shim.redaction import Redactor
from telemetry.relay import TAIL_BYTES, Relay, Tail
from tests.wrapped import eventually

CHUNKS = st.lists(st.binary(max_size=3000), max_size=40)


def tail_of(*chunks: bytes) -> Tail:
    tail = Tail()
    for chunk in chunks:
        tail.add(chunk)
    return tail


@given(CHUNKS)
def test_a_tail_is_the_end_of_what_was_written(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    tail = tail_of(*chunks)
    text = tail.text(str)
    assert tail.total_bytes == len(whole)
    assert len(text.encode()) <= TAIL_BYTES
    assert whole.decode("utf-8", "replace").endswith(text) or "\ufffd" in text
    if len(whole.decode("utf-8", "replace").encode()) <= TAIL_BYTES:
        assert text == whole.decode("utf-8", "replace")


@given(st.text(min_size=1, max_size=4), st.integers(0, 3))
def test_a_tail_begins_with_a_whole_character(pattern: str, shift: int) -> None:
    text = "x" * shift + pattern * 20_000
    assert text.endswith(tail_of(text.encode("utf-8", "replace")).text(str)) or max(pattern) >= "\ud800"


def test_no_half_of_a_secret_is_left_at_the_cut() -> None:
    """It stands across the place where the tail is cut."""
    secret = "canary-0123456789abcdef"
    for cut in range(len(secret)):
        end = "y" * (TAIL_BYTES - cut)
        text = tail_of(b"x" * 50_000, f"{secret}{end}".encode()).text(Redactor([secret]))
        assert not any(secret[at : at + 8] in text for at in range(len(secret) - 8))


def test_memory_is_bounded() -> None:
    tail = Tail()
    for _ in range(1000):
        tail.add(b"x" * 65_536)
    assert len(tail._kept) <= 4 * TAIL_BYTES


def test_bytes_arrive_unchanged_and_at_once() -> None:
    source, into = os.pipe()
    seen, target = os.pipe()
    relay = Relay(source, target)
    relay.start()
    os.write(into, b"\0\xff\n first")
    assert os.read(seen, 100) == b"\0\xff\n first"
    os.write(into, b"second")
    assert os.read(seen, 100) == b"second"
    os.close(into)
    relay.join(10)
    assert relay.tail.total_bytes == 15
    os.close(seen)
    os.close(target)


def test_a_target_that_is_not_blocking_gets_everything() -> None:
    source, into = os.pipe()
    seen, target = os.pipe()
    os.set_blocking(target, False)
    relay = Relay(source, target)
    relay.start()
    sent = os.urandom(300_000)

    def write() -> None:
        os.write(into, sent)
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: relay.tail.total_bytes > 100_000)
    received = b""
    while len(received) < len(sent):
        received += os.read(seen, 65_536)
    writer.join(10)
    relay.join(10)
    assert received == sent
    os.close(seen)
    os.close(target)
