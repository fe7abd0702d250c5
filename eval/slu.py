"""Spoken language understanding: intent accuracy on any manifest with intents.

    blsp bench slu CHECKPOINT --manifest test.jsonl
    python -m eval.slu CHECKPOINT --manifest test.jsonl --labels call,play_music,timer

The labels are all intents of the manifests unless named. They stand in the prompt; the answer is
read as free text, and what names no label, or several, is wrong and counted as invalid.
"""

import sys
from collections.abc import Sequence

from blsp.evaluate import LabelBenchmark, run_labels

BENCHMARK = LabelBenchmark(
    name="slu",
    field="intent",
    instruction=(
        "What does the speaker want? Answer with one of these intents and nothing else: "
        "{labels}\n{audio}"
    ),
    metrics=("accuracy", "invalid_rate"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    return run_labels(BENCHMARK, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
