"""What the columns of a data set mean to a manifest: audio, words, id, and keys of their own.

Data sets of the hub call the same thing by many names. Those that are common are found, any other
is named by the user as KEY=COLUMN. The features of a data set (column -> type, of `datasets`)
enter; `Columns` leave, and turn a row into the parts of a `Candidate`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blsp.errors import InputError, suggest
from blsp.rows import check_utterance, quote

# The first that is there counts.
_AUDIO = ("audio", "context", "speech", "file", "path", "flac", "wav", "mp3", "ogg", "opus")
_TEXT = ("text", "sentence", "normalized_text", "transcript", "transcription", "raw_text", "txt")
_ID = ("id", "segment_id", "audio_id", "utterance_id", "file", "__key__")
# What other people call a key of ours.
_OTHER_NAMES = {
    "major_emotion": "emotion",
    "intent_class": "intent",
    "speaker_id": "speaker",
    "client_id": "speaker",
    "lang": "language",
    "locale": "language",
}
_TEXT_KEYS = {"language", "speaker", "emotion", "intent", "license", "source"}
_TRANSLATION = "translation"
_UNKEPT = {"duration", "__url__"}  # the one is measured, the other says where the row came from


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a data set is what."""

    audio: str
    text: str | None
    """None where nobody wrote the words down."""
    id: str | None
    labels: Mapping[str, str]
    """Key of the manifest -> column."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column of numbers that stand for names -> the names."""

    @property
    def read(self) -> list[str]:
        """All that are read, but for the audio; of one in another, the outer."""
        wanted = [self.text, self.id, *self.labels.values()]
        outer = dict.fromkeys(name.partition(".")[0] for name in wanted if name)
        return [name for name in outer if name != self.audio]

    def find_words(self, row: Mapping[str, Any]) -> str:
        """The words of a row, in one line; empty where there are none."""
        value = self._value(row, self.text) if self.text else None
        return "" if value is None else " ".join(str(value).split())

    def find_id(self, row: Mapping[str, Any]) -> str | None:
        """What a row is called."""
        value = self._value(row, self.id) if self.id else None
        return None if value is None or value == "" else str(value)

    def find_labels(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The other keys of the manifest's line; what is empty is left out."""
        labels: dict[str, Any] = {}
        for key, column in self.labels.items():
            value = self._value(row, column)
            if value in (None, "", [], {}):
                continue
            if key.startswith(f"{_TRANSLATION}_"):
                language = key.removeprefix(f"{_TRANSLATION}_")
                labels.setdefault(_TRANSLATION, {})[language] = str(value)
            else:
                labels[key] = str(value) if key in _TEXT_KEYS else value
        return labels

    def _value(self, row: Mapping[str, Any], column: str) -> Any:
        outer, _, inner = column.partition(".")
        value = row.get(column) if column in row else (row.get(outer) or {}).get(inner)
        return _simplify(value, self.names.get(column, ()), column)


def _simplify(value: Any, names: tuple[str, ...], column: str) -> Any:
    """Return a value as JSON has it, numbers of names as names."""
    if isinstance(value, list | tuple):
        return [_simplify(each, names, column) for each in value]
    if isinstance(value, dict):
        pairs = {key: _simplify(each, (), column) for key, each in value.items()}
        return {key: each for key, each in pairs.items() if each is not None}
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None  # -1 says that nobody labelled it
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(
        f"--column: expected text or numbers in {column!r}, found {quote(value)}; leave it out"
    )


def find_columns(
    features: Mapping[str, Any], named: Mapping[str, str], *, where: str, untranscribed: bool
) -> Columns:
    """Tell which column is what.

    Args:
        features: column -> its type in `datasets`.
        named: key of the manifest -> column, as the user says; before all else. `json.text` is
            the part `text` of a column `json`.
        where: the data set, for errors.
        untranscribed: whether there need not be words.

    Raises:
        InputError: a column that is not there, none of audio, or none of words.
    """
    features = {**_list_parts(features), **features}
    for key, column in named.items():
        if column not in features:
            raise InputError(
                f"--column {key}={column}: expected a column of {where}, found none of that name; "
                f"{suggest(column, features)}"
            )
        if key != "audio" and _holds_audio(features[column]):
            raise InputError(
                f"--column {key}={column}: expected a column of text or numbers, found audio; "
                "leave it out"
            )
    audio = named.get("audio") or _find_audio(features, where)
    texts = (name for name in _TEXT if _is_text(features.get(name)) and name != audio)
    text = named.get("text") or next(texts, None)
    if text is None and not untranscribed:
        raise InputError(
            f"{where}: expected a column with the words, found {_list(features)}; name it by "
            "--column text=NAME, or keep what nobody wrote down: --untranscribed"
        )
    identity = named.get("id") or next((n for n in _ID if n in features and n != audio), None)
    labels = {key: name for key, name in named.items() if key not in ("audio", "text", "id")}
    taken = {audio, text, identity, *labels.values()}
    others = {k: v for k, v in features.items() if k not in taken and "." not in k}
    labels |= _find_labels(others, labels, where)
    names = {column: found for column in features if (found := _names_of(features[column]))}
    return Columns(audio=audio, text=text, id=identity, labels=labels, names=names)


def _list_parts(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of columns that have parts, one level down."""
    structs = {name: part for name, part in features.items() if isinstance(part, dict)}
    return {f"{name}.{key}": part for name, each in structs.items() for key, part in each.items()}


def _list(features: Iterable[str]) -> str:
    return ", ".join(features) or "no column"


def _find_audio(features: Mapping[str, Any], where: str) -> str:
    surely = [name for name in features if _holds_audio(features[name])]
    perhaps = [n for n in _AUDIO if n != "context" and _dtype(features.get(n)) in _BYTES | _STRINGS]
    found = [name for name in _AUDIO if name in surely] + surely[: len(surely) == 1] + perhaps
    if not found:
        raise InputError(
            f"{where}: expected a column of audio, found {_list(features)}; name it by "
            "--column audio=NAME"
        )
    return found[0]


def _find_labels(
    features: Mapping[str, Any], named: Mapping[str, str], where: str
) -> dict[str, str]:
    """Return key -> column for those that hold simple values."""
    labels: dict[str, str] = {}
    for column, feature in features.items():
        if column == _TRANSLATION:
            labels |= _find_translation(feature, where)
        elif column not in _UNKEPT and is_simple(feature):
            key = _OTHER_NAMES.get(column, column)
            key = column if key in {*features, *named, *labels} else key
            if key not in named:
                labels[key if is_free_key(key) else f"column_{column}"] = column
    return labels


def _find_translation(feature: Any, where: str) -> dict[str, str]:
    if _is_text(feature):
        raise InputError(
            f"{where}: expected to know the language of the column 'translation', found none; "
            "name it, such as --column translation_de=translation"
        )
    return {_TRANSLATION: _TRANSLATION}


def is_free_key(key: str) -> bool:
    """Whether a manifest takes a text under this key, which may be too like one of its own."""
    row = {"id": "x", "audio": "x", "duration": 1.0, "text": "x"}
    return key not in {*row, "start"} and not check_utterance(row | {key: "x"})


# --- types of columns -----------------------------------------------------------------------------

_STRINGS = {"string", "large_string", "string_view"}
_BYTES = {"binary", "large_binary"}
_NUMBERS = ("int", "uint", "float", "double", "bool")


def _dtype(feature: Any) -> str:
    return feature.dtype if type(feature).__name__ == "Value" else ""


def _is_text(feature: Any) -> bool:
    return _dtype(feature) in _STRINGS


def _names_of(feature: Any) -> tuple[str, ...]:
    inner = _element(feature)
    return tuple(inner.names) if type(inner).__name__ == "ClassLabel" else ()


def _element(feature: Any) -> Any:
    """What a list is of; anything else itself."""
    return feature.feature if type(feature).__name__ in ("List", "LargeList") else feature


def is_simple(feature: Any) -> bool:
    """Whether a column holds texts, numbers, names, or lists of texts or names."""
    inner = _element(feature)
    if _is_text(inner) or type(inner).__name__ == "ClassLabel":
        return True
    return inner is feature and _dtype(feature).startswith(_NUMBERS)


def _holds_audio(feature: Any) -> bool:
    keys = feature.keys() if isinstance(feature, dict) else set()
    return type(feature).__name__ == "Audio" or {"bytes", "path"} <= keys or holds_array(feature)


def holds_array(feature: Any) -> bool:
    """Whether a column has samples in place of the bytes of a file."""
    return isinstance(feature, dict) and {"array", "sampling_rate"} <= feature.keys()
