"""Any end is told in full: an outcome, and for a failure a type and a message."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.endings import Ending, tell

ENDINGS = st.builds(
    Ending,
    status=st.one_of(
        st.none(), st.integers(0, 255).map(lambda code: code << 8), st.integers(1, 64), st.just(139)
    ),
    usage=st.none(),
    timed_out=st.booleans(),
    cancelled_by=st.sampled_from([None, 1, 2, 15]),
    grace_expired=st.sampled_from([None, False, True]),
    oom_kills=st.sampled_from([None, 0, 2]),
)


@given(ENDINGS, st.sampled_from([None, "", "\n \n", "some text\n"]))
def test_whatever_is_not_exit_code_0_has_a_type_and_a_message(ending: Ending, tail: str | None) -> None:
    told = tell(ending, 1.5, tail)
    if (told.outcome, told.exit_code) == ("exited", 0):
        assert (told.error_type, told.error_message, told.returns) == (None, None, 0)
    else:
        assert told.error_type
        assert told.error_message


@given(ENDINGS)
def test_the_wrapper_returns_a_code_that_a_process_can_have(ending: Ending) -> None:
    assert 0 <= tell(ending, 1.5, None).returns <= 255


def test_every_exit_code_is_passed_on() -> None:
    for code in range(256):
        told = tell(Ending(code << 8), None, "")
        assert (told.outcome, told.exit_code, told.returns) == ("exited", code, code)


@pytest.mark.parametrize("number", [*signal.Signals, 40])
def test_a_signal_is_128_and_its_number(number: int) -> None:
    told = tell(Ending(int(number)), None, "")
    assert (told.outcome, told.signal, told.returns) == ("signaled", number, 128 + number)
    assert (told.error_type or "").startswith("Signal:")


def test_a_core_dump_is_a_fact() -> None:
    assert tell(Ending(signal.SIGSEGV | 128), None, "").core_dumped is True
    assert tell(Ending(signal.SIGSEGV), None, "").core_dumped is False
    assert tell(Ending(1 << 8), None, "").core_dumped is None


def test_a_kill_is_for_want_of_memory_only_when_the_system_counted_one() -> None:
    assert tell(Ending(signal.SIGKILL, oom_kills=1), None, "").outcome == "oom_killed"
    assert tell(Ending(signal.SIGKILL, oom_kills=0), None, "").outcome == "signaled"
    assert tell(Ending(signal.SIGKILL, oom_kills=None), None, "").outcome == "signaled"
    assert tell(Ending(signal.SIGTERM, oom_kills=1), None, "").outcome == "signaled"


def test_a_time_limit_is_124_whatever_the_agent_made_of_it() -> None:
    told = tell(Ending(0, timed_out=True, grace_expired=False), 90, "")
    assert (told.outcome, told.exit_code, told.returns) == ("timeout", 0, 124)
    assert told.error_message == "not done after 90 s; exit code 0"
    told = tell(Ending(signal.SIGKILL, timed_out=True, grace_expired=True), 90, "")
    assert told.error_message == "not done after 90 s; ended by SIGKILL after it did not obey SIGTERM"


def test_a_cancelled_agent_that_was_killed_ends_us_by_the_signal_that_came() -> None:
    told = tell(Ending(signal.SIGKILL, cancelled_by=signal.SIGINT, grace_expired=True), None, "")
    assert (told.outcome, told.signal, told.returns) == ("cancelled", signal.SIGKILL, 128 + signal.SIGINT)
    assert (told.error_message or "").startswith("SIGINT from outside")


def test_a_process_that_cannot_be_ended_has_no_code() -> None:
    told = tell(Ending(None, timed_out=True, grace_expired=True), 5, "")
    assert (told.exit_code, told.signal, told.returns) == (None, None, 124)
    assert "could not be ended" in (told.error_message or "")


def test_the_message_is_the_last_line_without_colours_and_bounded() -> None:
    tail = "Traceback\n\x1b[31mValueError: \x1b[1mboom\x1b[0m\n\n   \n"
    assert tell(Ending(1 << 8), None, tail).error_message == "ValueError: boom"
    assert len(tell(Ending(1 << 8), None, "x" * 9000).error_message or "") == 500


def test_a_code_as_a_shell_gives_it_carries_a_hint() -> None:
    told = tell(Ending(137 << 8), None, "Killed\n").error_message
    assert told == "Killed (so a shell says that SIGKILL ended a program)"
    assert "SIGKILL" in (tell(Ending(137 << 8), None, "").error_message or "")
