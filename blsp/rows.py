"""What a line of a manifest or a conversations file may hold.

Checks are plain functions of JSON values, since a million lines must take seconds. Keys of the
user's own are welcome in a row, keys that look like mistyped ones of ours are not. The bytes of a
line or a row enter; a list of problems leaves, each saying expected, found and what to do.
"""

import json
import posixpath
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from blsp.errors import suggest
from blsp.remote import FORM, is_remote, is_remote_cell


def parse_line(data: bytes) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        row = json.loads(data.decode("utf-8").rstrip("\r\n"))
        if b"\\ud" in data or b"\\uD" in data:  # half a surrogate pair cannot be tokenised
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        reason = f"expected UTF-8 text, found {quote(error.object[error.start : error.end])}"
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


# A check takes a value and returns None, or what was expected and what to do about it.
_Verdict = tuple[str, str] | None


def quote(value: Any) -> str:
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
    if is_remote(path):
        form = f"{FORM}::COLUMN/ROW"
        return None if is_remote_cell(value) else (form, "`blsp prep hub --streaming` writes it")
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


def check_tools(value: Any) -> _Verdict:
    """Check a list of functions as chat templates take them; None where it is one."""

    def good(tool: Any) -> bool:
        function = tool.get("function") if type(tool) is dict else None
        if type(function) is not dict or tool.get("type") != "function":
            return False
        name, purpose, takes = map(function.get, ("name", "description", "parameters"))
        return bool(name) and type(name) is type(purpose) is str and type(takes) is dict

    if value is None or (type(value) is list and value and all(map(good, value))):
        return None
    return (
        "a list of {'type': 'function', 'function': {'name', 'description', 'parameters'}}",
        "write them so, or leave the key out",
    )


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
    "tools": check_tools,
    "finish_reason": _finish_reason,
    "kind": _text_or_null,
    "license": _text_or_null,
    "source": _text_or_null,
}
_MESSAGE: _Checks = {"role": _anything, "content": _anything}
_TEXT_PART: _Checks = {"type": _anything, "text": _text, "teacher": _text_or_null}
_AUDIO_PART: _Checks = {
    "type": _anything,
    "audio": _audio_path,
    "duration": _positive_seconds,
    "transcript": _text,
    "start": _seconds,
    "language": _text_or_null,
    "emotion": _text_or_null,
}
UTTERANCE_KEYS, CONVERSATION_KEYS = frozenset(_UTTERANCE), frozenset(_CONVERSATION)
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
            problems.append(f"{where}{key}: expected {expected}, found {quote(value)}; {advice}")
    return problems


def _check_open(row: dict[str, Any], checks: _Checks, required: tuple[str, ...]) -> list[str]:
    """Check a row that may hold keys of its own, but none that looks like a mistyped one."""
    problems = _check_values(row, checks, required)
    if not row.keys() <= checks.keys():
        known = UTTERANCE_KEYS if checks is _UTTERANCE else CONVERSATION_KEYS
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


def check_utterance(row: dict[str, Any]) -> list[str]:
    return _check_open(row, _UTTERANCE, ("id", "audio", "duration", "text"))


def check_conversation(row: dict[str, Any]) -> list[str]:
    problems = _check_open(row, _CONVERSATION, ("id", "messages"))
    messages = row.get("messages", ())
    if "messages" in row and (type(messages) is not list or not messages):
        problems.append(
            f"messages: expected a list of at least one, found {quote(messages)}; add a message"
        )
        return problems
    for position, message in enumerate(messages):
        problems += _check_message(message, f"messages[{position}]: ")
    return problems


def _check_message(message: Any, where: str) -> list[str]:
    if type(message) is not dict:
        return [f"{where}expected an object with role and content, found {quote(message)}; fix it"]
    problems = _check_closed(message, _MESSAGE, ("role", "content"), where)
    role, content = message.get("role"), message.get("content", "")
    if "role" in message and role not in _ROLES:
        near = suggest(role, _ROLES) if type(role) is str else f"choose from {', '.join(_ROLES)}"
        problems.append(f"{where}role: expected a known role, found {quote(role)}; {near}")
    if type(content) is str:
        return problems
    if type(content) is not list or not content:
        problems.append(
            f"{where}content: expected a text or a list of parts, found {quote(content)}; write one"
        )
        return problems
    for position, part in enumerate(content):
        problems += _check_part(part, role, f"{where}content[{position}]: ")
    return problems


def _check_part(part: Any, role: Any, where: str) -> list[str]:
    kind = part.get("type") if type(part) is dict else None
    if kind not in ("text", "audio"):
        return [f"{where}expected a part of type 'text' or 'audio', found {quote(part)}; fix it"]
    if kind == "text":
        problems = _check_closed(part, _TEXT_PART, ("text",), where)
        if role == "assistant" and part.get("teacher") is not None:
            problems.append(
                f"{where}expected a response that is the same in both views, found 'teacher'; "
                "remove it"
            )
        return problems
    if role in ("system", "assistant"):
        return [f"{where}expected audio in user messages only, found it in {role}; move it"]
    if "text" in part:
        return [
            f"{where}expected the words of an audio part as 'transcript', found 'text'; "
            "rename the key (chat templates may print a 'text' to the student)"
        ]
    return _check_closed(part, _AUDIO_PART, ("audio", "duration", "transcript"), where)


# --- recordings -----------------------------------------------------------------------------------


def recordings_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is heard in a row: the row itself in a manifest, the audio parts of a chat."""
    if "messages" not in row:
        return [row]
    contents = [message["content"] for message in row["messages"]]
    parts = [part for content in contents if type(content) is list for part in content]
    return [part for part in parts if part["type"] == "audio"]


def words_of(recording: dict[str, Any]) -> str | None:
    """Return the transcript of a recording, as a manifest or as a conversation calls it."""
    return recording.get("transcript", recording.get("text"))
