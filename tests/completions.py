"""A server with `/v1/completions` that fails as servers do, on a port of this machine."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Completions(ThreadingHTTPServer):
    """Answers a prompt of token ids with their sum, after it has failed at it in some ways.

    Args:
        failures: a sequence of what each prompt gets first: a status, or `torn`, `garbled`,
            `strange` (no completion), `silent` (no answer in time).
        seconds: that an answer takes.
    """

    daemon_threads = True

    def __init__(self, failures: Any = (), seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures, self.seconds = failures, seconds
        self.lock = threading.Lock()
        self.tries: Counter[tuple[int, ...]] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.now, self.most = 0, 0

    @property
    def address(self) -> str:
        """As `--engine` takes it."""
        return f"openai:http://127.0.0.1:{self.server_port}/v1#tiny"


class _Handler(BaseHTTPRequestHandler):
    server: Completions  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, prompt = self.server, tuple(body["prompt"])
        with server.lock:
            attempt, server.tries[prompt] = server.tries[prompt], server.tries[prompt] + 1
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            time.sleep(server.seconds)
            if self.path != "/v1/completions":
                self._send(404, b"no such page")
            elif attempt < len(server.failures):
                self._fail(server.failures[attempt])
            else:
                self._send(200, complete(f"the sum is {sum(prompt)}"))
        finally:
            with server.lock:
                server.now -= 1

    def _fail(self, how: Any) -> None:
        if how == "silent":
            time.sleep(1.0)
            self._send(200, complete("too late"))
        elif how == "torn":
            self._send(200, complete("half"), cut=20)
        elif how == "garbled":
            self._send(200, b"<html>proxy error</html>")
        elif how == "strange":
            self._send(200, b'{"choices": []}')
        else:
            self._send(how, b"not now")

    def _send(self, status: int, body: bytes, cut: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Nothing on the screen."""


def complete(text: str, reason: str = "stop") -> bytes:
    """The body of an answer."""
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


@contextmanager
def serve(**options: Any) -> Iterator[Completions]:
    """Run a server within the block."""
    server = Completions(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
