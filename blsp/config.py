"""Strict configuration: a YAML file and `key.path=value` overrides become a frozen dataclass.

The dataclass is the whole schema, kept beside the code it configures. Values are read by the type a
field declares and not by what YAML guesses, so `1e-4` is a number where a number is due and `no` is
never a text. Every refusal names the file and line, because a typo in a recipe must not cost a
training run. YAML text enters; a dataclass leaves, and `dump_config` turns it back into YAML.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from blsp.errors import InputError, suggest

C = TypeVar("C")

DOTTED = "dotted"
"""Metadata of the one dictionary field of a dataclass that takes its keys with a dot in them, as in
`loss: {my_package.my_loss: 0.5}`."""

_TAG = "tag:yaml.org,2002:"
_COMMAND_LINE = "command line: "
_DIGITS = "[0-9]+(_[0-9]+)*"
_INTEGER = re.compile(f"[-+]?(0|(?!0){_DIGITS})")  # 010 is eight to YAML, ten to most people
_NUMBER = re.compile(rf"[-+]?({_DIGITS}(\.({_DIGITS})?)?|\.{_DIGITS})([eE][-+]?[0-9]+)?")


def load_config(schema: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, apply `key.path=value` overrides and build the dataclass.

    Raises:
        InputError: unreadable file or YAML, unknown, missing or repeated key, wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, found {error.reason}; re-save it"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: expected a YAML file, found {error.strerror}; check the path"
        ) from error
    return parse_config(schema, text, name=str(path), overrides=overrides)


def parse_config(schema: type[C], text: str, *, name: str, overrides: Sequence[str] = ()) -> C:
    """Build the dataclass from YAML text; `name` stands for the file in error messages."""
    root = _compose(text, name)
    for override in overrides:
        _apply_override(root, schema, override)
    return _build(root, schema, key="")


def dump_config(config: Any) -> str:
    """Return the dataclass as YAML that `parse_config` turns into an equal dataclass."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


# --- from text to nodes ---------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Composes nodes, which keep their lines; nothing is ever constructed by YAML itself."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise InputError(
                f"{mark.name}:{mark.line + 1}: expected every value written out, found an alias; "
                "copy the value here"
            )
        return super().compose_node(parent, index)


def _compose(text: str, name: str) -> yaml.Node:
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise InputError(f"{where}: expected YAML, found this: {error.problem}; fix it") from error
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name}: expected YAML, found this: {reason}; fix it") from error
    if node is None:
        raise InputError(f"{name}: expected a value, found nothing; write one (null for none)")
    return node


def _where(node: yaml.Node) -> str:
    mark = node.start_mark
    return mark.name if mark.name.startswith(_COMMAND_LINE) else f"{mark.name}:{mark.line + 1}"


def _error(node: yaml.Node, key: str, message: str) -> InputError:
    return InputError(": ".join(part for part in (_where(node), key, message) if part))


# --- overrides ------------------------------------------------------------------------------------


def _apply_override(root: yaml.Node, schema: Any, override: str) -> None:
    """Replace one value in the node tree, so that overrides and files pass the same checks."""
    key, equals, text = override.partition("=")
    name = f"{_COMMAND_LINE}{override}"
    if not key or not equals:
        raise InputError(f"{name}: expected key.path=value, found no '='; write key.path=value")
    value = _compose(text, name)
    node, kind, parts = root, schema, key.split(".")
    for depth, part in enumerate(parts):
        kind = _without_none(kind)
        if get_origin(kind) is dict:
            # Names in a dictionary may hold dots (`loss.my_package.my_loss`), so it takes the rest.
            part, parts = ".".join(parts[depth:]), parts[: depth + 1]
        elif not is_dataclass(kind):
            raise _error(value, ".".join(parts[:depth]), "expected one value, found keys below it")
        elif part not in _hints(kind) and depth < len(parts) - 1 and (rest := _dotted(kind)):
            part, parts = ".".join(parts[depth:]), parts[: depth + 1]
            kind = get_args(_hints(kind)[rest])[1]
        else:
            kind = _field_kind(kind, part, value, ".".join(parts[:depth]))
        if not isinstance(node, yaml.MappingNode):
            raise _error(node, ".".join(parts[:depth]), _mismatch("a mapping", node))
        if depth == len(parts) - 1:
            _set(node, part, value)
            return
        node = _child(node, part, value)


def _field_kind(schema: Any, name: str, node: yaml.Node, key: str) -> Any:
    hints = _hints(schema)
    if name not in hints:
        raise _unknown_key(node, key, name, hints)
    return hints[name]


def _child(mapping: yaml.MappingNode, name: str, value: yaml.Node) -> yaml.Node:
    for key_node, child in mapping.value:
        if key_node.value == name and child.tag != f"{_TAG}null":
            return child
    child = yaml.MappingNode(f"{_TAG}map", [], value.start_mark, value.end_mark)
    _set(mapping, name, child)
    return child


def _set(mapping: yaml.MappingNode, name: str, value: yaml.Node) -> None:
    for position, (key_node, _) in enumerate(mapping.value):
        if key_node.value == name:
            mapping.value[position] = (key_node, value)
            return
    key_node = yaml.ScalarNode(f"{_TAG}str", name, value.start_mark, value.end_mark)
    mapping.value.append((key_node, value))


# --- from nodes to values -------------------------------------------------------------------------


def _build(node: yaml.Node, schema: Any, key: str) -> Any:
    entries = _entries(node, key)
    hints = _hints(schema)
    rest, others = _dotted(schema), {}
    for name, (key_node, child) in list(entries.items()):
        if name not in hints and rest and "." in name:
            others[name] = _convert(child, get_args(hints[rest])[1], _join(key, name))
            del entries[name]
        elif name not in hints or name == rest:
            raise _unknown_key(key_node, key, name, {k: v for k, v in hints.items() if k != rest})
    missing = [name for name in _required(schema) if name not in entries]
    if missing:
        names = ", ".join(repr(_join(key, name)) for name in missing)
        raise _error(node, "", f"expected the key {names}, found none; add it")
    values = {
        _names(schema)[name]: _convert(child, hints[name], _join(key, name))
        for name, (_, child) in entries.items()
    }
    try:
        return schema(**values, **({rest: others} if rest else {}))
    except InputError as error:  # from the dataclass's own check
        raise _error(node, key, str(error)) from error


def _convert(node: yaml.Node, kind: Any, key: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return None if node.tag == f"{_TAG}null" else _convert(node, _without_none(kind), key)
    if is_dataclass(kind):
        return _build(node, kind, key)
    if origin is Literal:
        return _convert_choice(node, get_args(kind), key)
    if origin is dict:
        value_kind = get_args(kind)[1]
        entries = _entries(node, key).items()
        return {name: _convert(child, value_kind, _join(key, name)) for name, (_, child) in entries}
    if origin in (list, tuple):
        return _convert_sequence(node, kind, key)
    return _convert_anything(node, key) if kind is Any else _convert_scalar(node, kind, key)


def _convert_anything(node: yaml.Node, key: str) -> Any:
    """What JSON can say; its null only inside of something, elsewhere a value was forgotten."""
    if isinstance(node, yaml.MappingNode):
        return _convert(node, dict[str, Any | None], key)
    if isinstance(node, yaml.SequenceNode):
        return _convert(node, list[Any | None], key)
    kind = next((one for one in (bool, int, float) if _reads_as(node, one)), str)
    return _convert_scalar(node, kind, key)


def _convert_sequence(node: yaml.Node, kind: Any, key: str) -> list[Any] | tuple[Any, ...]:
    kinds = get_args(kind)
    if not isinstance(node, yaml.SequenceNode):
        raise _error(node, key, _mismatch("a list", node, advice="write [first, second]"))
    if get_origin(kind) is list or kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(node.value)
    if len(kinds) != len(node.value):
        raise _error(node, key, _mismatch(f"a list of {len(kinds)}", node))
    pairs = enumerate(zip(node.value, kinds, strict=True))
    values = [_convert(child, child_kind, f"{key}[{i}]") for i, (child, child_kind) in pairs]
    return values if get_origin(kind) is list else tuple(values)


def _convert_choice(node: yaml.Node, choices: tuple[Any, ...], key: str) -> Any:
    for choice in choices:
        if _reads_as(node, type(choice)) and _SCALARS[type(choice)][1](node) == choice:
            return choice
    expected = f"one of {', '.join(map(str, choices))}"
    advice = suggest(node.value, map(str, choices)) if isinstance(node, yaml.ScalarNode) else ""
    raise _error(node, key, _mismatch(expected, node, advice=_advice(node, str) or advice))


def _convert_scalar(node: yaml.Node, kind: Any, key: str) -> Any:
    if kind not in _SCALARS:
        raise TypeError(f"{key}: a config field cannot have the type {kind}")
    expected, read = _SCALARS[kind]
    if not _reads_as(node, kind):
        raise _error(node, key, _mismatch(expected, node, advice=_advice(node, kind)))
    return read(node)


def _reads_as(node: yaml.Node, kind: type) -> bool:
    if not isinstance(node, yaml.ScalarNode):
        return False
    if kind in (str, Path):
        return node.tag == f"{_TAG}str"
    if node.style is not None:  # quoted or block text is text
        return False
    if kind is bool:
        return node.value in ("true", "false")
    if kind is int:
        return _INTEGER.fullmatch(node.value) is not None
    return _NUMBER.fullmatch(node.value) is not None and math.isfinite(float(node.value))


# type -> (what an error calls it, how an accepted node becomes a value)
_SCALARS: dict[type, tuple[str, Callable[[yaml.Node], Any]]] = {
    str: ("a text", lambda node: node.value),
    Path: ("a path", lambda node: Path(node.value).expanduser()),
    bool: ("true or false", lambda node: node.value == "true"),
    int: ("a whole number", lambda node: int(node.value)),
    float: ("a number", lambda node: float(node.value)),
}


# --- what errors say ------------------------------------------------------------------------------


def _entries(node: yaml.Node, key: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return name -> (key node, value node) of a mapping, refusing repeated and unquoted keys."""
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, key, _mismatch("a mapping of keys to values", node))
    entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key_node, value in node.value:
        if not _reads_as(key_node, str):
            raise _error(key_node, key, _mismatch("a key", key_node, advice=_advice(key_node, str)))
        if key_node.value in entries:
            first = _where(entries[key_node.value][0])
            raise _error(
                key_node,
                _join(key, key_node.value),
                f"expected the key once, found it at {first} too; remove one",
            )
        entries[key_node.value] = (key_node, value)
    return entries


def _unknown_key(node: yaml.Node, key: str, name: str, known: dict[str, Any]) -> InputError:
    section = f"a key of {key!r}" if key else "a known key"
    return _error(node, "", f"expected {section}, found {name!r}; {suggest(name, known)}")


def _mismatch(expected: str, node: yaml.Node, advice: str = "") -> str:
    return f"expected {expected}, found {_describe(node)}; {advice or 'change it'}"


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    if node.value == "" and node.tag == f"{_TAG}null":
        return "nothing"
    names = {"bool": "the yes-or-no word", "null": "the empty value", "str": "the text"}
    names |= {"int": "the number", "float": "the number", "timestamp": "the date"}
    return f"{names.get(node.tag.removeprefix(_TAG), node.tag)} {node.value!r}"


def _advice(node: yaml.Node, kind: type) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return ""
    if kind in (str, Path) and node.tag != f"{_TAG}str" and node.value:
        return "put it in quotes if it is meant as text"
    if kind in (int, float) and node.style is not None:
        return "remove the quotes if it is meant as a number"
    return ""


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


# --- what the dataclass says ----------------------------------------------------------------------


def _hints(schema: Any) -> dict[str, Any]:
    """Type of each key."""
    hints = get_type_hints(schema)
    return {key: hints[name] for key, name in _names(schema).items()}


def _names(schema: Any) -> dict[str, str]:
    """Field of each key: `class_` is written `class`, which Python would not allow."""
    return {field.name.removesuffix("_"): field.name for field in fields(schema) if field.init}


def _dotted(schema: Any) -> str | None:
    return next((field.name for field in fields(schema) if field.metadata.get(DOTTED)), None)


def _required(schema: Any) -> list[str]:
    return [
        field.name.removesuffix("_")
        for field in fields(schema)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    kinds = [member for member in get_args(kind) if member is not NoneType]
    if len(kinds) != 1:
        raise TypeError(f"a config field can be one type or None, not {kind}")
    return kinds[0]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        rest = _dotted(value)
        plain = {
            key: _plain(getattr(value, name)) for key, name in _names(value).items() if name != rest
        }
        return plain | (_plain(getattr(value, rest)) if rest else {})
    if isinstance(value, dict):
        return {name: _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return str(value) if isinstance(value, Path) else value
