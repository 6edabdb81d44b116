"""Rules of many folders as one list."""

from __future__ import annotations

import pytest

from telemetry.ignores import anchored, combined, ignores_itself


@pytest.mark.parametrize(
    ("line", "folder", "expected"),
    [
        (b"*.o", b"", b"*.o"),
        (b"*.o", b"a/b", b"/a/b/**/*.o"),
        (b"!*.o", b"a", b"!/a/**/*.o"),
        (b"/o", b"a", b"/a/o"),
        (b"o/", b"a", b"/a/**/o/"),
        (b"o/p/", b"a", b"/a/o/p/"),
        (b"\\#o", b"a", b"/a/**/\\#o"),
        (b"o", b"a*[b]?", b"/a\\*\\[b\\]\\?/**/o"),
    ],
)
def test_a_pattern_is_anchored_to_the_top(line: bytes, folder: bytes, expected: bytes) -> None:
    assert anchored(line, folder) == expected


def test_deeper_rules_come_later() -> None:
    rules = {b"a/b": b"deep", b"": b"top", b"c": b"mid"}
    assert combined(b"shared\n# comment\n", rules) == b"shared\ntop\n/c/**/mid\n/a/b/**/deep\n"


def test_a_folder_that_no_line_can_name_has_no_rules() -> None:
    assert combined(b"", {b"a\nb": b"*"}) == b"\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"*\n", True),
        (b"# Created by pytest\r\n*\r\n", True),
        (b"\xef\xbb\xbf*", True),
        (b"*\n!a", False),
        (b"", False),
    ],
)
def test_a_cache_leaves_itself_out(content: bytes, expected: bool) -> None:
    assert ignores_itself(content) is expected
