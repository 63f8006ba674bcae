"""A server of a linear classifier on the loopback, which can drop requests, be started anew, and lie."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

SHAPE, CLASSES = (1, 4, 4), 3
KEY = "Idempotency-Key"
WEIGHTS = np.random.default_rng(0).normal(size=(16, CLASSES)).astype(np.float32)


def linear(x: np.ndarray) -> np.ndarray:
    """The logits of pixels; no row depends on the others."""
    return (x.reshape(len(x), -1, 1) * WEIGHTS).sum(1)


def as_bytes(array: np.ndarray) -> bytes:
    stored = io.BytesIO()
    np.save(stored, array)
    return stored.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True  # it would wait 40 ms between the header and the body of each answer
    server: Served

    def setup(self) -> None:
        super().setup()
        self.server.open.append(self.connection)

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers["Content-Length"]))
        owner.requests += 1
        fault = owner.fault(owner.requests)
        if fault == "before":
            return self.drop()
        key = self.headers.get(KEY, "")
        with owner.lock:
            if key not in owner.answers:
                x = np.load(io.BytesIO(body))
                owner.answers[key] = owner.answer(x)
                owner.rows += len(x)
        if fault == "after":
            return self.drop()
        if fault == "restart":
            threading.Thread(target=owner.restart).start()
            return self.drop()
        if fault == "silent":
            owner.released.wait()
            return self.drop()
        status, content = owner.answers[key]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/octet-stream")
        if owner.echo is not None:
            self.send_header(KEY, owner.echo(key))
        self.end_headers()
        self.wfile.write(content)
        return None

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Served(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: FaultyServer, port: int) -> None:
        self.owner = owner
        self.open: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing about a connection that broke."""


class FaultyServer:
    """Counts each request once by its key, as long as it lives; `fault` names a fault for the number of a request."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.rows = self.requests = self.starts = 0
        self.fault: Callable[[int], str | None] = lambda number: None
        self.answer: Callable[[np.ndarray], tuple[int, bytes]] = lambda x: (200, as_bytes(linear(x)))
        self.echo: Callable[[str], str] | None = lambda key: key
        self.lock, self.released = threading.Lock(), threading.Event()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/predict"

    def start(self) -> None:
        self.served = Served(self, self.port)
        self.port = self.served.server_address[1]
        self.starts += 1
        self.thread = threading.Thread(target=self.served.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.released.set()
        self.served.shutdown()
        self.served.server_close()
        self.thread.join()
        for connection in self.served.open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed
                continue

    def restart(self) -> None:
        self.stop()
        self.start()
