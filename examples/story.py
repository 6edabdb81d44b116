"""What happens in the demo: a repository's commits, and for each what the model answers.

The answers are scripted; everything else is real: the agent, its requests, its retries, its files, its death.
"""

from __future__ import annotations

import shlex
import sys
from typing import NamedTuple

from telemetry.testing import Answer, Delivery, ToolCall, Turn, Usage, calls, rate_limited

CHECK = f"{shlex.quote(sys.executable)} check.py"


class Chapter(NamedTuple):
    """One commit, and the attempts of the agent to make it faster."""

    subject: str
    """First line of the commit message."""
    module: str
    slow: str
    """The module as the commit adds it."""
    check: str
    """Line that ``check.py`` gains with it."""
    model: str
    attempts: tuple[tuple[Turn, ...], ...]
    """For each run of the agent, the answers to its requests."""


def look(module: str, cached: int = 0) -> Answer:
    """The model reads the module."""
    return calls(ToolCall("read_file", {"path": module}), usage=Usage(1_840, 96, cached))


def write(module: str, text: str, reasoning: int = 0) -> Answer:
    """The model writes the module anew, after some thought that is billed as output too."""
    usage = Usage(input=2_310, output=344 + reasoning, cached=1_792, reasoning=reasoning)
    return calls(ToolCall("write_file", {"path": module, "text": text}), usage=usage)


def run(command: str = CHECK) -> Answer:
    """The model runs a command."""
    return calls(ToolCall("run", {"command": command}), usage=Usage(input=3_720, output=58, cached=2_304))


def done(text: str) -> Answer:
    """The model's last word."""
    return Answer(text, usage=Usage(input=3_910, output=74, cached=3_584))


COUNT = "def count(words):\n    return {word: words.count(word) for word in words}\n"
COUNT_FAST = "from collections import Counter\n\n\ndef count(words):\n    return Counter(words)\n"
TWINS = "def twins(words):\n    return [a for i, a in enumerate(words) if a in words[:i]]\n"
TWINS_FAST = (
    "def twins(words):\n    seen = set()\n    return [a for a in words if a in seen or seen.add(a)]\n"
)
ORDER = (
    "def order(words):\n    out = []\n    for word in words:\n"
    "        at = sum(other <= word for other in out)\n        out.insert(at, word)\n    return out\n"
)
ORDER_WRONG = "def order(words):\n    return words.sort()\n"
ORDER_FAST = "def order(words):\n    return sorted(words)\n"
JOIN = (
    "def join(words):\n    text = ''\n    for word in words:\n        text = text + word\n    return text\n"
)
JOIN_FAST = "def join(words):\n    return ''.join(words)\n"
FIND = "def find(words, word):\n    return [i for i, other in enumerate(words) if other == word][0]\n"
FIND_FAST = "def find(words, word):\n    return words.index(word)\n"

BROKEN = Answer(
    "I will keep a set of the words seen so far",
    usage=Usage(input=2_260, output=310, reasoning=256),
    delivery=Delivery(fault="reset", after=8),
)

STORY = (
    Chapter(
        "Count words", "count.py", COUNT, "assert count(list('aab')) == {'a': 2, 'b': 1}", "gpt-5",
        ((rate_limited(retry_after_ms=200), look("count.py"), write("count.py", COUNT_FAST, 896), run(),
          done("count() uses a Counter now: one pass in place of one per word.")),),
    ),
    Chapter(
        "Find words that repeat", "twins.py", TWINS, "assert twins(list('abab')) == ['a', 'b']", "gpt-5-mini",
        ((look("twins.py"), BROKEN, write("twins.py", TWINS_FAST, 512), run(),
          done("twins() remembers what it saw in a set.")),),
    ),
    Chapter(
        "Put words in order", "order.py", ORDER, "assert order(list('bca')) == ['a', 'b', 'c']", "gpt-4o",
        ((look("order.py"), write("order.py", ORDER_WRONG), run(), write("order.py", ORDER_FAST), run(),
          done("order() sorts. My first try returned None, which check.py caught.")),),
    ),
    Chapter(
        "Join words", "join.py", JOIN, "assert join(list('abc')) == 'abc'", "lab-model-7b",
        ((look("join.py"), write("join.py", JOIN_FAST), run(), done("join() joins once.")),),
    ),
    Chapter(
        "Find a word", "find.py", FIND, "assert find(list('abc'), 'c') == 2", "gpt-5",
        ((look("find.py"), write("find.py", FIND_FAST, 1_088), run(f"{CHECK}; kill -9 $PPID")),
         (look("find.py", 1_664), write("find.py", FIND_FAST, 640), run(), done("find() asks the list."))),
    ),
)  # fmt: skip
"""A 429 that the client retries, a stream that breaks, a tool that fails, a model without a price, and an
attempt that ends when the model's own command kills the agent."""
