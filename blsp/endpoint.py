"""A server with OpenAI's interface: requests that are tried again, a key from the environment only.

Whoever asks such a server (vLLM, SGLang, llama.cpp, a provider) asks it here: many requests at once
from threads, each tried again while the server is busy, down or garbled, and nobody else's host is
asked. What is sent is said before. An address and questions as JSON enter; `Answer`s leave.
"""

import os
import random
import sys
import time
from typing import Any, Literal, NamedTuple

import httpx2

from blsp.errors import InputError
from blsp.generation import Answer

KEY = "OPENAI_API_KEY"
TRIES = 7
"""Of a request, the first counted: with waits that double from a second, about a minute."""
TIMEOUT_SECONDS = 600.0
_TIRED = (408, 409, 425, 429)
"""Answers of a server that say "later", beside all from 500 on."""


class Address(NamedTuple):
    """`URL#MODEL`: what is asked, and what it calls the model."""

    url: str
    model: str

    @property
    def host(self) -> str:
        """Name and port."""
        return httpx2.URL(self.url).netloc.decode()


def read_address(text: str, option: str) -> Address:
    """Read `openai:URL#MODEL`.

    Args:
        text: what was written.
        option: where, for the message.

    Raises:
        InputError: it is of another form, or the URL holds what may be secret: the address is
            written into results.
    """
    url, _, model = text.removeprefix("openai:").partition("#")
    wanted = f"{option}: expected openai:URL#MODEL, such as openai:http://localhost:8000/v1#qwen"
    if not text.startswith("openai:") or not url.startswith(("http://", "https://")) or not model:
        raise InputError(f"{wanted}, found {text}")
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InputError(f"{wanted}, found {text} ({error}); correct it") from error
    if parts.userinfo or parts.query or not parts.host:
        raise InputError(
            f"{wanted}, found one without a host, or with a user, password or query; give a key as "
            f"{KEY} in the environment"
        )
    return Address(url, model)


def announce(count: int, what: str, host: str) -> None:
    """Say on stderr what is about to be sent where: nothing leaves without it."""
    if count:
        print(f"sending {count:,} {what} to {host}", file=sys.stderr, flush=True)


class Endpoint:
    """One path of a server, such as `completions` or `chat/completions`."""

    def __init__(self, address: Address, path: str, at_once: int) -> None:
        """Nothing is sent yet.

        Args:
            address: the server and its model.
            path: below the URL.
            at_once: connections at most.
        """
        self._url, self._model = f"{address.url.rstrip('/')}/{path}", address.model
        key = os.environ.get(KEY)
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=30.0),
            limits=httpx2.Limits(max_connections=at_once),
        )

    def ask(self, question: dict[str, Any]) -> Answer:
        """Ask until there is an answer; threads may do so at the same time.

        Raises:
            InputError: none after the last try, or a refusal that no other try would change.
        """
        for attempt in range(TRIES):
            try:
                return self._read(self._post({"model": self._model, **question}))
            except _LaterError as error:
                if attempt + 1 == TRIES:
                    raise InputError(
                        f"{self._url}: expected an answer, found {error} at the last of {TRIES} "
                        "tries; what was answered is kept, so call again when the server is well"
                    ) from error
                # Not all at the same moment.
                time.sleep(error.seconds or 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("the last try returns or raises")

    def _post(self, question: dict[str, Any]) -> httpx2.Response:
        """Send a question; what is neither an answer nor worth another try is an `InputError`."""
        try:
            response = self._client.post(self._url, json=question)
        except httpx2.TransportError as error:
            raise _LaterError(str(error) or type(error).__name__) from error
        status = response.status_code
        if status in _TIRED or status >= 500:
            raise _LaterError(f"status {status}", _read_seconds(response.headers))
        if status != 200:
            advice = f"set {KEY} to its key" if status in (401, 403) else "check URL and MODEL"
            raise InputError(
                f"{self._url}: expected an answer, found status {status} "
                f"({' '.join(response.text.split())[:160]}); {advice}"
            )
        return response

    def _read(self, response: httpx2.Response) -> Answer:
        try:
            body = response.json()
            (choice,) = body["choices"]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            reason = choice["finish_reason"]
        except (ValueError, KeyError, TypeError) as error:
            raise _LaterError(f"no completion: {response.text[:60]!r}") from error
        tokens = (body.get("usage") or {}).get("completion_tokens") or 0
        if reason == "content_filter":  # as empty as a refusal
            return Answer("", "stop", tokens)
        return _build_answer(text, reason, tokens)


def _build_answer(text: Any, reason: str | None, tokens: int) -> Answer:
    ended: tuple[Literal["stop", "length"], ...] = ("stop", "length")
    if not isinstance(text, str) or reason not in ended:
        raise _LaterError(f"a completion that ended by {reason!r} with {text!r:.60}")
    whole = text.strip()
    return Answer(whole.rstrip("\ufffd") if reason == "length" else whole, reason, tokens)


def _read_seconds(headers: httpx2.Headers) -> float:
    """How long the server asks to wait; 0 where it does not say, or names a date."""
    said = headers.get("retry-after", "")
    return min(float(said), 60.0) if said.replace(".", "", 1).isdigit() else 0.0


class _LaterError(Exception):
    """The server gave no answer now, and may give one later."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds
