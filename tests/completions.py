"""A server with `/v1/completions` and `/v1/chat/completions` that fails as servers do."""

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile

from blsp import endpoint


class Completions(ThreadingHTTPServer):
    """Answers a prompt of token ids with their sum, after it has failed at it in some ways.

    A chat with a recording is answered by ``hear``, given the prompt's words and the samples, one
    in writing by ``judge``, given what the user says.

    Args:
        failures: a sequence of what each prompt gets first: a status, or `torn`, `garbled`,
            `strange` (no completion), `silent` (no answer for as long as the server runs).
        seconds: that an answer takes.
    """

    daemon_threads = True
    request_queue_size = 64  # more than ever ask at once: one too many would wait for a second

    def __init__(
        self,
        failures: Any = (),
        seconds: float = 0.0,
        hear: Callable[[str, np.ndarray], str] | None = None,
        judge: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures, self.seconds, self.hear, self.judge = failures, seconds, hear, judge
        self.lock = threading.Lock()
        self.tries: Counter[tuple[int, ...]] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.now, self.most = 0, 0
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        """As `--engine` takes it."""
        return f"openai:http://127.0.0.1:{self.server_port}/v1#tiny"


class _Handler(BaseHTTPRequestHandler):
    server: Completions  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, chat = self.server, json.dumps(body.get("messages"))
        prompt = tuple(body.get("prompt", chat.encode()))
        with server.lock:
            attempt, server.tries[prompt] = server.tries[prompt], server.tries[prompt] + 1
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            time.sleep(server.seconds)
            if self.path not in ("/v1/completions", "/v1/chat/completions"):
                self._send(404, b"no such page")
            elif attempt < len(server.failures):
                self._fail(server.failures[attempt])
            elif self.path.endswith("chat/completions"):
                self._send(200, reply(self._chat(body)))
            else:
                self._send(200, complete(f"the sum is {sum(prompt)}"))
        finally:
            with server.lock:
                server.now -= 1

    def _chat(self, body: dict[str, Any]) -> str:
        *_, message = body["messages"]
        if self.server.judge is not None:
            return self.server.judge(message["content"])
        texts = [part["text"] for part in message["content"] if part["type"] == "text"]
        (sound,) = [p["input_audio"] for p in message["content"] if p["type"] == "input_audio"]
        assert sound["format"] == "wav" and self.server.hear is not None
        samples, _ = soundfile.read(io.BytesIO(base64.b64decode(sound["data"])), dtype="float32")
        return self.server.hear("".join(texts).strip(), samples)

    def _fail(self, how: Any) -> None:
        if how == "silent":
            self.server.closing.wait()
            self.close_connection = True
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


def reply(text: str | None, reason: str = "stop") -> bytes:
    """The body of an answer to a chat."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


@contextmanager
def serve(**options: Any) -> Iterator[Completions]:
    """Run a server within the block, where nobody waits long before it asks again."""
    short = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.01)))
    server = Completions(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with patch.object(endpoint, "time", short):
            yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
