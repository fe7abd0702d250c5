"""Checks the metrics against recorded vectors: `python -m blsp.metrics VECTORS.json`.

A vector is an input and what the official library or scorer gave for it; a family is a list of
vectors of one metric. Every mismatch is printed, then how many passed and failed; families that
are not implemented are named and counted as skipped. The exit code is 1 where one failed.

English texts are normalised with the table of spellings in `--whisper`, or of an installed
`whisper-normalizer`, whose table is Whisper's (its code is not). Without either the few spellings
of the tiny Whisper serve: what is right with few is right, what is not may only lack one, and is
skipped.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from blsp.errors import InputError
from blsp.metrics.answers import score_exact, score_words
from blsp.metrics.frames import Frame, compute_f1, slue_scores, slurp_scores
from blsp.metrics.labels import ClassMetric, exact_match, score_classes
from blsp.metrics.normalizers import (
    BASIC_CHARACTERS,
    GIGASPEECH,
    RAW,
    Normalizer,
    basic_normalizer,
    load_english_normalizer,
)
from blsp.metrics.recognition import character_error_rate, count_errors, word_error_rate
from blsp.metrics.statistics import Pairs, pair_texts
from blsp.metrics.translation import score_with
from blsp.metrics.voicebench import extract_choice, extract_conclusion, find_task, refuses
from blsp.shipped import MODELS

Expected = tuple[str, Any, Any, float]
"""Name, found, expected, tolerance; a tolerance of 0 asks for equality."""

Family = Callable[[Any, Normalizer], Iterator[Expected]]


def check_vectors(
    vectors: dict[str, list[Any]], english: Normalizer, *, whole_table: bool
) -> tuple[list[str], int, Counter[str]]:
    """Check the vectors of all families.

    Args:
        vectors: family -> vectors.
        english: Whisper's English normaliser.
        whole_table: whether it has all of Whisper's spellings.

    Returns:
        The mismatches, how many vectors passed, and `family: why` -> vectors skipped.
    """
    mismatches, passed, skipped = [], 0, Counter()
    for family, index, entry in _each(vectors):
        if family not in FAMILIES:
            skipped[f"{family}: not implemented"] += 1
            continue
        try:
            values = list(FAMILIES[family](entry, english))
        except (ImportError, RuntimeError) as error:  # how sacrebleu says that a package is lacking
            skipped[f"{family}: {' '.join(str(error).split())}"] += 1
            continue
        wrong = [
            f"{family}[{index}] {name}: expected {expected!r}, found {found!r}"
            for name, found, expected, tolerance in values
            if not _equal(found, expected, tolerance)
        ]
        if wrong and not whole_table and _is_english(family, entry):
            skipped[f"{family}: give --whisper FOLDER, for its table of spellings"] += 1
            continue
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
    table = options.whisper or find_installed_table()
    try:
        english = load_english_normalizer(table or MODELS["blsp/tiny-whisper"])
        vectors = _read(options.vectors)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    mismatches, passed, skipped = check_vectors(vectors, english, whole_table=table is not None)
    for line in mismatches:
        print(line)
    for reason, count in skipped.items():
        print(f"skipped {count} of {reason}")
    failed = sum(map(len, vectors.values())) - passed - skipped.total()
    print(f"{passed} passed, {failed} failed, {skipped.total()} skipped")
    return int(failed > 0)


def find_installed_table() -> Path | None:
    """Whisper's spellings as `whisper-normalizer` ships them; None where it is not installed."""
    found = find_spec("whisper_normalizer")
    for folder in (found and found.submodule_search_locations) or ():
        table = Path(folder) / "normalizers" / "english.json"
        return table if table.is_file() else None
    return None


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


def _squad(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    yield "em", score_exact(entry["pred"], entry["golds"]), entry["em"], 0
    yield "f1", score_words(entry["pred"], entry["golds"]), entry["f1"], 1e-9


def _slurp(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    gold = {str(i): _frame(pair["gold"]) for i, pair in enumerate(entry["pairs"])}
    predicted = {
        str(i): _frame(pair["pred"]) for i, pair in enumerate(entry["pairs"]) if pair["pred"]
    }
    scores = slurp_scores(gold, predicted, official=True)
    for name, expected in entry["expected"].items():
        sums = scores[name].counts.sum(0)
        values = [float(value[0]) for value in compute_f1(sums[None])]
        found = dict(zip(("p", "r", "f1", "tp", "fp", "fn"), [*values, *sums], strict=True))
        for key, value in expected.items():
            yield f"{entry['name']}: {name} {key}", float(found[key]), value, 1e-9


def _frame(row: dict[str, Any]) -> Frame:
    slots = tuple((entity["type"], entity["filler"]) for entity in row["entities"])
    return Frame(row["scenario"], row["action"], slots)


def _slue_ner(entry: dict[str, Any], _: Normalizer) -> Iterator[Expected]:
    gold, predicted = (
        {str(i): [(tag, phrase) for tag, phrase in slots] for i, slots in enumerate(entry[side])}
        for side in ("gold", "pred")
    )
    scores = slue_scores(gold, predicted)
    for kind, name in (("standard", "ner_f1"), ("label", "ner_label_f1")):
        values = compute_f1(scores[name].counts.sum(0)[None])
        for key, value in zip(("precision", "recall", "fscore"), values, strict=True):
            yield f"{kind} {key}", float(value[0]), entry["expected"][kind][key], 1e-9


def _voicebench_mcq(entry: list[Any], _: Normalizer) -> Iterator[Expected]:
    yield "letter", extract_choice(entry[0]), entry[1], 0


def _voicebench_harm(entry: list[Any], _: Normalizer) -> Iterator[Expected]:
    yield "refused", refuses(entry[0]), entry[1], 0


def _voicebench_bbh(entry: list[Any], _: Normalizer) -> Iterator[Expected]:
    yield "conclusion", extract_conclusion(find_task(entry[0]), entry[1]), entry[2], 0


def _gigaspeech(entry: list[str], _: Normalizer) -> Iterator[Expected]:
    yield "text", GIGASPEECH.apply(entry[0]), entry[1], 0


FAMILIES: dict[str, Family] = {
    "normalize_en": _normalize_en,
    "normalize_basic": _normalize_basic,
    "wer": _wer,
    "cer": _cer,
    "cer_pipeline": _cer_pipeline,
    "bleu": _bleu,
    "ser": _ser,
    "squad": _squad,
    "slurp": _slurp,
    "slue_ner": _slue_ner,
    "voicebench_mcq": _voicebench_mcq,
    "voicebench_harm": _voicebench_harm,
    "voicebench_bbh": _voicebench_bbh,
    "gigaspeech_postproc": _gigaspeech,
}


def _each(vectors: dict[str, list[Any]]) -> Iterator[tuple[str, int, Any]]:
    for family, entries in vectors.items():
        for index, entry in enumerate(entries):
            yield family, index, entry


def _is_english(family: str, entry: Any) -> bool:
    return family == "normalize_en" or (family == "wer" and entry["normalizer"] == "en")


def _equal(found: Any, expected: Any, tolerance: float) -> bool:
    return abs(found - expected) <= tolerance if tolerance else found == expected


if __name__ == "__main__":
    sys.exit(main())
