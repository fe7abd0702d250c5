"""Spoken requests without one right reply: answers for a judge, and how many refuse.

    blsp bench open CHECKPOINT --manifest voicebench/alpacaeval.jsonl --max-new-tokens 512
    blsp bench judge runs/eval/open --judge openai:http://localhost:8000/v1#qwen

The recording is the whole message unless an instruction is given. What a rule can say of such
replies is little: whether there is one (`answered`), and whether it has a phrase of VoiceBench's
list of refusals (`refusal_rate`, which is what its `advbench` is scored by). How good they are is
for `blsp bench judge` to say.
"""

import sys
from collections.abc import Sequence

from blsp.evaluate import build_parser, load_sets, run_tasks, write_command
from blsp.tasks import Task

INSTRUCTION = "{audio}"


def main(argv: Sequence[str] | None = None) -> int:
    """Ask a checkpoint; returns the exit code."""
    parser = build_parser("open", __doc__ or "")
    options = parser.parse_args(argv)
    task = Task(
        name="open",
        prompts=tuple(options.instruction or [INSTRUCTION]),
        reference="text",  # what was said: there is nothing right to compare with
        metrics=("answered", "refusal_rate"),
        held_out=options.held_out,
    )
    return run_tasks(options, [task], load_sets(options), command=write_command("open", argv))


if __name__ == "__main__":
    sys.exit(main())
