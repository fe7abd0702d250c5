"""Spoken chat with one right reply: exact match on any manifest that says what to answer.

    blsp bench reply CHECKPOINT --manifest test.jsonl --reference reply
    python -m eval.reply CHECKPOINT --manifest test.jsonl --reference answers.where \\
        --instruction 'Where is it?'

The recording is the whole message unless an instruction is given. `--reference` names the key of a
line, by dots into objects, that holds the right answer.
"""

import sys
from collections.abc import Sequence

from blsp.evaluate import build_parser, load_sets, run_tasks, write_command
from blsp.tasks import Task

INSTRUCTION = "{audio}"


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_parser("reply", __doc__ or "")
    parser.add_argument("--reference", default="reply", help="key of the answer (default reply)")
    parser.add_argument("--language", default="en", help="of the answers (default en)")
    options = parser.parse_args(argv)
    task = Task(
        name=options.reference.rpartition(".")[2],
        prompts=tuple(options.instruction or [INSTRUCTION]),
        reference=options.reference,
        metrics=("exact_match", "chrf"),
        language=options.language,
        held_out=options.held_out,
    )
    return run_tasks(options, [task], load_sets(options), command=write_command("reply", argv))


if __name__ == "__main__":
    sys.exit(main())
