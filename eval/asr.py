"""Speech recognition: word and character error rate on any manifest with transcripts.

    blsp bench asr CHECKPOINT --manifest test.jsonl
    python -m eval.asr CHECKPOINT --manifest clean=clean.jsonl --manifest noisy=noisy.jsonl
    blsp bench asr CHECKPOINT --corpus librispeech --data data/librispeech

Both sides go through Whisper's normaliser for the language; Chinese and Japanese are scored by
characters. The manifest needs `text`. GigaSpeech is also scored by its authors' normaliser.
"""

import sys
from collections.abc import Sequence

from blsp.evaluate import (
    build_parser,
    choose_prompts,
    find_values,
    load_sets,
    run_tasks,
    write_command,
)
from blsp.tasks import Task, recognition_metrics

INSTRUCTION = "Repeat the following words exactly as they are and write nothing else:\n{audio}"


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_parser("asr", __doc__ or "")
    parser.add_argument("--language", help="of the speech (default: as the manifest says, else en)")
    options = parser.parse_args(argv)
    sets = load_sets(options)
    language = options.language or next(iter(find_values(sets, "language")), "en")
    metrics = options.official.metrics or recognition_metrics(language)
    if find_values(sets, "source") == ("GigaSpeech",) and "gigaspeech_wer" not in metrics:
        metrics = (*metrics, "gigaspeech_wer")
    task = Task(
        name="asr",
        prompts=tuple(choose_prompts(options, INSTRUCTION)),
        reference="text",
        metrics=metrics,
        language=language,
        held_out=options.held_out,
    )
    return run_tasks(options, [task], sets, command=write_command("asr", argv))


if __name__ == "__main__":
    sys.exit(main())
