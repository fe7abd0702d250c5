"""The text world: a household-assistant grammar, and what can be asked about its sentences.

A sentence is one or two clauses from ``grammar.yaml``; every question about it, listed in
``instructions.yaml``, has exactly one right answer that follows from how it was made, so exact
match is an honest score.
Train, dev and test are disjoint by a hash of the sentence itself: no list of sentences is kept.
"""

import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

COUNTED = 12
"""Words that are counted exactly; beyond, four layers of attention miscount now and then."""

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = {2: "twenty", 3: "thirty", 4: "forty", 5: "fifty"}
_ONES_DE = ["null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
_TEENS_DE = [
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
_TENS_DE = {2: "zwanzig", 3: "dreißig", 4: "vierzig", 5: "fünfzig"}


@dataclass(frozen=True)
class Clause:
    """One filled clause template."""

    intent: str
    text: str
    german: str
    reply: str
    sequel: str
    """What the speaker says next."""
    fillers: tuple[tuple[str, str], ...]
    """(slot, English words) in the order of the text."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of the world: ``text`` is spoken, everything else is known about it."""

    text: str
    german: str
    clauses: tuple[Clause, ...]

    @property
    def intent(self) -> str:
        """The intent of the first clause: what the speaker wants first."""
        return self.clauses[0].intent

    @property
    def fillers(self) -> list[tuple[str, str]]:
        """(slot, words) of all clauses in spoken order."""
        return [filler for clause in self.clauses for filler in clause.fillers]


@cache
def grammar() -> dict[str, Any]:
    """``grammar.yaml``."""
    return _load("grammar.yaml")


@cache
def instructions() -> dict[str, Any]:
    """``instructions.yaml``."""
    return _load("instructions.yaml")


def _load(name: str) -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))


def kinds(*, sealed: bool | None = None) -> list[str]:
    """Instruction kinds; ``sealed`` keeps just the sealed or just the open ones."""
    hidden = instructions()["sealed"]
    return [
        kind for kind in instructions()["kinds"] if sealed is None or (kind in hidden) == sealed
    ]


def split_of(text: str) -> Split:
    """Split of a sentence by hash: 90 % train, 5 % dev, 5 % test."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 90 else "dev" if bucket < 95 else "test"


def spell_number(number: int) -> tuple[str, str]:
    """English and German words for 1 to 59."""
    tens, ones = divmod(number, 10)
    if tens == 0:
        return _ONES[ones], _ONES_DE[ones]
    if tens == 1:
        return _TEENS[ones], _TEENS_DE[ones]
    if ones == 0:
        return _TENS[tens], _TENS_DE[tens]
    return f"{_TENS[tens]} {_ONES[ones]}", f"{_ONES_DE[ones]}und{_TENS_DE[tens]}"


@cache
def _slot_table(slot: str) -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for english, german in grammar()["slots"][slot].items():
        if english == "same":  # names that are the same word in both languages
            entries += [(word, word.capitalize()) for word in german]
        else:
            entries.append((english, german))
    return entries


def _fill(rng: random.Random, slot: str) -> tuple[str, str]:
    if slot == "number":
        return spell_number(rng.randint(2, 59))
    if slot == "time":
        return _fill_time(rng)
    if slot == "date":
        ordinal, ordinal_de = rng.choice(list(grammar()["ordinals"].items()))
        month, month_de = rng.choice(list(grammar()["months"].items()))
        return f"the {ordinal} of {month}", f"{ordinal_de} {month_de}"
    return rng.choice(_slot_table(slot))


def _fill_time(rng: random.Random) -> tuple[str, str]:
    hour, hour_de = spell_number(rng.randint(1, 12))
    form = rng.randrange(3)
    if form == 0:
        return hour, f"{hour_de} Uhr"
    if form == 1:
        minute, minute_de = spell_number(rng.choice([10, 15, 20, 30, 40, 45, 50]))
        return f"{hour} {minute}", f"{hour_de} Uhr {minute_de}"
    part, part_de = rng.choice(list(grammar()["day_parts"].items()))
    return f"{hour} {part}", f"{hour_de} Uhr {part_de}"


def _replace(template: str, words: dict[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda match: words[match[1]], template)


def _sample_clause(rng: random.Random) -> Clause:
    intent = rng.choice(list(grammar()["clauses"]))
    english, german, reply, sequel = rng.choice(grammar()["clauses"][intent])
    slots = re.findall(r"<(\w+)>", english)
    filled = {slot: _fill(rng, slot) for slot in slots}
    words = {slot: pair[0] for slot, pair in filled.items()}
    named = words | {"name": words["name"].capitalize()} if "name" in words else words
    answer = _replace(reply, named)
    return Clause(
        intent=intent,
        text=_replace(english, words),
        german=_replace(german, {slot: pair[1] for slot, pair in filled.items()}),
        reply=answer[0].upper() + answer[1:],
        sequel=_replace(sequel, words),
        fillers=tuple((slot, words[slot]) for slot in slots),
    )


def sample_sentence(rng: random.Random, split: Split) -> Sentence:
    """A random sentence of ``split``: 75 % one clause, 25 % two."""
    while True:
        opening, opening_de = rng.choice(grammar()["openings"]) if rng.random() < 0.4 else ("", "")
        clauses = (_sample_clause(rng),)
        text, german = clauses[0].text, clauses[0].german
        if rng.random() < 0.25:
            joint, joint_de = rng.choice(grammar()["joints"])
            clauses += (_sample_clause(rng),)
            text = f"{text} {joint} {clauses[1].text}"
            german = f"{german} {joint_de} {clauses[1].german}"
        text, german = f"{opening} {text}".strip(), f"{opening_de} {german}".strip()
        if split_of(text) == split:
            return Sentence(text, german[0].upper() + german[1:], clauses)


def sample_sentences(seed: int, split: Split, count: int, *, candidates: int = 1) -> list[Sentence]:
    """``count`` distinct sentences of ``split``, the same for the same seed.

    Each is the one of so many ``candidates`` whose words were met least so far, so that a small
    set does not leave the rare ones out; it prefers longer sentences, too.
    """
    rng = random.Random(f"sentences {seed} {split}")
    found: dict[str, Sentence] = {}
    met: Counter[str] = Counter()
    while len(found) < count:
        drawn = [sample_sentence(rng, split) for _ in range(candidates)]
        sentence = max(drawn, key=lambda one: _novelty(one, met)) if candidates > 1 else drawn[0]
        if sentence.text not in found:
            found[sentence.text] = sentence
            met.update(sentence.text.split())
    return list(found.values())


def _novelty(sentence: Sentence, met: Mapping[str, int]) -> float:
    """The more, the less its words were met, over the square root of how many they are."""
    words = sentence.text.split()
    return sum(1 / (1 + met[word]) for word in words) / math.sqrt(len(words))


def answer(kind: str, sentence: Sentence, *, emotion: str = "neutral") -> str:
    """The one right answer of ``kind`` about ``sentence`` spoken with ``emotion``."""
    words = sentence.text.split()
    mood = instructions()["emotions"][emotion]
    match kind:
        case "continue":
            return f"{sentence.clauses[-1].sequel} {mood['sequel']}".strip()
        case "repeat":
            return sentence.text
        case "translate_de":
            return sentence.german
        case "intent":
            return sentence.intent
        case "reply":
            replies = " ".join(clause.reply for clause in sentence.clauses)
            return f"{mood['reply']} {replies}".strip()
        case "first_word":
            return words[0]
        case "last_word":
            return words[-1]
        case "reverse":
            return " ".join(reversed(words))
        case "count_words":
            known = len(words) <= COUNTED
            return spell_number(len(words))[0] if known else f"more than {spell_number(COUNTED)[0]}"
        case "names_person":
            return "yes" if _mentioned("who", sentence) else "no"
        case "slots":
            return _slots_json(sentence)
        case "emotion":
            return emotion
    return " and ".join(_mentioned(kind, sentence)) or instructions()["absent"][kind]


def _mentioned(question: str, sentence: Sentence) -> list[str]:
    slots = grammar()["asks"][question]
    return [words for slot, words in sentence.fillers if slot in slots]


def _slots_json(sentence: Sentence) -> str:
    entities = [{"type": slot, "filler": words} for slot, words in sentence.fillers]
    return json.dumps({"intent": sentence.intent, "entities": entities})


def english_words() -> set[str]:
    """Every word that can be spoken in the world."""
    table = grammar()
    phrases = [words for slot in table["slots"] for words, _ in _slot_table(slot)]
    phrases += [*table["months"], *table["ordinals"], *table["day_parts"], "the of"]
    phrases += [spell_number(number)[0] for number in range(1, 60)]
    phrases += [pair[0] for pair in table["openings"] + table["joints"]]
    for templates in table["clauses"].values():
        phrases += [re.sub(r"<\w+>", "", template[0]) for template in templates]
    return {word for phrase in phrases for word in phrase.split()}
