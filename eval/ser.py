"""Speech emotion recognition: emotion accuracy on any manifest with emotions.

    blsp bench ser CHECKPOINT --manifest test.jsonl
    python -m eval.ser CHECKPOINT --manifest test.jsonl --labels neutral,happy,sad,angry
    blsp bench ser CHECKPOINT --corpus iemocap --data data/iemocap

`unweighted_accuracy` is the mean, over the emotions, of the share of each that is named (UA);
`accuracy` the share of all (WA); papers swap the names. The labels are those of the corpus that is
named, else all emotions of the manifests. The question is BLSP-Emo's; what names no label, or
several, is wrong and counted as invalid.
"""

import sys
from collections.abc import Sequence

from blsp.evaluate import VOICED, LabelBenchmark, run_labels

BENCHMARK = LabelBenchmark(
    name="ser",
    field="emotion",
    instruction=(
        "Please identify the emotion tone of the speech provided below. Select from the following "
        "options: {labels}.\n\nSpeech:\n{audio}"
    ),
    metrics=("accuracy", "unweighted_accuracy", "invalid_rate"),
    systems=VOICED,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    return run_labels(BENCHMARK, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
