"""Manifests and conversations: the two kinds of JSON lines that every program reads or writes.

A manifest names recordings (one `Utterance` a line), a conversations file holds chats whose parts
are text or audio (one `Conversation` a line). Lines are checked by hand-written functions, since a
million of them must take seconds, and are refused with file and line, because a row that is
silently wrong costs a training run. `X.jsonl` has a side file `X.meta.json` that says what made it.
"""

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from blsp import __version__
from blsp.errors import InputError, suggest
from blsp.files import atomic_path

Kind = Literal["manifest", "conversations"]

LONG_SECONDS = 30.0
"""What the encoder hears at once; longer audio is encoded in windows."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPart:
    """Words that both views show."""

    text: str


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
    finish_reason: Literal["stop", "length"] | None = None
    """Why the language model ended the last message; `length` means it was cut."""
    kind: str | None = None
    """The behaviour it teaches, such as `continuation` or `repeat`."""
    license: str | None = None
    source: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    check = _check_utterance if kind == "manifest" else _check_conversation
    first_line: dict[str, int] = {}
    for number, offset, data in _read_lines(path):
        row, problems = _parse_line(data)
        if row is not None:
            problems = check(row)
            name = row.get("id")
            if type(name) is str and (earlier := first_line.setdefault(name, number)) != number:
                problems.append(
                    f"expected every id once, found {_show(name)} also on line {earlier}; "
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


def _read_lines(path: str | Path) -> Iterator[tuple[int, int, bytes]]:
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


def _parse_line(data: bytes) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        row = json.loads(data.decode("utf-8").rstrip("\r\n"))
        if b"\\ud" in data or b"\\uD" in data:  # half a surrogate pair cannot be tokenised
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        reason = f"expected UTF-8 text, found {_show(error.object[error.start : error.end])}"
        return None, [f"{reason} ({error.reason}); save the line again as UTF-8"]
    except json.JSONDecodeError as error:
        reason = f"expected a JSON object, found broken JSON at column {error.colno} ({error.msg})"
        return None, [f"{reason}; repair or delete the line"]
    except (ValueError, RecursionError) as error:
        return None, [f"expected a JSON object, found {error}; repair or delete the line"]
    if type(row) is not dict:
        kind = type(row).__name__
        return None, [f"expected a JSON object a line, found a {kind}; write one object a line"]
    return row, []


# --- from rows to dataclasses and back ------------------------------------------------------------


def _split_extra(row: dict[str, Any], known: frozenset[str]) -> tuple[dict[str, Any], dict]:
    values = {key: value for key, value in row.items() if key in known and value is not None}
    return values, {key: value for key, value in row.items() if key not in known}


def build_utterance(row: dict[str, Any]) -> Utterance:
    """Build an utterance from a row that a scan has found in order."""
    values, extra = _split_extra(row, _UTTERANCE_KEYS)
    if "entities" in values:
        values["entities"] = tuple(Entity(**entity) for entity in values["entities"])
    values.setdefault("text", None)
    return Utterance(**values, extra=extra)


def build_conversation(row: dict[str, Any]) -> Conversation:
    """Build a conversation from a row that a scan has found in order."""
    values, extra = _split_extra(row, _CONVERSATION_KEYS)
    values["messages"] = tuple(
        Message(role=message["role"], content=_build_content(message["content"]))
        for message in values["messages"]
    )
    return Conversation(**values, extra=extra)


def _build_content(content: str | list[dict[str, Any]]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(text=content),)
    return tuple(_build_part(part) for part in content)


def _build_part(part: dict[str, Any]) -> Part:
    if part["type"] == "text":
        return TextPart(text=part["text"])
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
    if len(content) == 1 and isinstance(content[0], TextPart):
        return content[0].text
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "audio", **_set_fields(part)}
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
        with atomic_path(meta_path(path)) as side_file:
            text = json.dumps(asdict(meta), indent=1, ensure_ascii=False)
            side_file.write_text(text + "\n", encoding="utf-8")
    return count


def _format_row(item: Utterance | Conversation, where: str) -> str:
    row = to_row(item)
    check = _check_utterance if isinstance(item, Utterance) else _check_conversation
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


def find_root(path: str | Path) -> Path:
    """Return the folder that `audio` is relative to: that of the file unless its meta names one."""
    meta = read_meta(path)
    return Path(path).parent / (meta.root if meta else ".")


# --- checks ---------------------------------------------------------------------------------------
# A check takes a value and returns None, or what was expected and what to do about it.

_Verdict = tuple[str, str] | None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(value: Any) -> _Verdict:
    return None if type(value) is str and value else ("a text that is not empty", "write one")


def _text(value: Any) -> _Verdict:
    return None if type(value) is str else ("a text", "put it in quotes")


def _text_or_null(value: Any) -> _Verdict:
    good = value is None or type(value) is str
    return None if good else ("a text or null", "put it in quotes")


def _positive_seconds(value: Any) -> _Verdict:
    if type(value) in (int, float) and 0 < value < 1e7:  # NaN compares false
        return None
    return "seconds above 0, as a number", "measure the file again or delete the line"


def _seconds(value: Any) -> _Verdict:
    if type(value) in (int, float) and 0 <= value < 1e7:
        return None
    return "seconds of at least 0, as a number", "correct it"


def _audio_path(value: Any) -> _Verdict:
    if type(value) is not str or not value:
        return "the path of an audio file", "write one"
    path = value.partition("::")[0]  # what follows is a name inside an archive
    if path[0] in "/\\~" or (path[1:2] == ":" and path[2:3] in ("/", "\\")):
        return "a path relative to the root", "name the folder above it as root in X.meta.json"
    if "://" in path:
        return "a file on this machine", "download it first"
    if "\\" in path:
        return "'/' between folders", "replace each '\\' by '/'"
    if ".." in path and posixpath.normpath(path).startswith(".."):
        return "a path inside the root", "move the file there or set another root in X.meta.json"
    return None


def _entities(value: Any) -> _Verdict:
    def good(entity: Any) -> bool:
        if type(entity) is not dict or entity.keys() != {"type", "filler"}:
            return False
        return type(entity["type"]) is str and type(entity["filler"]) is str

    if value is None or (type(value) is list and all(map(good, value))):
        return None
    return "a list of {'type': text, 'filler': text}", "write them so"


def _texts_by_language(value: Any) -> _Verdict:
    if value is None or (type(value) is dict and all(type(text) is str for text in value.values())):
        return None
    return "an object of language to text, such as {'de': '...'}", "write it so"


def _finish_reason(value: Any) -> _Verdict:
    return None if value in (None, "stop", "length") else ("'stop', 'length' or null", "correct it")


def _anything(value: Any) -> _Verdict:
    return None


_Checks = Mapping[str, Callable[[Any], _Verdict]]

_UTTERANCE: _Checks = {
    "id": _name,
    "audio": _audio_path,
    "duration": _positive_seconds,
    "text": _text_or_null,
    "start": _seconds,
    "language": _text_or_null,
    "speaker": _text_or_null,
    "emotion": _text_or_null,
    "intent": _text_or_null,
    "entities": _entities,
    "translation": _texts_by_language,
    "license": _text_or_null,
    "source": _text_or_null,
}
_CONVERSATION: _Checks = {
    "id": _name,
    "messages": _anything,  # looked into below
    "finish_reason": _finish_reason,
    "kind": _text_or_null,
    "license": _text_or_null,
    "source": _text_or_null,
}
_MESSAGE: _Checks = {"role": _anything, "content": _anything}
_TEXT_PART: _Checks = {"type": _anything, "text": _text}
_AUDIO_PART: _Checks = {
    "type": _anything,
    "audio": _audio_path,
    "duration": _positive_seconds,
    "transcript": _text,
    "start": _seconds,
    "language": _text_or_null,
    "emotion": _text_or_null,
}
_UTTERANCE_KEYS, _CONVERSATION_KEYS = frozenset(_UTTERANCE), frozenset(_CONVERSATION)
_ROLES = ("system", "user", "assistant")

# What other tools call our keys.
_OTHER_NAMES = {
    "transcript": "text",
    "transcription": "text",
    "sentence": "text",
    "path": "audio",
    "audio_path": "audio",
    "audio_filepath": "audio",
    "audio_file": "audio",
    "lang": "language",
    "offset": "start",
    "conversation": "messages",
    "conversations": "messages",
}


@lru_cache(maxsize=4096)
def _find_near_miss(key: str, known: frozenset[str]) -> str | None:
    """Return the known key that an unknown one was probably meant to be."""
    plain = key.strip().lower()
    if plain in known:
        return plain
    if _OTHER_NAMES.get(plain) in known:
        return _OTHER_NAMES[plain]
    nearest = get_close_matches(plain, known, n=1, cutoff=0.85)
    return nearest[0] if nearest else None


def _check_values(
    row: dict[str, Any], checks: _Checks, required: tuple[str, ...], where: str = ""
) -> list[str]:
    problems = [
        f"{where}expected the key {key!r}, found none; add it" for key in required if key not in row
    ]
    for key, value in row.items():
        check = checks.get(key)
        if check is not None and (verdict := check(value)) is not None:
            expected, advice = verdict
            problems.append(f"{where}{key}: expected {expected}, found {_show(value)}; {advice}")
    return problems


def _check_open(row: dict[str, Any], checks: _Checks, required: tuple[str, ...]) -> list[str]:
    """Check a row that may hold keys of its own, but none that looks like a mistyped one."""
    problems = _check_values(row, checks, required)
    if not row.keys() <= checks.keys():
        known = _UTTERANCE_KEYS if checks is _UTTERANCE else _CONVERSATION_KEYS
        for key in row.keys() - known:
            near = _find_near_miss(key, known)
            if near is not None and not (near in row and key in _OTHER_NAMES):
                problems.append(
                    f"expected known keys or your own, found {key!r}; did you mean {near!r}?"
                )
            elif key == "extra":
                problems.append("expected your own keys beside ours, found 'extra'; unpack it")
    return problems


def _check_closed(
    row: dict[str, Any], checks: _Checks, required: tuple[str, ...], where: str
) -> list[str]:
    problems = _check_values(row, checks, required, where)
    for key in row.keys() - checks.keys():
        problems.append(f"{where}expected known keys, found {key!r}; {suggest(key, checks)}")
    return problems


def _check_utterance(row: dict[str, Any]) -> list[str]:
    return _check_open(row, _UTTERANCE, ("id", "audio", "duration", "text"))


def _check_conversation(row: dict[str, Any]) -> list[str]:
    problems = _check_open(row, _CONVERSATION, ("id", "messages"))
    messages = row.get("messages", ())
    if "messages" in row and (type(messages) is not list or not messages):
        problems.append(
            f"messages: expected a list of at least one, found {_show(messages)}; add a message"
        )
        return problems
    for position, message in enumerate(messages):
        problems += _check_message(message, f"messages[{position}]: ")
    return problems


def _check_message(message: Any, where: str) -> list[str]:
    if type(message) is not dict:
        return [f"{where}expected an object with role and content, found {_show(message)}; fix it"]
    problems = _check_closed(message, _MESSAGE, ("role", "content"), where)
    role, content = message.get("role"), message.get("content", "")
    if "role" in message and role not in _ROLES:
        near = suggest(role, _ROLES) if type(role) is str else f"choose from {', '.join(_ROLES)}"
        problems.append(f"{where}role: expected a known role, found {_show(role)}; {near}")
    if type(content) is str:
        return problems
    if type(content) is not list or not content:
        problems.append(
            f"{where}content: expected a text or a list of parts, found {_show(content)}; write one"
        )
        return problems
    for position, part in enumerate(content):
        problems += _check_part(part, role, f"{where}content[{position}]: ")
    return problems


def _check_part(part: Any, role: Any, where: str) -> list[str]:
    kind = part.get("type") if type(part) is dict else None
    if kind not in ("text", "audio"):
        return [f"{where}expected a part of type 'text' or 'audio', found {_show(part)}; fix it"]
    if kind == "text":
        return _check_closed(part, _TEXT_PART, ("text",), where)
    if role in ("system", "assistant"):
        return [f"{where}expected audio in user messages only, found it in {role}; move it"]
    if "text" in part:
        return [
            f"{where}expected the words of an audio part as 'transcript', found 'text'; "
            "rename the key (chat templates may print a 'text' to the student)"
        ]
    return _check_closed(part, _AUDIO_PART, ("audio", "duration", "transcript"), where)


# --- validation -----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Report:
    """What a whole file holds and what is wrong with it."""

    kind: Kind
    rows: int = 0
    seconds: float = 0.0
    """Audio in all, of the rows without a problem."""
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    """The first of them, each one line with file and line."""
    warnings: list[str] = field(default_factory=list)
    """What is allowed but seldom meant, one line a kind of it."""


def validate(path: str | Path, *, limit: int = 20) -> Report:
    """Check every line of a manifest or conversations file and list the first `limit` problems.

    Raises:
        InputError: the file cannot be read.
    """
    report = Report(kind=find_kind(path))
    unusual: dict[str, tuple[int, int]] = {}  # what -> (how often, first line)
    for line in scan_rows(path, report.kind):
        report.rows += 1
        report.problem_count += len(line.problems)
        room = limit - len(report.problems)
        report.problems += [f"{path}:{line.number}: {text}" for text in line.problems[:room]]
        if not line.problems:
            for seconds, words in _spoken(line.row, report.kind):
                report.seconds += seconds
                for what in _find_unusual(seconds, words):
                    count, first = unusual.get(what, (0, line.number))
                    unusual[what] = (count + 1, first)
    if not report.rows:
        report.problem_count = 1
        report.problems = [f"{path}: expected at least one line, found none; write some"]
    report.warnings = [
        f"{path}:{first}: {count} {what}" for what, (count, first) in unusual.items()
    ]
    return report


def find_kind(path: str | Path) -> Kind:
    """Tell a conversations file from a manifest, by its first readable line."""
    for _, _, data in _read_lines(path):
        row, _ = _parse_line(data)
        if row is not None:
            return "conversations" if "messages" in row else "manifest"
    return "manifest"


def _spoken(row: dict[str, Any], kind: Kind) -> Iterator[tuple[float, str | None]]:
    """Yield seconds and words of every recording of a row."""
    if kind == "manifest":
        yield row["duration"], row["text"]
        return
    for message in row["messages"]:
        if type(message["content"]) is list:
            for part in message["content"]:
                if part["type"] == "audio":
                    yield part["duration"], part["transcript"]


def _find_unusual(seconds: float, words: str | None) -> Iterator[str]:
    if seconds > LONG_SECONDS:
        yield f"longer than {LONG_SECONDS:.0f} s (encoded in windows; cut it where you can)"
    if words is None:
        yield "without a transcript (enough for generating, not for training)"
    elif not words.strip():
        yield "with an empty transcript (only right for silence)"
    elif " " in words and words.isupper():
        yield "in capitals throughout (a language model reads these poorly; lower-case them)"
