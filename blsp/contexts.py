"""Contexts: what stands before the question, the same for whoever hears and whoever reads.

Earlier turns and system prompts, in writing, and functions that may be called, of which each
conversation draws one by the seed and its id alone. An empty context in the file stands for none,
and its share is how often it is written there. A YAML or JSON lines file enters; contexts leave.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from blsp.config import load_config, parse_config
from blsp.errors import InputError
from blsp.manifest import Message, TextPart
from blsp.rows import check_tools, parse_line, quote


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message in writing."""

    role: Literal["system", "user", "assistant"]
    content: str

    def __post_init__(self) -> None:
        if not self.content.strip():
            raise InputError(f"{self.role}: expected words, found none; write them or leave it out")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What comes before a question."""

    messages: tuple[Turn, ...]
    """A system prompt, then user and assistant in turn up to an assistant; each may be lacking."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that may be called, as chat templates take them; they stand in the conversation."""

    def __post_init__(self) -> None:
        if self.tools and (verdict := check_tools(list(self.tools))):
            expected, advice = verdict
            raise InputError(f"tools: expected {expected}, found {quote(self.tools)}; {advice}")
        roles = [turn.role for turn in self.messages]
        turns = roles[roles[:1] == ["system"] :]
        alternate = all(before != after for before, after in pairwise(turns))
        begins_and_ends = not turns or (turns[0] == "user" and turns[-1] == "assistant")
        if "system" in turns or not alternate or not begins_and_ends:
            raise InputError(
                "expected at most one system prompt, then user and assistant in turn up to an "
                f"assistant, found the roles {', '.join(roles)}; the question comes after them"
            )

    def build_messages(self) -> tuple[Message, ...]:
        """The messages as conversations hold them."""
        return tuple(
            Message(role=turn.role, content=(TextPart(text=turn.content),))
            for turn in self.messages
        )

    def describe(self) -> dict[str, Any]:
        """What a run's plan says of it; what is not there is not mentioned."""
        return {key: value for key, value in asdict(self).items() if value or key == "messages"}


NOTHING = Context(messages=())
"""Where nothing was said before."""


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """A contexts file."""

    contexts: tuple[Context, ...]


def load_contexts(path: Path) -> tuple[Context, ...]:
    """Load a YAML file, `contexts:` and a list, or one of JSON lines, `{"messages": [...]}` each;
    `tools` may stand beside the messages.

    Raises:
        InputError: no such file, nothing in it, or an entry that is no context.
    """
    lines = path.suffix == ".jsonl"
    contexts = _read_lines(path) if lines else load_config(Contexts, path).contexts
    if not contexts:
        raise InputError(f"{path}: expected contexts, found none; write one")
    return contexts


def _read_lines(path: Path) -> tuple[Context, ...]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputError(
            f"{path}: expected a file of JSON lines, found {error.strerror}; check the path"
        ) from error
    lines = enumerate(data.split(b"\n"), start=1)
    return tuple(_parse_line(line, f"{path}:{number}") for number, line in lines if line.strip())


def _parse_line(line: bytes, where: str) -> Context:
    row, problems = parse_line(line)
    if problems:
        raise InputError(f"{where}: {problems[0]}")
    # JSON is YAML, but for what it escapes, so that both kinds of file pass the same checks.
    return parse_config(Context, json.dumps(row, ensure_ascii=False), name=where)


def draw_context(contexts: Sequence[Context], name: str, *, seed: int) -> Context:
    """Draw what comes before the question of the conversation `name`; nothing where none are."""
    if not contexts:
        return NOTHING
    return random.Random(f"{seed} context {name}").choice(contexts)
