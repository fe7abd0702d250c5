"""Systems from elsewhere: servers that hear, and files of answers that other programs made.

They get the questions that our own systems get and are scored alike, so that any model stands in
the same table. A server is anything with OpenAI's `/v1/chat/completions` that takes `input_audio`
parts; a file has one `{"id": ..., "prediction": ...}` a line and is joined by id, never by order.
What the user names on the command line enters; a `Server` or an `AnswerFile` leaves.
"""

import base64
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from blsp.audio import encode_audio
from blsp.endpoint import KEY, Endpoint, read_address
from blsp.errors import InputError
from blsp.generation import Answer, GenerationConfig
from blsp.manifest import AudioPart, read_lines
from blsp.rows import parse_line, quote
from blsp.systems import Audio, Messages


@dataclass(frozen=True, kw_only=True)
class Server:
    """A model that hears, somewhere else."""

    name: str
    """What the server calls it, and the tables too."""
    host: str
    """Where recordings are sent to."""
    at_once: int
    """Recordings under way."""
    description: Mapping[str, Any]
    """What is asked and how it decodes; a run is continued only with the same."""
    hear: Callable[[Messages, Audio], Answer]
    """A chat with a place for a recording, and the recording; threads may call it."""


def connect_all(addresses: Sequence[str], config: GenerationConfig, at_once: int) -> list[Server]:
    """Return the servers of `--system`; nothing is sent yet.

    Args:
        addresses: `openai:URL#MODEL` each, where URL has `/chat/completions` below it.
        config: how many tokens an answer may have; all are greedy.
        at_once: recordings under way to each.

    Raises:
        InputError: an address that is none, or a key that several hosts would be sent.
    """
    if at_once < 1:
        raise InputError(f"expected --at-once of at least 1, found {at_once}; leave it out")
    servers = [_connect(address, config, at_once) for address in addresses]
    hosts = sorted({server.host for server in servers})
    if len(hosts) > 1 and os.environ.get(KEY):
        raise InputError(
            f"--system: expected one host while {KEY} is set, found {', '.join(hosts)}, which "
            "would all be sent the key; ask them in one call after the other, with the same --out"
        )
    return servers


def _connect(text: str, config: GenerationConfig, at_once: int) -> Server:
    address = read_address(text, "--system")
    endpoint = Endpoint(address, "chat/completions", at_once)
    decoding = {"temperature": 0.0, "max_tokens": config.max_new_tokens}

    def hear(chat: Messages, audio: Audio) -> Answer:
        return endpoint.ask({"messages": build_request(chat, audio), **decoding})

    return Server(
        name=address.model,
        host=address.host,
        at_once=at_once,
        description={"url": address.url, "model": address.model, **decoding},
        hear=hear,
    )


def build_request(chat: Messages, audio: Audio) -> list[dict[str, Any]]:
    """Return a chat as OpenAI's `messages`, the recording at the place where it stands in the chat.

    The transcript is in none of them: a part with a recording is its sound and nothing else.
    """
    sound = base64.b64encode(encode_audio(audio)).decode()
    heard = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    return [
        {
            "role": message.role,
            "content": [
                heard if isinstance(part, AudioPart) else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in chat
    ]


# --- answers that were made elsewhere -------------------------------------------------------------


class Given(NamedTuple):
    """One line of a file of answers."""

    number: int
    id: str
    prediction: str
    task: str | None
    condition: str | None
    finish_reason: str | None


@dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """What another program answered."""

    name: str
    path: Path
    rows: tuple[Given, ...]
    description: Mapping[str, Any]
    """What tells this file from others; a run is continued only with the same."""


def load_answers(text: str) -> AnswerFile:
    """Read `[NAME=]FILE.jsonl`; without a name the system is called as the file is.

    Raises:
        InputError: no file, no line in it, or one that is no answer.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        name, path = Path(text).stem, text
    rows = tuple(_read_answers(Path(path)))
    if not rows:
        raise InputError(f"{path}: expected answers, found none; name another file")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    description = {"predictions": Path(path).name, "sha256": digest}
    return AnswerFile(name=name, path=Path(path), rows=rows, description=description)


def _read_answers(path: Path) -> Iterator[Given]:
    for number, _, data in read_lines(path):
        row, faults = parse_line(data)
        if row is None:
            raise InputError(f"{path}:{number}: {faults[0]}")
        texts = {key: row.get(key) for key in ("task", "condition", "finish_reason")}
        wrong = [key for key in ("id", "prediction") if not isinstance(row.get(key), str)]
        wrong += [key for key, value in texts.items() if not isinstance(value, str | None)]
        if wrong:
            raise InputError(
                f"{path}:{number}: expected a text as {wrong[0]!r}, found "
                f"{quote(row.get(wrong[0]))}; a line is "
                '{"id": ..., "prediction": ...}, with "task" and "condition" where they differ'
            )
        yield Given(number, row["id"], row["prediction"], **texts)


def deal_answers(
    file: AnswerFile, tasks: Sequence[str], known: Mapping[str, Collection[str]]
) -> dict[tuple[str, str], dict[str, Given]]:
    """Return (task, condition) -> id -> answer.

    Lines that name a task or condition which is not asked about here are passed over.

    Args:
        file: the answers.
        tasks: that are asked.
        known: condition -> ids of its test set.

    Raises:
        InputError: an id that no test set has, one that could be meant for several, an answer
            given twice, or none for what is asked here.
    """
    dealt: dict[tuple[str, str], dict[str, Given]] = defaultdict(dict)
    for row in file.rows:
        if row.task not in (None, *tasks) or row.condition not in (None, *known):
            continue
        cell = _find_cell(file, row, tasks, known)
        first = dealt[cell].setdefault(row.id, row)
        if first is not row:
            raise InputError(
                f"{file.path}:{row.number}: expected one answer for {row.id!r}, found another at "
                f"line {first.number}; keep one"
            )
    if not dealt:
        raise InputError(
            f"{file.path}: expected answers to {', '.join(tasks)} in {', '.join(known)}, found "
            f"only others, such as task {file.rows[0].task!r} and condition "
            f"{file.rows[0].condition!r}; correct the names, or the manifest's (NAME=FILE)"
        )
    return dealt


def _find_cell(
    file: AnswerFile, row: Given, tasks: Sequence[str], known: Mapping[str, Collection[str]]
) -> tuple[str, str]:
    """Return the task and the condition that a line answers."""
    where = f"{file.path}:{row.number}"
    conditions = [row.condition] if row.condition is not None else list(known)
    conditions = [name for name in conditions if row.id in known[name]]
    if not conditions:
        raise InputError(
            f"{where}: expected an id of {', '.join(known)}, found {row.id!r}; name the manifest "
            "that was answered, or delete the line"
        )
    for key, choice in (("condition", conditions), ("task", [row.task] if row.task else tasks)):
        if len(choice) > 1:
            raise InputError(
                f"{where}: expected a {key!r} for {row.id!r}, which is in {', '.join(choice)}, "
                "found none; add it"
            )
    return row.task or tasks[0], conditions[0]
