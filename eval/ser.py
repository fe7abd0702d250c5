"""Speech emotion recognition: emotion accuracy on any manifest with emotions.

    blsp bench ser CHECKPOINT --manifest test.jsonl
    python -m eval.ser CHECKPOINT --manifest test.jsonl --labels neutral,happy,sad,angry

`unweighted_accuracy` is the mean, over the emotions, of the share of each that is named (UA);
`accuracy` the share of all (WA); papers swap the names. The labels are all emotions of the
manifests unless named. The question is BLSP-Emo's; what names no label, or several, is wrong and
counted as invalid.
"""

import sys
from collections.abc import Sequence

from blsp.errors import InputError
from blsp.evaluate import VOICED, build_parser, find_values, load_sets, run_tasks, write_command
from blsp.tasks import Task

INSTRUCTION = (
    "Please identify the emotion tone of the speech provided below. Select from the following "
    "options: {labels}.\n\nSpeech:\n{audio}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_parser("ser", __doc__ or "", systems=VOICED)
    parser.add_argument("--labels", help="all emotions, with commas (default: the manifests')")
    options = parser.parse_args(argv)
    sets = load_sets(options)
    found = find_values(sets, "emotion")
    if not found:
        raise InputError(
            f"expected `emotion` in the utterances of {', '.join(options.manifest)}, found none; "
            "add it, or score another task"
        )
    labels = tuple(options.labels.split(",")) if options.labels else found
    prompts = options.instruction or [INSTRUCTION]
    task = Task(
        name="emotion",
        prompts=tuple(prompt.replace("{labels}", ", ".join(labels)) for prompt in prompts),
        reference="emotion",
        metrics=("accuracy", "unweighted_accuracy", "invalid_rate"),
        labels=labels,
        held_out=options.held_out,
    )
    return run_tasks(options, [task], sets, command=write_command("ser", argv))


if __name__ == "__main__":
    sys.exit(main())
