"""Chats and instructions in writing, for the stage on text: Alpaca's JSON, or lines of `messages`.

Two forms are read: one JSON list of `instruction`, `input` and `output` (Alpaca and what descends
from it), and one JSON object a line with `messages` of `role` and `content`. Conversations leave,
without recordings. What has no answer is left out and counted.
"""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blsp.cli import main as run_blsp
from blsp.errors import InputError
from blsp.manifest import Conversation, Message, Meta, TextPart, write_rows

ROLES = ("system", "user", "assistant")


def main(argv: Sequence[str]) -> int:
    """Write the conversations of one file."""
    parser = argparse.ArgumentParser(
        prog="blsp prep chat", description="Chats in writing to conversations."
    )
    parser.add_argument("path", type=Path, metavar="ROOT", help="JSON list, or JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="folder for the conversations")
    parser.add_argument("--license", help="of all of it, such as CC-BY-NC-4.0")
    options = parser.parse_args(argv)
    out = options.out / f"{options.path.stem}.jsonl"
    counts: Counter[str] = Counter()
    meta = Meta(command=shlex.join(["blsp", "prep", "chat", *argv]))
    found = list(list_conversations(options.path, counts, terms=options.license))
    if not found:
        raise InputError(
            f"{options.path}: expected chats with answers, found none; it takes Alpaca's "
            "instruction, input and output, or messages of role and content"
        )
    write_rows(out, found, meta)
    print(f"{out}: {len(found)} conversations; without an answer: {counts['without']}")
    return 0


def list_conversations(
    path: Path, counts: Counter[str], *, terms: str | None
) -> Iterator[Conversation]:
    """Yield the conversations of a file; `counts` gets those that are `without` an answer.

    `terms` is the licence of all of it.

    Raises:
        InputError: no such file, or a line that is neither form.
    """
    for number, row in read_rows(path):
        messages = read_messages(row, f"{path}:{number}")
        if not messages or messages[-1].role != "assistant" or not messages[-1].content:
            counts["without"] += 1
            continue
        yield Conversation(
            id=f"{path.stem}-{number}",
            messages=messages,
            finish_reason="stop",
            license=terms,
            source=path.stem,
        )


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of every element of a list, or of every line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        whole = text.lstrip().startswith("[")
        rows = json.loads(text) if whole else [json.loads(x) for x in text.splitlines() if x]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a JSON list or JSON lines, found {' '.join(str(error).split())}; "
            "check the file"
        ) from error
    yield from enumerate(rows, start=1)


def read_messages(row: Any, where: str) -> tuple[Message, ...]:
    """The messages of a row in either form; an empty text is no content."""
    if isinstance(row, dict) and "instruction" in row:
        question = "\n".join(filter(None, (row["instruction"], row.get("input"))))
        found = [("user", question), ("assistant", row.get("output"))]
    elif isinstance(row, dict) and isinstance(row.get("messages"), list):
        found = [(m.get("role"), m.get("content")) for m in row["messages"]]
    else:
        raise InputError(
            f"{where}: expected instruction and output, or messages, found "
            f"{', '.join(row) if isinstance(row, dict) else type(row).__name__}; rename the keys"
        )
    return tuple(_build_message(role, content, where) for role, content in found)


def _build_message(role: Any, content: Any, where: str) -> Message:
    if role not in ROLES or not isinstance(content, str | None):
        raise InputError(
            f"{where}: expected messages by {', '.join(ROLES)} with text, found {role!r} with "
            f"{type(content).__name__}; leave the row out"
        )
    return Message(role=role, content=(TextPart(text=content.strip()),) if content else ())


if __name__ == "__main__":
    sys.exit(run_blsp(["prep", "chat", *sys.argv[1:]]))
