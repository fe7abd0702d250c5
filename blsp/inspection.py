"""One row as a person reads it, and as a language model will.

A manifest row is printed key by key, a conversation turn by turn. With the model's tokenizer both
of its views follow, trained tokens between brackets. A path and an id enter; text leaves.
"""

from pathlib import Path
from typing import Any

from blsp.errors import InputError
from blsp.manifest import (
    AudioPart,
    Conversation,
    Kind,
    TextPart,
    build_conversation,
    build_utterance,
    checked,
    find_kind,
    read_meta,
    scan_rows,
    to_row,
)
from blsp.rendering import CLOSE, IGNORED, OPEN, Rendered, Renderer, View, mark_trained


def describe_row(path: Path, name: str | None, llm: Path | None) -> str:
    """Return one row as text, and both of its views where a language model is given.

    Raises:
        InputError: no such row, a bad row, or a folder without tokenizer or chat template.
    """
    kind = find_kind(path)
    row = _find_row(path, kind, name)
    if kind == "manifest":
        if llm is not None:
            raise InputError(
                f"{path}: expected conversations to show with --llm, found a manifest; leave out "
                "--llm"
            )
        return "\n".join(f"{key:<12}{value}" for key, value in to_row(build_utterance(row)).items())
    conversation = build_conversation(row)
    text = describe_conversation(conversation)
    return f"{text}\n\n{describe_views(conversation, path, llm)}" if llm else text


def _find_row(path: Path, kind: Kind, name: str | None) -> dict[str, Any]:
    count = 0
    for line in scan_rows(path, kind):
        count += 1
        if name is None or line.row.get("id") == name:
            return checked(path, line)
    raise InputError(f"{path}: expected a row with id {name!r}, found none in {count}; check --id")


def describe_conversation(conversation: Conversation) -> str:
    """Return a conversation as a person reads it."""
    row = {key: value for key, value in to_row(conversation).items() if key != "messages"}
    if conversation.tools:
        row["tools"] = " ".join(tool["function"]["name"] for tool in conversation.tools)
    about = [f"{key}: {value}" for key, value in row.items()]
    turns = [
        f"{message.role:<11}" + "".join(map(_describe_part, message.content)).replace("\n", _INDENT)
        for message in conversation.messages
    ]
    return "\n".join([", ".join(about), *turns])


_INDENT = "\n" + " " * 11


def _describe_part(part: TextPart | AudioPart) -> str:
    if isinstance(part, TextPart):
        both = part.teacher is None
        return part.text if both else f"<student: {part.text!r}, teacher: {part.teacher!r}>"
    return f"<audio {part.audio}, {part.duration:.2f} s: {part.transcript}>"


def describe_views(conversation: Conversation, path: Path, llm: Path) -> str:
    """Return the student and the teacher view as text, trained tokens between brackets."""
    tokenizer = _load_tokenizer(llm)
    meta = read_meta(path)
    # Any id that no text can give: the real placeholder is chosen when a model is composed.
    renderer = Renderer(
        tokenizer, meta.template_variables if meta else None, audio_token_id=len(tokenizer)
    )
    views: tuple[View, View] = ("student", "teacher")
    blocks = [
        _describe_view(view, renderer.render(conversation, view=view), tokenizer) for view in views
    ]
    if meta and meta.template and meta.template != renderer.template_fingerprint():
        blocks.append(f"written with another template or model: {meta.llm}")
    return "\n\n".join(blocks)


def _load_tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of a language model, found none; check it")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: expected a tokenizer, found this: {' '.join(str(error).split())[:200]}; "
            "name the folder that holds tokenizer.json"
        ) from error


def _describe_view(view: View, rendered: Rendered, tokenizer: Any) -> str:
    trained = sum(label != IGNORED for label in rendered.labels)
    heard = ", each recording counted as one" if rendered.audio else ""
    head = f"{view}: {len(rendered.ids)} tokens{heard}; {trained} trained, in {OPEN} {CLOSE}"
    recordings = [
        (slot, slot + 1, f"<audio {part.audio}, {part.duration:.2f} s>")
        for slot, part in rendered.audio
    ]
    return f"{head}\n{mark_trained(rendered.ids, rendered.labels, tokenizer, recordings)}"
