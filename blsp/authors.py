"""Who writes continuations: a language model in this process, or a server that serves it.

Either way prompts are rendered here and go as token ids, so that a server's own template never
matters. A server is anything with OpenAI's `/v1/completions` (vLLM, SGLang, llama.cpp): many
requests at once, each tried again while the server is busy, down or garbled. The key comes from the
environment alone, and no other host is asked. Token ids and their names enter, `Answer`s leave.
"""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import httpx2
import torch

from blsp.arguments import choose_device
from blsp.checkpoint import fingerprint_folder
from blsp.drawing import derive_seed
from blsp.errors import InputError
from blsp.generation import Answer, GenerationConfig, answer_texts
from blsp.model.foundations import Base, find_cached, load_llm, quantization_options
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer

KEY = "OPENAI_API_KEY"
TRIES = 7
"""Of a request, the first counted: with waits that double from a second, about a minute."""
TIMEOUT_SECONDS = 600.0
_TIRED = (408, 409, 425, 429)
"""Answers of a server that say "later", beside all from 500 on."""


class Write(Protocol):
    """Answers prompts, which have names, in their order."""

    def __call__(
        self, prompts: Sequence[list[int]], names: Sequence[str], config: GenerationConfig
    ) -> list[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class Author:
    """The language model that writes, and how it is addressed."""

    base: Base
    renderer: Renderer
    write: Write
    engine: str
    """Where it runs, as far as that may change an answer."""
    host: str | None = None
    """Where texts are sent to; None: nowhere."""
    at_once: int = 1
    """Calls of `write` at the same time; more than one: with one prompt each."""


def load_author(
    llm: str,
    revision: str | None,
    variables: dict[str, Any],
    *,
    bits: int = 16,
) -> Author:
    """Load a language model, its tokenizer and template, on this process's device.

    Args:
        llm: folder or hub id.
        revision: of a hub id.
        variables: of the template.
        bits: 16, or 8 or 4 for a language model that is quantised while it is loaded.
    """
    device, options = choose_device()
    if bits < 16:
        dtype = torch.bfloat16 if options.dtype == "auto" else options.dtype
        quantization = quantization_options(bits, dtype)  # type: ignore[arg-type]
        options = replace(options, quantization_config=quantization, device_map={"": device})
    model, base = load_llm(llm, revision=revision, options=options)
    if bits == 16:  # the library refuses to move what it has quantised in place
        model.to(device)  # type: ignore[arg-type]
    tokenizer, model = load_tokenizer(llm, revision), model.eval()

    def write(
        prompts: Sequence[list[int]], names: Sequence[str], config: GenerationConfig
    ) -> list[Answer]:
        return answer_texts(model, tokenizer, prompts, config, names=names)

    renderer = Renderer(tokenizer, variables)
    return Author(base=base, renderer=renderer, write=write, engine=f"hf, {bits} bits")


# --- a server -------------------------------------------------------------------------------------


def ask_server(
    address: str,
    llm: str,
    revision: str | None,
    variables: dict[str, Any],
    *,
    at_once: int,
) -> Author:
    """An author that a server runs; of the language model only tokenizer and template are loaded.

    Args:
        address: `URL#MODEL`, where URL has `/completions` below it and MODEL is what the server
            calls the language model.
        llm: folder or hub id of the same language model.
        revision: of a hub id.
        variables: of the template.
        at_once: requests under way.

    Raises:
        InputError: no such address.
    """
    url, _, model = address.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise InputError(
            f"--engine: expected openai:URL#MODEL, such as openai:http://localhost:8000/v1#qwen, "
            f"found openai:{address}"
        )
    renderer = Renderer(load_tokenizer(llm, revision), variables)
    end = renderer.tokenizer.decode(renderer.end_of_turn_ids()).strip()
    server = _Server(url, model, [end] if end else [], at_once)
    return Author(
        base=find_base(llm, revision),
        renderer=renderer,
        write=server.write,
        engine=f"openai, {model}",
        host=server.host,
        at_once=at_once,
    )


def find_base(llm: str, revision: str | None) -> Base:
    """What weights these are, if they lie on this machine; else the fingerprint is empty."""
    folder = Path(llm) if Path(llm).is_dir() else find_cached(llm, revision)
    fingerprint = ""
    if folder is not None and any(folder.glob("*.safetensors")):
        fingerprint = fingerprint_folder(folder)
    return Base(source=llm, revision=revision, fingerprint=fingerprint)


class _Server:
    """Requests to `URL/completions`."""

    def __init__(self, url: str, model: str, stop: list[str], at_once: int) -> None:
        self._url, self._model, self._stop = f"{url.rstrip('/')}/completions", model, stop
        key = os.environ.get(KEY)
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(TIMEOUT_SECONDS, connect=30.0),
            limits=httpx2.Limits(max_connections=at_once),
        )
        self.host = httpx2.URL(url).netloc.decode()

    def write(
        self, prompts: Sequence[list[int]], names: Sequence[str], config: GenerationConfig
    ) -> list[Answer]:
        """See `Write`."""
        return [
            self._ask(ids, derive_seed(config.seed, name) % 2**31, config)
            for ids, name in zip(prompts, names, strict=True)
        ]

    def _ask(self, ids: list[int], seed: int, config: GenerationConfig) -> Answer:
        drawn = {"temperature": config.temperature, "top_p": config.top_p, "seed": seed}
        question = {
            "model": self._model,
            "prompt": ids,
            "max_tokens": config.max_new_tokens,
            "stop": self._stop,
            **(drawn if config.do_sample else {"temperature": 0.0}),
        }
        for attempt in range(TRIES):
            try:
                return self._read(self._post(question))
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
            text, reason = choice["text"], choice["finish_reason"]
        except (ValueError, KeyError, TypeError) as error:
            raise _LaterError(f"no completion: {response.text[:60]!r}") from error
        tokens = (body.get("usage") or {}).get("completion_tokens") or 0
        if reason == "content_filter":  # as empty as a refusal
            return Answer("", "stop", tokens)
        if not isinstance(text, str) or reason not in ("stop", "length"):
            raise _LaterError(f"a completion that ended by {reason!r} with {text!r:.60}")
        cut = reason == "length"
        return Answer(text.strip().rstrip("\ufffd") if cut else text.strip(), reason, tokens)


def _read_seconds(headers: httpx2.Headers) -> float:
    """How long the server asks to wait; 0 where it does not say, or names a date."""
    said = headers.get("retry-after", "")
    return min(float(said), 60.0) if said.replace(".", "", 1).isdigit() else 0.0


class _LaterError(Exception):
    """The server gave no answer now, and may give one later."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds
