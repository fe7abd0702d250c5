"""Spoken language understanding: intent accuracy on any manifest with intents.

    blsp bench slu CHECKPOINT --manifest test.jsonl
    python -m eval.slu CHECKPOINT --manifest test.jsonl --labels call,play_music,timer

The labels are all intents of the manifests unless named. They stand in the prompt; the answer is
read as free text, and what names no label, or several, is wrong and counted as invalid.
"""

import sys
from collections.abc import Sequence

from blsp.errors import InputError
from blsp.evaluate import build_parser, find_values, load_sets, run_tasks, write_command
from blsp.tasks import Task

INSTRUCTION = (
    "What does the speaker want? Answer with one of these intents and nothing else: "
    "{labels}\n{audio}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_parser("slu", __doc__ or "")
    parser.add_argument("--labels", help="all intents, with commas (default: the manifests')")
    options = parser.parse_args(argv)
    sets = load_sets(options)
    found = find_values(sets, "intent")
    if not found:
        raise InputError(
            f"expected `intent` in the utterances of {', '.join(options.manifest)}, found none; "
            "add it, or score another task"
        )
    labels = tuple(options.labels.split(",")) if options.labels else found
    prompts = options.instruction or [INSTRUCTION]
    task = Task(
        name="intent",
        prompts=tuple(prompt.replace("{labels}", ", ".join(labels)) for prompt in prompts),
        reference="intent",
        metrics=("accuracy", "invalid_rate"),
        labels=labels,
        held_out=options.held_out,
    )
    return run_tasks(options, [task], sets, command=write_command("slu", argv))


if __name__ == "__main__":
    sys.exit(main())
