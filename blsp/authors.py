"""Who writes continuations: a language model in this process, or a server that serves it.

Either way prompts are rendered here and go as token ids, so that a server's own template never
matters. A server is anything with OpenAI's `/v1/completions`, which `blsp.endpoint` asks. Token ids
and their names enter, `Answer`s leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blsp.arguments import choose_bits, choose_device
from blsp.checkpoint import fingerprint_folder
from blsp.drawing import derive_seed
from blsp.endpoint import Endpoint, read_address
from blsp.generation import Answer, GenerationConfig, answer_texts
from blsp.model.foundations import Base, find_cached, load_llm
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer


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
    options = choose_bits(options, bits, device)
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
        address: `openai:URL#MODEL`, where URL has `/completions` below it and MODEL is what the
            server calls the language model.
        llm: folder or hub id of the same language model.
        revision: of a hub id.
        variables: of the template.
        at_once: requests under way.

    Raises:
        InputError: no such address.
    """
    where = read_address(address, "--engine")
    renderer = Renderer(load_tokenizer(llm, revision), variables)
    end = renderer.tokenizer.decode(renderer.end_of_turn_ids()).strip()
    server = _Server(Endpoint(where, "completions", at_once), [end] if end else [])
    return Author(
        base=find_base(llm, revision),
        renderer=renderer,
        write=server.write,
        engine=f"openai, {where.model}",
        host=where.host,
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
    """Answers prompts of token ids by way of `URL/completions`."""

    def __init__(self, endpoint: Endpoint, stop: list[str]) -> None:
        self._endpoint, self._stop = endpoint, stop

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
        return self._endpoint.ask(
            {
                "prompt": ids,
                "max_tokens": config.max_new_tokens,
                "stop": self._stop,
                **(drawn if config.do_sample else {"temperature": 0.0}),
            }
        )
