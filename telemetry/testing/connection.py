"""One connection of the scripted server: HTTP/1.1 as `http.server` reads it, faults by the socket itself."""

from __future__ import annotations

import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, Protocol

from telemetry.testing.replies import Delivery, Reply
from telemetry.testing.shapes import Ask

PROCESSING_MS = 7
"""What every answer claims in ``openai-processing-ms``."""


class Rendered(NamedTuple):
    """A reply ready for the wire."""

    reply: Reply
    status: int
    content_type: str
    pieces: list[bytes]
    streamed: bool
    """Whether the length is not known in front, so that the body goes out in chunks."""
    ask: Ask | None = None


class Script(Protocol):
    """Who knows the replies."""

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes
    ) -> tuple[Rendered, str]:
        """The reply to one request, and its request id."""

    def wait_out_a_stall(self) -> bool:
        """Wait until stalled replies may go on; whether this one may."""


class Connection(BaseHTTPRequestHandler):
    """Reads requests until the client hangs up or a fault ends the connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def handle(self) -> None:
        """Until either side ends it; the ledger has every request that arrived whole."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the client was killed, or had enough

    def do_POST(self) -> None:
        self._exchange()

    def do_GET(self) -> None:
        self._exchange()

    def do_DELETE(self) -> None:
        self._exchange()

    def log_message(self, *_: Any) -> None:
        """Nothing is printed: the ledger is the log."""

    def _exchange(self) -> None:
        scripted: Script = self.server.scripted
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        rendered, request_id = scripted.exchange(self.command, self.path, dict(self.headers), content)
        self._deliver(rendered, request_id, scripted)

    def _deliver(self, rendered: Rendered, request_id: str, scripted: Script) -> None:
        delivery = rendered.reply.delivery
        pieces = _pieces(rendered.pieces, delivery)
        chunked = rendered.streamed or delivery.gzip
        if delivery.fault and delivery.after is None and not self._fault(delivery, scripted):
            return
        self._head(rendered, request_id, None if chunked else sum(map(len, pieces)))
        stop = len(pieces) if delivery.after is None else min(delivery.after, len(pieces))
        self._send(pieces[:stop], delivery, chunked)
        if delivery.fault and delivery.after is not None and not self._fault(delivery, scripted):
            return
        self._send(pieces[stop:], delivery, chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, pieces: list[bytes], delivery: Delivery, chunked: bool) -> None:
        for piece in pieces:
            time.sleep(delivery.delay_s)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def _head(self, rendered: Rendered, request_id: str, length: int | None) -> None:
        delivery = rendered.reply.delivery
        headers = {
            "content-type": delivery.content_type or rendered.content_type,
            "x-request-id": request_id,
            "openai-processing-ms": str(PROCESSING_MS),
            "openai-version": "2020-10-01",
        }
        if length is None:
            headers["transfer-encoding"] = "chunked"
        else:
            headers["content-length"] = str(length)
        if delivery.gzip:
            headers["content-encoding"] = "gzip"
        self.send_response(rendered.status)
        for name, value in (headers | dict(delivery.headers)).items():
            self.send_header(name, value)
        self.end_headers()

    def _fault(self, delivery: Delivery, scripted: Script) -> bool:
        """Commit the fault; whether the reply goes on after it."""
        if delivery.fault == "stall" and scripted.wait_out_a_stall():
            return True
        self.close_connection = True
        if delivery.fault == "reset":
            self._reset()
        return False

    def _reset(self) -> None:
        """Close with nothing lingering: the kernel sends RST in place of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


def _pieces(pieces: list[bytes], delivery: Delivery) -> list[bytes]:
    if delivery.truncate is not None or delivery.split is not None:
        whole = b"".join(pieces)[: delivery.truncate]
        step = delivery.split or max(len(whole), 1)
        pieces = [whole[start : start + step] for start in range(0, len(whole), step)]
    return list(_compressed(pieces)) if delivery.gzip else pieces


def _compressed(pieces: list[bytes]) -> Iterator[bytes]:
    """Each piece can be decompressed as soon as it arrives."""
    packer = zlib.compressobj(wbits=31)
    for piece in pieces[:-1]:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.compress(b"".join(pieces[-1:])) + packer.flush()
