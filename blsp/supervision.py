"""Right answers for training: a manifest that knows them becomes conversations.

Behaviour alignment needs none: the language model's own answers are its targets. A task that it
cannot do from the words alone (your intents, your spelling) is taught by answers that people wrote,
asked with the very prompts that will be asked in use. A manifest, a field of it and prompts enter;
conversations leave, which `data.foreign: true` lets into training, since no model wrote them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from blsp.errors import InputError
from blsp.manifest import (
    Conversation,
    Message,
    Meta,
    TextPart,
    Utterance,
    read_manifest,
    relative_root,
    write_rows,
)
from blsp.prompts import AUDIO_PLACE
from blsp.tasks import Task, build_messages

LABELS = "{labels}"
"""In a prompt: all answers there are."""


def write_answers(
    manifest: Path, out: Path, *, answer: str, prompts: Sequence[str], command: str
) -> Counter[str]:
    """Write a conversation for each utterance that has the answer.

    Args:
        manifest: of the recordings.
        out: conversations to write.
        answer: where the answer stands in the manifest's line: `text`, `intent`, `translation.de`.
        prompts: what is asked, `{audio}` on a line of its own and `{labels}` for all answers; of
            several each utterance gets one by its id.
        command: for the side file.

    Returns:
        How many were `written`, and how many had no answer.

    Raises:
        InputError: no utterance has it, a bad line, or a prompt that places no recording.
    """
    utterances = list(read_manifest(manifest))
    known = Task(name=answer, prompts=(AUDIO_PLACE,), reference=answer, metrics=("exact_match",))
    found = {one.id: known.reference_of(one) for one in utterances}
    labels = sorted({value for value in found.values() if value})
    if not labels:
        raise InputError(
            f"{manifest}: expected utterances with {answer!r}, found none among "
            f"{len(utterances)}; `blsp data show {manifest}` prints what they have"
        )
    asked = tuple(prompt.replace(LABELS, ", ".join(labels)) for prompt in prompts)
    task = Task(name=answer, prompts=asked, reference=answer, metrics=("exact_match",))
    root = relative_root(manifest, out)
    written = write_rows(out, _build(utterances, task), Meta(command=command, root=root))
    return Counter({"written": written, "without an answer": len(utterances) - written})


def _build(utterances: Sequence[Utterance], task: Task) -> Iterator[Conversation]:
    for utterance in utterances:
        right = task.reference_of(utterance)
        if right is None:
            continue
        prompt = task.prompt_for(utterance.id)
        reply = Message(role="assistant", content=(TextPart(text=right),))
        yield Conversation(
            id=f"{utterance.id}/{task.name}",
            messages=(*build_messages(prompt, utterance, utterance.text or ""), reply),
            finish_reason="stop",
            kind=task.name,
            license=utterance.license,
            source=utterance.source,
        )
