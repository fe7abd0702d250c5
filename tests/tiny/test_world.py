"""The text world: large, split by hash, and with one right answer to every question."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import yaml

from blsp.tiny import world
from blsp.tiny.world import (
    Sentence,
    answer,
    english_words,
    kinds,
    sample_sentence,
    sample_sentences,
    spell_number,
    split_of,
)

FOLDER = Path(world.__file__).parent
GRAMMAR = yaml.safe_load((FOLDER / "grammar.yaml").read_text(encoding="utf-8"))
QUESTIONS = yaml.safe_load((FOLDER / "instructions.yaml").read_text(encoding="utf-8"))
TEMPLATES = [(i, *template) for i, group in GRAMMAR["clauses"].items() for template in group]
SAMPLES = sample_sentences(3, "test", 300)
BY_TEXT = {sentence.text: sentence for sentence in SAMPLES}


def slots_in(template: str) -> list[str]:
    return re.findall(r"<(\w+)>", template)


def fillings() -> dict[str, list[str]]:
    """All English words of each slot, read from the file without the code under test."""
    spelled = [spell_number(number)[0] for number in range(60)]
    hours = spelled[1:13]
    after = ["", *(f" {spelled[n]}" for n in (10, 15, 20, 30, 40, 45, 50))]
    after += [f" {part}" for part in GRAMMAR["day_parts"]]
    table = {
        slot: [word for key in words for word in (words[key] if key == "same" else [key])]
        for slot, words in GRAMMAR["slots"].items()
    }
    table["number"] = spelled[2:]
    table["time"] = [hour + rest for hour in hours for rest in after]
    table["date"] = [f"the {o} of {m}" for o in GRAMMAR["ordinals"] for m in GRAMMAR["months"]]
    return table


def clauses() -> Iterator[str]:
    """Every clause the grammar can make."""
    table = fillings()
    for _, english, *_ in TEMPLATES:
        pieces = re.split(r"<(\w+)>", english)
        for words in product(*(table[slot] for slot in pieces[1::2])):
            yield pieces[0] + "".join(f"{w}{p}" for w, p in zip(words, pieces[2::2], strict=True))


# Size


def test_six_hundred_words_can_be_spoken() -> None:
    assert len(english_words()) >= 600


def test_no_sentence_has_a_word_outside_the_list() -> None:
    spoken = {word for sentence in SAMPLES for word in sentence.text.split()}
    assert spoken <= english_words()


def test_there_are_over_a_million_sentences() -> None:
    """No clause can be made in two ways, so clauses multiply with what may stand before them."""
    made = list(clauses())
    assert len(set(made)) == len(made)
    openings = {english for english, _ in GRAMMAR["openings"]}
    assert len(made) * len(openings) > 1_000_000
    assert len(made) ** 2 * len(openings) * len(GRAMMAR["joints"]) > 1_000_000_000_000


def test_ten_or_more_intents_each_with_several_templates() -> None:
    assert len(GRAMMAR["clauses"]) >= 10
    assert all(len(group) >= 3 for group in GRAMMAR["clauses"].values())


def test_three_of_fifteen_or_more_kinds_are_sealed() -> None:
    assert len(kinds()) >= 15
    assert kinds(sealed=True) == ["what", "last_word", "names_person"]
    assert sorted(kinds(sealed=True) + kinds(sealed=False)) == sorted(kinds())


def test_every_kind_has_several_wordings_and_no_two_share_one() -> None:
    wordings = [wording for kind in kinds() for wording in QUESTIONS["kinds"][kind]]
    assert all(len(QUESTIONS["kinds"][kind]) >= 4 for kind in kinds())
    assert len(set(wordings)) == len(wordings)


# Splits


def test_splits_are_ninety_five_and_five_percent() -> None:
    dealt = [split_of(f"sentence {number}") for number in range(20_000)]
    assert dealt.count("train") / 20_000 == pytest.approx(0.90, abs=0.01)
    assert dealt.count("dev") / 20_000 == pytest.approx(0.05, abs=0.01)
    assert dealt.count("test") / 20_000 == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_sentence_of_a_split_is_there_by_its_hash(split: world.Split) -> None:
    sentences = sample_sentences(5, split, 100)
    assert {split_of(sentence.text) for sentence in sentences} == {split}
    assert len({sentence.text for sentence in sentences}) == 100


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert sample_sentences(3, "test", 300) == SAMPLES
    assert sample_sentences(3, "test", 50) == SAMPLES[:50]
    assert sample_sentences(4, "test", 50) != SAMPLES[:50]


def test_the_rarest_words_come_oftener_where_there_are_candidates() -> None:
    def rare(sentences: list[Sentence]) -> int:
        """How often the tenth of the words that are met least come."""
        met = Counter(word for one in sentences for word in one.text.split())
        return sum(sorted(met[word] for word in english_words())[: len(english_words()) // 10])

    plain = sample_sentences(3, "train", 400)
    chosen = sample_sentences(3, "train", 400, candidates=8)
    assert len({one.text for one in chosen}) == 400
    assert rare(chosen) > 3 * rare(plain)
    assert chosen[:50] == sample_sentences(3, "train", 50, candidates=8)


def test_the_sentences_are_those_that_the_shipped_models_were_trained_and_scored_on() -> None:
    """A change here asks for new weights."""
    assert [sentence.text for sentence in sample_sentences(1, "test", 3)] == [
        "order oranges at the swimming pool",
        "book a train to rotterdam on sunday",
        "okay set a timer for thirty seven minutes and also make the light in the conservatory "
        "turquoise",
    ]


def test_a_quarter_of_the_sentences_are_compound() -> None:
    rng = random.Random(1)
    lengths = [len(sample_sentence(rng, "train").clauses) for _ in range(2000)]
    assert lengths.count(2) / 2000 == pytest.approx(0.25, abs=0.04)
    assert set(lengths) == {1, 2}


# Templates


@pytest.mark.parametrize(("intent", "english", "german", "reply", "sequel"), TEMPLATES)
def test_a_template_uses_its_slots_alike(
    intent: str, english: str, german: str, reply: str, sequel: str
) -> None:
    slots = slots_in(english)
    assert len(set(slots)) == len(slots), "a slot stands once, so that its filler is one"
    assert set(slots) <= {*GRAMMAR["slots"], "number", "time", "date"}
    assert sorted(slots_in(german)) == sorted(slots)
    assert set(slots_in(reply)) <= set(slots)
    assert set(slots_in(sequel)) <= set(slots)


def test_every_slot_is_used_and_every_question_asks_for_slots_there_are() -> None:
    used = {slot for _, english, *_ in TEMPLATES for slot in slots_in(english)}
    asked = [slot for slots in GRAMMAR["asks"].values() for slot in slots]
    assert used == {*GRAMMAR["slots"], "number", "time", "date"}
    assert set(asked) <= used
    assert len(set(asked)) == len(asked)


def test_the_grammar_has_plain_lower_case_words() -> None:
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", sentence.text) for sentence in SAMPLES)


# Answers


@pytest.mark.parametrize(
    ("number", "english", "german"),
    [
        (1, "one", "ein"),
        (7, "seven", "sieben"),
        (12, "twelve", "zwölf"),
        (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"),
        (21, "twenty one", "einundzwanzig"),
        (30, "thirty", "dreißig"),
        (46, "forty six", "sechsundvierzig"),
        (55, "fifty five", "fünfundfünfzig"),
    ],
)
def test_numbers_are_spelled(number: int, english: str, german: str) -> None:
    assert spell_number(number) == (english, german)


ORDER = "okay order raspberries at the harbor"
WAKE = "wake me on monday at six"
TABLES = "book a table for seventeen people at five and also book a table for six people at six ten"
BRING = "please bring the frying pan to roland and also call peter during the weekend"
ANSWERS = {
    "continue": {
        ORDER: "the raspberries are good there",
        WAKE: "i have a long way to go",
        TABLES: "we are all hungry",
        BRING: "i have news for peter",
    },
    "repeat": {ORDER: ORDER, WAKE: WAKE, TABLES: TABLES, BRING: BRING},
    "translate_de": {
        ORDER: "Okay bestelle Himbeeren am Hafen",
        WAKE: "Wecke mich am Montag um sechs Uhr",
        TABLES: "Reserviere um fünf Uhr einen Tisch für siebzehn Personen und auch noch "
        "reserviere um sechs Uhr zehn einen Tisch für sechs Personen",
        BRING: "Bitte bringe Roland die Bratpfanne und auch noch rufe Peter am Wochenende an",
    },
    "intent": {ORDER: "go_shopping", WAKE: "set_alarm", TABLES: "book_trip", BRING: "find_thing"},
    "who": {ORDER: "nobody", WAKE: "nobody", TABLES: "nobody", BRING: "roland and peter"},
    "where": {ORDER: "harbor", WAKE: "nowhere", TABLES: "nowhere", BRING: "nowhere"},
    "when": {
        ORDER: "no time",
        WAKE: "on monday and six",
        TABLES: "five and six ten",
        BRING: "during the weekend",
    },
    "how_many": {
        ORDER: "no number",
        WAKE: "no number",
        TABLES: "seventeen and six",
        BRING: "no number",
    },
    "what": {ORDER: "raspberries", WAKE: "nothing", TABLES: "nothing", BRING: "frying pan"},
    "reply": {
        ORDER: "I ordered raspberries at the harbor.",
        WAKE: "I will wake you on monday at six.",
        TABLES: "A table for seventeen people is booked at five. "
        "A table for six people is booked at six ten.",
        BRING: "Roland will get the frying pan. I will call Peter during the weekend.",
    },
    "first_word": {ORDER: "okay", WAKE: "wake", TABLES: "book", BRING: "please"},
    "last_word": {ORDER: "harbor", WAKE: "six", TABLES: "ten", BRING: "weekend"},
    "reverse": {
        ORDER: "harbor the at raspberries order okay",
        WAKE: "six at monday on me wake",
        TABLES: "ten six at people six for table a book also and five at people seventeen for "
        "table a book",
        BRING: "weekend the during peter call also and roland to pan frying the bring please",
    },
    "count_words": {
        ORDER: "six",
        WAKE: "six",
        TABLES: "more than twelve",
        BRING: "more than twelve",
    },
    "names_person": {ORDER: "no", WAKE: "no", TABLES: "no", BRING: "yes"},
    "slots": {
        ORDER: '{"intent": "go_shopping", "entities": [{"type": "items", "filler": "raspberries"}, '
        '{"type": "place", "filler": "harbor"}]}',
        WAKE: '{"intent": "set_alarm", "entities": [{"type": "day", "filler": "on monday"}, '
        '{"type": "time", "filler": "six"}]}',
        TABLES: '{"intent": "book_trip", "entities": [{"type": "number", "filler": "seventeen"}, '
        '{"type": "time", "filler": "five"}, {"type": "number", "filler": "six"}, '
        '{"type": "time", "filler": "six ten"}]}',
        BRING: '{"intent": "find_thing", "entities": [{"type": "object", "filler": "frying pan"}, '
        '{"type": "name", "filler": "roland"}, {"type": "name", "filler": "peter"}, '
        '{"type": "occasion", "filler": "during the weekend"}]}',
    },
    "emotion": {ORDER: "neutral", WAKE: "neutral", TABLES: "neutral", BRING: "neutral"},
}


def test_every_kind_has_answers_written_by_hand() -> None:
    assert list(ANSWERS) == kinds()


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_answer_is_the_one_written_by_hand(kind: str) -> None:
    assert {text: answer(kind, BY_TEXT[text]) for text in ANSWERS[kind]} == ANSWERS[kind]


@pytest.mark.parametrize(
    ("kind", "emotion", "expected"),
    [
        ("emotion", "sad", "sad"),
        ("continue", "happy", "i have a long way to go and i am so glad"),
        ("reply", "happy", "How wonderful! I will wake you on monday at six."),
        ("continue", "angry", "i have a long way to go and i am sick of it"),
        ("reply", "sad", "I am sorry you feel down. I will wake you on monday at six."),
        ("reply", "fearful", "Do not be afraid. I will wake you on monday at six."),
    ],
)
def test_emotion_changes_reply_and_continuation(kind: str, emotion: str, expected: str) -> None:
    assert answer(kind, BY_TEXT[WAKE], emotion=emotion) == expected


@pytest.mark.parametrize("kind", sorted({*ANSWERS} - {"continue", "reply", "emotion"}))
def test_emotion_changes_no_other_answer(kind: str) -> None:
    answers = {answer(kind, BY_TEXT[BRING], emotion=e) for e in QUESTIONS["emotions"]}
    assert answers == {ANSWERS[kind][BRING]}


def parse(sentence: Sentence) -> dict[str, object]:
    return json.loads(answer("slots", sentence))


def test_slots_are_json_of_what_is_in_the_sentence_in_its_order() -> None:
    for sentence in SAMPLES:
        parsed, rest = parse(sentence), sentence.text
        assert parsed["intent"] == sentence.clauses[0].intent
        entities = parsed["entities"]
        assert isinstance(entities, list)
        assert [(e["type"], e["filler"]) for e in entities] == sentence.fillers
        for entity in entities:
            assert entity["filler"] in rest
            rest = rest.partition(entity["filler"])[2]


def test_no_answer_is_empty_or_has_a_hole() -> None:
    for sentence in SAMPLES:
        for kind in kinds():
            for emotion in QUESTIONS["emotions"]:
                given = answer(kind, sentence, emotion=emotion)
                assert given == given.strip() != ""
                assert "<" not in given
