"""Every surface of the openai client is seen, on every generation, in every way it can be called.

``docs/surfaces.md`` is the matrix that these tests find; `python -m tests.test_surfaces` writes it anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent_shim import openai_request
from agent_shim.spool import new_id
from telemetry.testing import Answer, Ledger, Raw, ScriptedServer, Usage
from tests import spools
from tests.generations import GENERATIONS, interpreter
from tests.surface_side import SILENT, SURFACES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "surfaces.md"
FULL = Usage(input=1000, output=50, cached=800, reasoning=30)
MANY = 99


def body(**fields: Any) -> list[Raw]:
    return [Raw(json.dumps(fields).encode())] * MANY


RESPONSE = {
    "id": "resp_fetched0000000001", "object": "response", "model": "gpt-5", "status": "completed",
    "output": [],
    "usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18},
}  # fmt: skip
ANSWERS = {
    "GET /responses/*": body(**RESPONSE),
    "POST /responses/compact": body(
        id="cmp_1", object="response.compaction", model="gpt-5", output=[], usage=RESPONSE["usage"]
    ),
    "POST /responses/input_tokens": body(object="response.input_tokens", input_tokens=12),
    "POST /completions": body(
        id="cmpl-1", object="text_completion", model="gpt-3.5-turbo-instruct", created=1,
        choices=[{"index": 0, "text": "hi", "finish_reason": "stop", "logprobs": None}],
        usage={"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    ),
    "POST /images/generations": body(
        created=1, data=[{"b64_json": "aGVsbG8="}],
        usage={"input_tokens": 11, "output_tokens": 7, "total_tokens": 18},
    ),
    "POST /audio/transcriptions": body(
        text="hello", usage={"type": "tokens", "input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    ),
    "POST /audio/speech": [Raw(b"ID3sound", content_type="audio/mpeg")] * MANY,
    "POST /files": body(
        id="file-1", object="file", bytes=2, created_at=1, filename="a", purpose="batch", status="processed"
    ),
    "GET /files": body(object="list", data=[], has_more=False),
    "POST /batches": [
        *(body(id=f"batch_{number}", object="batch", status="validating")[0] for number in range(MANY))
    ],
}  # fmt: skip

EXPECTED = {
    "audio.speech": "unknown",  # a sound says nothing of its tokens
    "batches": "unknown",  # what a batch uses is known when it is done
    "files": "none",
    "files, listed": "none",
    "models, listed": "none",
    "moderations": "none",
    "responses.input_tokens": "none",
}
"""Where usage is in the body for all others."""


class Played(NamedTuple):
    printed: Any
    ledger: Ledger
    home: Path


def play(generation: str, what: str, home: Path, server: ScriptedServer) -> Played:
    python = interpreter(generation)
    environ = {
        "PATH": os.environ["PATH"],
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_RUN": new_id(),
        "AGENT_TELEMETRY_INCLUDE_USAGE": "127.0.0.1",
    }
    with server:
        agent = [
            str(ROOT / "agent_shim" / "bootstrap.py"),
            str(ROOT / "tests" / "surface_side.py"),
            what,
            server.url,
        ]
        done = subprocess.run([python, *agent], env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return Played(json.loads(done.stdout.splitlines()[-1]), server.ledger, home)


def play_matrix(generation: str, home: Path) -> dict[tuple[str, str], str]:
    """What became of the usage in each cell: surface and way → ``reported``, ``none`` or ``unknown``."""
    server = ScriptedServer(on=ANSWERS, default=Answer("hi", usage=FULL))
    played = play(generation, "matrix", home, server)
    requests = {row["http_request_id"]: row["call_id"] for row in spools.rows(home, "llm_request")}
    calls = {row["call_id"]: row for row in spools.rows(home, "llm_call")}
    found: dict[str, str] = {}
    for received in played.ledger.requests:
        row = calls[requests[received.request_id]]
        assert row["ended"] == "completed", received.headers["x-cell"]
        found[received.headers["x-cell"]] = row["usage_source"]
    cells = {}
    for surface, way, kind, outcome in played.printed:
        path = SURFACES[surface][0]
        cells[surface, f"{kind} {way}"] = (
            found[f"{path}/{kind}/{way}"] if outcome == "called" else "not in this SDK"
        )
    return cells


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[tuple[str, str], str]]:
    return {
        generation: play_matrix(generation, tmp_path_factory.mktemp(f"matrix-{generation}"))
        for generation in GENERATIONS
    }


def test_every_cell_of_the_matrix_is_seen_and_its_usage_accounted_for(
    matrix: dict[str, dict[tuple[str, str], str]],
) -> None:
    for generation, cells in matrix.items():
        for (surface, way), found in cells.items():
            expected = EXPECTED.get(surface, "reported")
            assert found in (expected, "repeated", "not in this SDK"), (generation, surface, way, found)


def test_the_page_shows_what_the_suite_finds(matrix: dict[str, dict[tuple[str, str], str]]) -> None:
    assert PAGE.read_text() == page(matrix)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_method_that_sends_a_request_is_seen(generation: str, tmp_path: Path) -> None:
    """The whole resource tree is walked, sync and async, the helpers that poll and stream too.

    Each method sends something but those with a reason not to, and what the server received is what the
    journal has, one for one. A WebSocket is recorded without being opened.
    """
    done = Raw(json.dumps({"id": "x1", "status": "completed"}).encode())
    everything = {f"{method} *": [done] * 2000 for method in ("GET", "POST", "DELETE", "PUT", "PATCH")}
    played = play(generation, "walk", tmp_path, ScriptedServer(on=everything))
    received = Counter(entry.request_id for entry in played.ledger.requests)
    recorded = Counter(row["http_request_id"] for row in spools.rows(tmp_path, "llm_request"))
    assert received == recorded
    sent = {entry.headers["x-method"] for entry in played.ledger.requests}
    sockets = [name for name in played.printed if name.endswith(".connect")]
    assert {
        name: outcome
        for name, outcome in played.printed.items()
        if name not in sent and name not in sockets and name.partition(".")[2] not in SILENT
    } == {}
    assert not sent & {*sockets, *(f"{kind}.{name}" for kind in ("OpenAI", "AsyncOpenAI") for name in SILENT)}
    opened = [e["data"] for e in spools.events(tmp_path, "llm.call.started")]
    opened = [begun for begun in opened if begun["method"] == "WEBSOCKET"]
    assert Counter(begun["client"] for begun in opened) == Counter(n.partition(".")[0] for n in sockets)
    assert sockets
    assert [row for row in spools.rows(tmp_path, "llm_call") if "x1" in row["surface"]] == []
    assert spools.events(tmp_path, "capture.failed") == []
    begins = {f"{e['producer']}:{e['seq']}" for e in spools.events(tmp_path, "llm.call.started")}
    ends = Counter(event["begin"] for event in spools.events(tmp_path, "llm.call.finished"))
    assert set(ends) == begins
    assert set(ends.values()) == {1}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/responses/resp_{'68a1b2c3' * 6}/cancel", "responses.cancel"),
        (f"/responses/resp_{'abcdefab' * 6}1/cancel", "responses.cancel"),
        ("/files/file-AbCdEfGhIjKlMnOpQrStUvWx/content", "files.content"),
        ("/models/gpt-5", "models"),
        ("/openai/deployments/my-gpt/chat/completions", "chat.completions"),
        ("/rerank-v2", "rerank-v2"),
    ],
)
def test_no_id_of_the_service_is_part_of_a_surface(path: str, expected: str) -> None:
    assert openai_request.surface(path) == expected


# --- the page --------------------------------------------------------------------------------------

WORDS = {
    "reported": "usage",
    "repeated": "usage",
    "none": "no tokens",
    "unknown": "no usage",
    "not in this SDK": "–",
}


def page(found: dict[str, dict[tuple[str, str], str]]) -> str:
    """The matrix as a page: surface × generation, a cell per way of calling where they differ."""
    lines = [
        "# Surfaces of the openai client",
        "",
        "Found by `tests/test_surfaces.py` against a scripted server; do not edit. Each surface was called",
        "sync and async, and in each as plain call, through `with_raw_response` and through",
        "`with_streaming_response`; every one of them was seen with its requests. A cell says what became of",
        "the usage, with how many of the six ways:",
        "",
        "* *usage*: read from the response, exactly once per response id;",
        "* *no tokens*: the call can use none (it reads, or the surface is not billed by tokens);",
        "* *no usage*: the response says nothing of it, so that it is *unknown*, never 0;",
        "* –: the surface is not in that generation of the SDK.",
        "",
        "| surface | " + " | ".join(f"openai {generation}" for generation in found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for surface in dict.fromkeys(surface for cells in found.values() for surface, _ in cells):
        row = []
        for cells in found.values():
            words = Counter(WORDS[said] for (name, _), said in cells.items() if name == surface)
            row.append(
                ", ".join(
                    f"{word} ({count})" if word != "–" else word for word, count in sorted(words.items())
                )
            )
        lines.append(f"| {surface} | " + " | ".join(row) + " |")
    lines += [
        "",
        "All other methods of the resource tree are walked too: each request that one of them sends is",
        "recorded as a call with its requests, without decoding. `connect` of the WebSocket surfaces is",
        "recorded as a call whose usage is unknown, because what passes over it is not decoded.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {generation: play_matrix(generation, Path(folder, generation)) for generation in GENERATIONS}
    PAGE.write_text(page(found))


if __name__ == "__main__":
    sys.exit(main())
