"""Manifests and conversations: the two kinds of JSON lines that every program reads or writes.

A manifest names recordings (one `Utterance` a line), a conversations file holds chats whose parts
are text or audio (one `Conversation` a line). Reading stops at the first line that is wrong and
names it, because a row that is silently wrong costs a training run. `X.jsonl` has a side file
`X.meta.json` that says what made it; both are written whole or not at all.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from blsp import __version__
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.rows import (
    CONVERSATION_KEYS,
    UTTERANCE_KEYS,
    check_conversation,
    check_utterance,
    parse_line,
    quote,
)

Kind = Literal["manifest", "conversations"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """A slot of spoken language understanding, and the words that fill it."""

    type: str
    filler: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One recording, or a segment of one."""

    id: str
    """Unique in the file; what outputs and resumption go by."""
    audio: str
    """A file relative to the root, or `ARCHIVE::MEMBER`; always with `/` between folders."""
    duration: float
    """Seconds, above 0."""
    text: str | None
    """The transcript; None where nobody wrote one."""
    start: float = 0.0
    """Seconds to skip in the file."""
    language: str | None = None
    speaker: str | None = None
    emotion: str | None = None
    intent: str | None = None
    entities: tuple[Entity, ...] = ()
    translation: Mapping[str, str] = field(default_factory=dict)
    """Language code -> the transcript in that language."""
    license: str | None = None
    source: str | None = None
    """The corpus it comes from."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Every other key of the line (accent, noise, ...): what results can be sliced by."""

    @property
    def is_transcribed(self) -> bool:
        """Whether somebody wrote down what is said."""
        return bool(self.text and self.text.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPart:
    """Words in writing."""

    text: str
    teacher: str | None = None
    """What stands here in the teacher view, where it must read what only the voice tells; None:
    the same text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioPart:
    """A recording that the student hears and whose transcript the teacher reads.

    The words are never called `text` here: some chat templates print every `text` they meet, and
    would show the student what it is to hear.
    """

    audio: str
    duration: float
    transcript: str
    start: float = 0.0
    language: str | None = None
    emotion: str | None = None


Part = TextPart | AudioPart


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn. In the file, content that is one text is a plain string."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A chat; the one training type."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the language model may call, as chat templates take them (JSON schemas)."""
    finish_reason: Literal["stop", "length"] | None = None
    """Why the language model ended the last message; `length` means it was cut."""
    kind: str | None = None
    """The behaviour it teaches, such as `continuation` or `repeat`."""
    license: str | None = None
    source: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recordings(self) -> list[AudioPart]:
        """What is heard, in order."""
        parts = [part for message in self.messages for part in message.content]
        return [part for part in parts if isinstance(part, AudioPart)]


def _installed_versions() -> dict[str, str]:
    found = {"blsp": __version__}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What made a file; it lies beside it as `X.meta.json`."""

    command: str
    root: str = "."
    """Folder that `audio` is relative to; itself relative to the file's folder."""
    versions: Mapping[str, str] = field(default_factory=_installed_versions)
    llm: str | None = None
    """The language model that wrote the responses: id or folder, and revision."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Any other model that took part: what it did -> id and revision."""
    template: str | None = None
    """`Renderer.template_fingerprint()` of the prompts."""
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    seed: int | None = None
    plan: str | None = None
    """Hash of all that decides the rows; the same command again must come to the same."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many rows were written, and how many left out for what reason."""


# --- reading --------------------------------------------------------------------------------------


def read_manifest(path: str | Path) -> Iterator[Utterance]:
    """Yield the utterances of a manifest, one line at a time.

    Raises:
        InputError: the first line that is wrong, with file and line.
    """
    for line in scan_rows(path, "manifest"):
        yield build_utterance(checked(path, line))


def read_conversations(path: str | Path) -> Iterator[Conversation]:
    """Yield the conversations of a file, one line at a time.

    Raises:
        InputError: the first line that is wrong, with file and line.
    """
    for line in scan_rows(path, "conversations"):
        yield build_conversation(checked(path, line))


def find_kind(path: str | Path) -> Kind:
    """Tell a conversations file from a manifest, by its first readable line."""
    for _, _, data in read_lines(path):
        row, _ = parse_line(data)
        if row is not None:
            return "conversations" if "messages" in row else "manifest"
    return "manifest"


class ScannedLine(NamedTuple):
    """One line of a file: where it is, what it holds and what is wrong with it."""

    number: int
    offset: int
    """Bytes before the line."""
    row: dict[str, Any]
    problems: list[str]


def scan_rows(path: str | Path, kind: Kind) -> Iterator[ScannedLine]:
    """Yield every line that is not blank with its problems, in one pass.

    Raises:
        InputError: the file cannot be read.
    """
    check = check_utterance if kind == "manifest" else check_conversation
    first_line: dict[str, int] = {}
    for number, offset, data in read_lines(path):
        row, problems = parse_line(data)
        if row is not None:
            problems = check(row)
            name = row.get("id")
            if type(name) is str and (earlier := first_line.setdefault(name, number)) != number:
                problems.append(
                    f"expected every id once, found {quote(name)} also on line {earlier}; "
                    "rename or delete one"
                )
        yield ScannedLine(number, offset, row or {}, problems)


def checked(path: str | Path, line: ScannedLine) -> dict[str, Any]:
    """Return the row of a scanned line; an `InputError` names its first problem."""
    if line.problems:
        raise InputError(f"{path}:{line.number}: {line.problems[0]}")
    return line.row


def parse_conversation(data: bytes) -> Conversation:
    """Build a conversation from the bytes of a line that a scan has found in order."""
    return build_conversation(json.loads(data.decode("utf-8-sig")))


def read_lines(path: str | Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, offset and bytes of the lines that are not blank, without a byte order mark."""
    offset = 0
    try:
        with Path(path).open("rb") as file:
            for number, data in enumerate(file, start=1):
                line = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
                if not line.isspace() and line:
                    yield number, offset, line
                offset += len(data)
    except OSError as error:
        raise InputError(
            f"{path}: expected a file of JSON lines, found: {error.strerror}; check the path"
        ) from error


# --- from rows to dataclasses and back ------------------------------------------------------------


def _split_extra(row: dict[str, Any], known: frozenset[str]) -> tuple[dict[str, Any], dict]:
    values = {key: value for key, value in row.items() if key in known and value is not None}
    return values, {key: value for key, value in row.items() if key not in known}


def build_utterance(row: dict[str, Any]) -> Utterance:
    """Build an utterance from a row that a scan has found in order."""
    values, extra = _split_extra(row, UTTERANCE_KEYS)
    if "entities" in values:
        values["entities"] = tuple(Entity(**entity) for entity in values["entities"])
    values.setdefault("text", None)
    return Utterance(**values, extra=extra)


def build_conversation(row: dict[str, Any]) -> Conversation:
    """Build a conversation from a row that a scan has found in order."""
    values, extra = _split_extra(row, CONVERSATION_KEYS)
    values["messages"] = tuple(
        Message(role=message["role"], content=_build_content(message["content"]))
        for message in values["messages"]
    )
    values["tools"] = tuple(values.get("tools", ()))
    return Conversation(**values, extra=extra)


def _build_content(content: str | list[dict[str, Any]]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(text=content),)
    return tuple(_build_part(part) for part in content)


def _build_part(part: dict[str, Any]) -> Part:
    if part["type"] == "text":
        return TextPart(text=part["text"], teacher=part.get("teacher"))
    values = {key: value for key, value in part.items() if key != "type" and value is not None}
    return AudioPart(**values)


def to_row(item: Utterance | Conversation) -> dict[str, Any]:
    """Return the JSON object of one line; what is unset or at its default is left out."""
    row = _set_fields(item)
    row |= row.pop("extra", {})
    if isinstance(item, Utterance):
        row["text"] = item.text
        if item.entities:
            row["entities"] = [asdict(entity) for entity in item.entities]
    else:
        if item.tools:
            row["tools"] = list(item.tools)
        row["messages"] = [
            {"role": message.role, "content": _content_row(message.content)}
            for message in item.messages
        ]
    return row


def _set_fields(item: Any) -> dict[str, Any]:
    pairs = ((each, getattr(item, each.name)) for each in fields(item))
    return {
        each.name: value
        for each, value in pairs
        if value is not None and value != () and value != {} and value != each.default
    }


def _content_row(content: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    if len(content) == 1 and isinstance(content[0], TextPart) and content[0].teacher is None:
        return content[0].text
    return [
        {"type": "text" if isinstance(part, TextPart) else "audio", **_set_fields(part)}
        for part in content
    ]


def write_rows(path: str | Path, rows: Iterable[Utterance | Conversation], meta: Meta) -> int:
    """Write rows and their side file; both whole or not at all. Returns the number of rows.

    Raises:
        InputError: a row that reading would refuse, or a file that cannot be written.
    """
    path = Path(path)
    count = 0
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for item in rows:
                file.write(_format_row(item, f"{path}:{count + 1}") + "\n")
                count += 1
        write_meta(path, meta)
    return count


def write_meta(path: str | Path, meta: Meta) -> None:
    """Write the side file of `path`."""
    with atomic_path(meta_path(path)) as side_file:
        text = json.dumps(asdict(meta), indent=1, ensure_ascii=False)
        side_file.write_text(text + "\n", encoding="utf-8")


def _format_row(item: Utterance | Conversation, where: str) -> str:
    row = to_row(item)
    check = check_utterance if isinstance(item, Utterance) else check_conversation
    if problems := check(row):
        raise InputError(f"{where}: {problems[0]}")
    return json.dumps(row, ensure_ascii=False)


def meta_path(path: str | Path) -> Path:
    """Return where the side file of `path` lies: `train.jsonl` -> `train.meta.json`."""
    return Path(path).with_suffix(".meta.json")


def read_meta(path: str | Path) -> Meta | None:
    """Return what made the file at `path`; None where no side file lies beside it.

    Keys that this version does not know are passed over: a later one may write more.
    """
    side_file = meta_path(path)
    if not side_file.exists():
        return None
    try:
        values = json.loads(side_file.read_text(encoding="utf-8-sig"))
        known = {each.name for each in fields(Meta)}
        return Meta(**{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{side_file}: expected a JSON object with 'command' and 'root', found: {error}; "
            "repair it, or delete it to use the defaults"
        ) from error


def find_written(out: Path, command: str) -> Meta | None:
    """Return the side file of what this very command has written before; None where nothing is.

    Raises:
        InputError: another command wrote it, or nobody says which.
    """
    meta = read_meta(out)
    if meta is None and not out.exists():
        return None
    if meta is None or meta.command != command:
        found = f"that of `{meta.command}`" if meta else "one that does not say what made it"
        raise InputError(
            f"{out}: expected no file yet, or that of `{command}`, found {found}; delete it or "
            "choose another --out"
        )
    return meta if out.exists() else None


def find_root(path: str | Path) -> Path:
    """Return the folder that `audio` is relative to: that of the file unless its meta names one."""
    meta = read_meta(path)
    return Path(path).parent / (meta.root if meta else ".")


def relative_root(source: Path, out: Path) -> str:
    """Return the folder that the audio of `source` is relative to, as seen from that of `out`."""
    return relative_folder(find_root(source), out)


def relative_folder(folder: Path, out: Path) -> str:
    """Return a folder as the side file of `out` names it."""
    return Path(os.path.relpath(folder.resolve(), out.parent.resolve())).as_posix()
