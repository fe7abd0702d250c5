"""``blsp quickstart``: the embedded tiny world at work, from spoken sentence to answer.

Unseen sentences are spoken by unseen voices, the tiny Whisper transcribes them at their true
length, and the tiny LLM answers about the true transcript (text bound) and about Whisper's
(cascade). These are the two yardsticks a speech model is measured against.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from blsp import __version__
from blsp.errors import InputError
from blsp.files import atomic_path
from blsp.tiny.gates import (
    generate_answers,
    load_tiny_llm,
    load_tiny_whisper,
    variable_length,
)
from blsp.tiny.llm import ask
from blsp.tiny.speech import make_speech, plan_utterances
from blsp.tiny.store import load_store, store_features
from blsp.tiny.whisper import score_words, transcribe
from blsp.tiny.world import Sentence, answer, instructions, sample_sentences

WEIGHTS = Path(__file__).parent / "weights"
SHOWN = ("repeat", "translate_de", "intent", "reply")
SEED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job, print the table, write ``OUT/results.json``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="blsp quickstart", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--count", type=int, default=100, help="spoken sentences (default 100)")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        raise InputError(f"expected --count of at least 1, found {arguments.count}; give more")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    run(arguments.out, count=arguments.count)
    return 0


def run(out: Path, *, count: int) -> None:
    """Speak, transcribe, answer and score ``count`` sentences of the test split."""
    start = time.monotonic()
    sentences = sample_sentences(SEED, "test", count)
    heard, rows = {}, []
    whisper, processor = load_tiny_whisper(WEIGHTS)
    listener = variable_length(whisper)
    for condition, snr_db in (("clean", None), ("5 dB", 5.0)):
        name = f"test-{condition.replace(' ', '')}-{count}"
        print(f"speaking and transcribing {count} unseen sentences, unseen voices, {condition}")
        plans = plan_utterances(SEED, "test", count, snr_db=snr_db)
        store = load_store(make_speech(plans, out / "speech", name))
        texts = transcribe(listener, processor.tokenizer, store_features(store), padding="true")
        heard[condition] = texts
        error = score_words([sentence.text for sentence in sentences], texts)
        rows.append(_row("whisper", "asr", condition, "wer", error, count))
    rows += score_answers(sentences, heard)
    _write(out / "results.json", rows, seconds=time.monotonic() - start)
    _print_table(rows)
    print(f"\nwritten: {out / 'results.json'} ({time.monotonic() - start:.0f} s)")


def score_answers(sentences: list[Sentence], heard: dict[str, list[str]]) -> list[dict]:
    """Exact match of the LLM on the true text and on each transcript; one example is printed."""
    llm, tokenizer = load_tiny_llm(WEIGHTS)
    rows = []
    systems = {("text bound", "clean"): [sentence.text for sentence in sentences]}
    systems |= {("cascade", condition): texts for condition, texts in heard.items()}
    print(f"\nspoken    {sentences[0].text}\nheard     {heard['clean'][0]}")
    for kind in SHOWN:
        wording = random.Random(kind).choice(instructions()["kinds"][kind])
        for (system, condition), texts in systems.items():
            answers = generate_answers(llm, tokenizer, [ask(wording, text) for text in texts])
            pairs = zip(answers, sentences, strict=True)
            right = sum(given == answer(kind, sentence) for given, sentence in pairs)
            rows.append(_row(system, kind, condition, "exact", right / len(texts), len(texts)))
            if (system, condition) == ("cascade", "clean"):
                print(f"{wording:<32} {answers[0]}")
    return rows


def _row(system: str, task: str, condition: str, metric: str, value: float, n: int) -> dict:
    return {
        "system": system,
        "task": task,
        "condition": condition,
        "metric": metric,
        "value": value,
        "n": n,
    }


def _write(path: Path, rows: list[dict], *, seconds: float) -> None:
    result = {
        "rows": rows,
        "command": "blsp quickstart " + " ".join(sys.argv[2:]),
        "versions": {"blsp": __version__},
        "seconds": round(seconds, 1),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _print_table(rows: list[dict]) -> None:
    print(f"\n{'system':<12}{'task':<16}{'condition':<12}{'metric':<8}{'value':>7}{'n':>6}")
    for row in rows:
        print(
            f"{row['system']:<12}{row['task']:<16}{row['condition']:<12}{row['metric']:<8}"
            f"{row['value']:>7.3f}{row['n']:>6}"
        )
