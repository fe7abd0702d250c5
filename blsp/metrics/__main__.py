"""Checks the metrics against recorded vectors: `python -m blsp.metrics VECTORS.json`.

A vector is an input and what the official library or scorer gave for it; a family is a list of
vectors of one metric. Every mismatch is printed, then how many passed and failed; families that
are not implemented are named and counted as skipped. The exit code is 1 where one failed.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from blsp.errors import InputError
from blsp.metrics.labels import ClassMetric, exact_match, score_classes
from blsp.metrics.normalizers import (
    BASIC_CHARACTERS,
    RAW,
    Normalizer,
    basic_normalizer,
    load_english_normalizer,
)
from blsp.metrics.recognition import character_error_rate, count_errors, word_error_rate
from blsp.metrics.statistics import Pairs, pair_texts
from blsp.metrics.translation import score_with

Expected = tuple[str, Any, Any, float]
"""Name, found, expected, tolerance; a tolerance of 0 asks for equality."""

Family = Callable[[Any, Normalizer], Iterator[Expected]]


def check_vectors(
    vectors: dict[str, list[Any]], english: Normalizer | None
) -> tuple[list[str], int, Counter[str]]:
    """Return the mismatches, how many vectors passed, and `family: why` -> vectors skipped."""
    mismatches, passed, skipped = [], 0, Counter()
    for family, index, entry in _each(vectors):
        if why := _cannot_check(family, entry, english):
            skipped[f"{family}: {why}"] += 1
            continue
        try:
            values = list(FAMILIES[family](entry, english or RAW))
        except (ImportError, RuntimeError) as error:  # how sacrebleu says that a package is lacking
            skipped[f"{family}: {' '.join(str(error).split())}"] += 1
            continue
        wrong = [
            f"{family}[{index}] {name}: expected {expected!r}, found {found!r}"
            for name, found, expected, tolerance in values
            if not _equal(found, expected, tolerance)
        ]
        mismatches += wrong
        passed += not wrong
    return mismatches, passed, skipped


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blsp.metrics", description=__doc__)
    parser.add_argument("vectors", type=Path, help="JSON file, family -> list of vectors")
    parser.add_argument(
        "--whisper", type=Path, help="Whisper checkpoint folder, for its table of English spellings"
    )
    options = parser.parse_args(arguments)
    try:
        english = load_english_normalizer(options.whisper) if options.whisper else None
        vectors = _read(options.vectors)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    mismatches, passed, skipped = check_vectors(vectors, english)
    for line in mismatches:
        print(line)
    for reason, count in skipped.items():
        print(f"skipped {count} of {reason}")
    failed = sum(map(len, vectors.values())) - passed - skipped.total()
    print(f"{passed} passed, {failed} failed, {skipped.total()} skipped")
    return int(failed > 0)


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        vectors = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"expected a JSON file of vectors at {path}, found: {error}") from None
    if not isinstance(vectors, dict):
        raise InputError(f"expected family -> vectors in {path}, found {type(vectors).__name__}")
    return {family: entries for family, entries in vectors.items() if family != "_meta"}


def _pairs(entry: dict[str, Any]) -> Pairs:
    references = {str(index): text for index, text in enumerate(entry["refs"])}
    return pair_texts(references, {str(index): text for index, text in enumerate(entry["hyps"])})


def _normalize_en(entry: list[str], english: Normalizer) -> Iterator[Expected]:
    yield "text", english.apply(entry[0]), entry[1], 0


def _normalize_basic(entry: list[str], _: Normalizer) -> Iterator[Expected]:
    yield "text", basic_normalizer(entry[0]), entry[1], 0


def _wer(entry: dict[str, Any], english: Normalizer) -> Iterator[Expected]:
    basic = Normalizer("whisper-basic-unstripped", basic_normalizer)
    normalizer = {None: RAW, "en": english, "basic": basic}[entry["normalizer"]]
    statistics = word_error_rate(_pairs(entry).normalized(normalizer))
    yield "wer", statistics.value, entry["wer"], 1e-9
    yield "counts", count_errors(statistics), {name: entry[name] for name in "SDIH"}, 0


def _cer(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    statistics = character_error_rate(_pairs(entry))
    yield "cer", statistics.value, entry["cer"], 1e-9
    yield "counts", count_errors(statistics), {name: entry[name] for name in "SDIH"}, 0


def _cer_pipeline(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    pairs = pair_texts({"0": entry["ref"]}, {"0": entry["hyp"]}).normalized(BASIC_CHARACTERS)
    yield "reference", pairs.references[0], entry["ref_norm"], 0
    yield "prediction", pairs.predictions[0], entry["hyp_norm"], 0
    yield "cer", character_error_rate(pairs).value, entry["cer"], 1e-9


def _bleu(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    pairs = _pairs(entry)
    statistics = score_with("bleu", pairs, BLEU(**entry["args"]))
    yield "bleu", 100 * statistics.value, entry["bleu"], 1e-6
    yield "signature", statistics.signature, entry["signature"], 0
    found, wanted = statistics.counts.sum(0)[:2]  # tokens
    brevity = min(1.0, math.exp(1 - wanted / found)) if found else 0.0
    yield "bp", brevity, entry["bp"], 1e-6
    for name, order in (("chrf", 0), ("chrfpp", 2)):
        value = score_with(name, pairs, CHRF(word_order=order)).value
        yield name, 100 * value, entry[name], 1e-6


def _ser(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    pairs = _pairs(entry | {"hyps": entry["preds"]})
    yield "wa", exact_match(pairs).value, entry["wa"], 1e-9
    names: dict[str, ClassMetric] = {
        "ua": "unweighted_accuracy",
        "macro_f1": "macro_f1",
        "weighted_f1": "weighted_f1",
    }
    for name, metric in names.items():
        yield name, score_classes(metric, pairs, pairs.predictions, "").value, entry[name], 1e-9


FAMILIES: dict[str, Family] = {
    "normalize_en": _normalize_en,
    "normalize_basic": _normalize_basic,
    "wer": _wer,
    "cer": _cer,
    "cer_pipeline": _cer_pipeline,
    "bleu": _bleu,
    "ser": _ser,
}


def _each(vectors: dict[str, list[Any]]) -> Iterator[tuple[str, int, Any]]:
    for family, entries in vectors.items():
        for index, entry in enumerate(entries):
            yield family, index, entry


def _cannot_check(family: str, entry: Any, english: Normalizer | None) -> str:
    if family not in FAMILIES:
        return "not implemented"
    needs = family == "normalize_en" or (family == "wer" and entry["normalizer"] == "en")
    return "give --whisper FOLDER" if needs and english is None else ""


def _equal(found: Any, expected: Any, tolerance: float) -> bool:
    return abs(found - expected) <= tolerance if tolerance else found == expected


if __name__ == "__main__":
    sys.exit(main())
