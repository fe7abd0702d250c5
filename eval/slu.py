"""Spoken language understanding: intents, and with `--slots` entities, on any manifest with them.

    blsp bench slu CHECKPOINT --manifest test.jsonl
    python -m eval.slu CHECKPOINT --manifest test.jsonl --labels call,play_music,timer
    blsp bench slu CHECKPOINT --corpus slurp --data data/slurp --slots --max-new-tokens 256

The labels are those of the corpus that is named, else all intents of the manifests. They stand in
the prompt; the answer is read as free text, and what names no label, or several, is wrong and
counted as invalid.

With `--slots` the answer is one JSON object, `{"intent": "...", "entities": [{"type": "...",
"filler": "..."}]}`, scored by SLURP-F1, F1 of equal slots and accuracy of the intent. Where there
are entities and no intents (SLUE), it is scored as SLUE does. What is no such object has found
nothing and is counted as invalid.
"""

import argparse
import sys
from collections.abc import Sequence

from blsp.errors import InputError
from blsp.evaluate import (
    LabelBenchmark,
    build_label_parser,
    build_label_task,
    choose_prompts,
    collect_labels,
    find_values,
    load_sets,
    run_tasks,
    write_command,
)
from blsp.manifest import Entity
from blsp.official import Corpus, read_whole
from blsp.tasks import MetricName, Task
from blsp.testsets import TestSet

BENCHMARK = LabelBenchmark(
    name="slu",
    field="intent",
    instruction=(
        "What does the speaker want? Answer with one of these intents and nothing else: "
        "{labels}\n{audio}"
    ),
    metrics=("accuracy", "invalid_rate"),
)

SLOTS = "--slots"
SLOT_INSTRUCTION = (
    "What does the speaker want? Answer with one JSON object and nothing else: "
    '{"intent": INTENT, "entities": [{"type": TYPE, "filler": WORDS}, ...]}, where WORDS are the '
    "speaker's own, and entities is [] if there are none.\nIntents: {labels}\nTypes: {types}\n"
    "{audio}"
)
SLOT_METRICS: tuple[MetricName, ...] = (
    "intent_accuracy",
    "slurp_f1",
    "slot_f1",
    "invalid_frames",
)
NAME_INSTRUCTION = (
    "What does the speaker name? Answer with one JSON object and nothing else: "
    '{"entities": [{"type": TYPE, "filler": WORDS}, ...]}, where WORDS are the speaker\'s own, and '
    "entities is [] if nothing is named.\nTypes: {types}\n{audio}"
)
NAME_METRICS: tuple[MetricName, ...] = ("ner_f1", "ner_label_f1", "invalid_frames")


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_label_parser(BENCHMARK, __doc__ or "")
    parser.add_argument(SLOTS, action="store_true", help="ask for entities too, as JSON")
    options = parser.parse_args(argv)
    sets = load_sets(options)
    if options.slots or options.official.slots:
        task = build_slot_task(options, sets)
    else:
        task = build_label_task(BENCHMARK, options, sets)
    return run_tasks(options, [task], sets, command=write_command("slu", argv))


def build_slot_task(options: argparse.Namespace, sets: Sequence[TestSet]) -> Task:
    """Return the task of intents and entities, or of entities alone where there are no intents.

    Raises:
        InputError: no utterance has an entity.
    """
    entities = [each for one in sets for row in one.utterances for each in row.entities]
    if not entities:
        raise InputError(
            f"expected `entities` in the utterances of {', '.join(options.manifest)}, found none; "
            f"add them, or leave out {SLOTS}"
        )
    official: Corpus = options.official
    intents = find_values(sets, "intent")
    labels = collect_labels(options, sets, "intent") if intents else ()
    kinds = official.types or _collect_types(options, entities)
    metrics = SLOT_METRICS if intents else NAME_METRICS
    prompts = choose_prompts(options, SLOT_INSTRUCTION if intents else NAME_INSTRUCTION)
    return Task(
        name="slots",
        prompts=tuple(
            prompt.replace("{labels}", ", ".join(labels)).replace("{types}", ", ".join(kinds))
            for prompt in prompts
        ),
        reference="entities",
        metrics=official.metrics if official.slots else metrics,
        held_out=options.held_out,
    )


def _collect_types(options: argparse.Namespace, entities: Sequence[Entity]) -> list[str]:
    """Types of some entities, and of those of the whole corpus where one is named."""
    whole = read_whole(options.official, options.data) if options.data else []
    everywhere = [*entities, *(each for one in whole for each in one.entities)]
    return sorted({each.type for each in everywhere})


if __name__ == "__main__":
    sys.exit(main())
