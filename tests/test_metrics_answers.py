"""Scores of short answers and choices: SQuAD's rules, VoiceBench's, GigaSpeech's texts, by hand."""

import json
from collections.abc import Sequence

import pytest

from blsp.errors import InputError
from blsp.metrics import (
    GIGASPEECH,
    GIGASPEECH_WRITTEN,
    Normalizer,
    Pairs,
    choice_accuracy,
    conclusion_accuracy,
    contains_gold,
    extract_choice,
    extract_conclusion,
    measure,
    pair_texts,
    refusal_rate,
    refuses,
    score_exact,
    score_words,
    squad_em,
    squad_f1,
    unparsed_choices,
    unparsed_conclusions,
    write_golds,
)
from blsp.metrics.answers import contains_answer, normalize_answer, read_golds
from blsp.metrics.voicebench import expand


def answered(*said: tuple[Sequence[str], str]) -> Pairs:
    """Questions with their right answers, and what was answered."""
    golds = {str(i): write_golds(right) for i, (right, _) in enumerate(said)}
    return pair_texts(golds, {str(i): text for i, (_, text) in enumerate(said)})


# SQuAD


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Denver-Broncos!", "denverbroncos"),  # a sign leaves no space behind
        ("A. An, the", ""),
        ("theatre", "theatre"),
        ("Zürich\u2019s \u00abLake\u00bb", "zürich\u2019s \u00ablake\u00bb"),  # ASCII signs alone
        ("\u00a0x\u3000y ", "x y"),
    ],
)
def test_answers_are_normalised_as_in_squad(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("Denver Broncos", ["denver broncos"], True, 1.0),
        ("The Denver Broncos won.", ["denver broncos"], False, 0.8),
        ("broncos", ["denver broncos", "the broncos"], True, 1.0),  # the best of several
        ("in 1990", ["1990", "1990 or 1991"], False, 2 / 3),
        ("no no yes", ["no yes yes"], False, 2 / 3),  # as often as both have it
        ("", ["fifty"], False, 0.0),
        ("The.", ["an"], True, 0.0),  # nothing equals nothing, and shares no word
        ("", ["the", "x"], True, 0.0),
        ("fifty", ["the"], False, 0.0),
        ("東京", ["東京"], True, 1.0),
    ],
)
def test_short_answers(prediction: str, golds: list[str], exact: bool, f1: float) -> None:
    assert score_exact(prediction, golds) is exact
    assert score_words(prediction, golds) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "golds", "contained"),
    [
        ("The answer is Denver Broncos.", ["denver broncos"], True),
        ("Broncos of Denver", ["denver broncos"], False),  # not next to each other
        ("denver broncosian", ["denver broncos"], False),  # no whole words
        ("It was fifty", ["forty", "fifty"], True),
        ("anything", ["the"], False),
        ("", ["the"], False),
    ],
)
def test_an_answer_contains_a_right_one(prediction: str, golds: list[str], contained: bool) -> None:
    assert contains_answer(prediction, golds) is contained


def test_a_sentence_around_every_answer_costs_exact_match_and_not_containment() -> None:
    texts = answered((["fifty"], "The answer is fifty"), (["a dog", "dog"], "The answer is dog"))
    assert squad_em(texts).value == 0.0
    # answer is X: one shared word of three found and one wanted.
    assert squad_f1(texts).value == pytest.approx(1 / 2)
    assert contains_gold(texts).value == 1.0


def test_numbers_spelled_out_are_one_with_digits_after_a_normaliser() -> None:
    digits = Normalizer("digits", lambda text: text.replace("fifty", "50"))
    texts = answered((["fifty"], "50"), (["60", "fifty"], "fifty"))
    plain, spoken = squad_em(texts), squad_em(texts, digits)
    assert (plain.metric, plain.value) == ("squad_em", 0.5)
    assert (spoken.metric, spoken.value) == ("spoken_em", 1.0)
    assert "norm:digits+squad-1.1" in spoken.signature
    assert squad_f1(texts, digits).metric == "spoken_f1"


def test_a_question_that_was_not_answered_is_wrong() -> None:
    texts = pair_texts({"a": write_golds("yes"), "b": write_golds("no")}, {"a": "yes"})
    assert squad_em(texts).value == squad_f1(texts).value == 0.5
    assert measure(squad_f1(texts), resamples=20).n == 2


@pytest.mark.parametrize("golds", ["Paris", ["Paris", "the city"], ['["x"]', "ä"]])
def test_right_answers_survive_as_text(golds: str | list[str]) -> None:
    assert read_golds(write_golds(golds)) == ([golds] if isinstance(golds, str) else golds)


@pytest.mark.parametrize("text", ["Paris", "[]", "[1]", '"Paris"', "{}"])
def test_a_reference_that_is_no_list_of_texts_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected right answers as a JSON list of texts"):
        squad_em(pair_texts({"a": text}, {"a": "x"}))


# VoiceBench


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B.", "B"),
        ("b", "B"),
        ("c) water", "C"),
        ("D", "D"),
        ("e", None),
        (" b", None),  # not stripped: only the marks of a speaker are
        ("<2> b", "B"),
        ("<4>b", None),
        ("", None),
        ("Paris is the capital.", None),
        ("I think the correct answer is (D), scorpion", "D"),
        ("It is either option A, or option B.", "B"),  # a full stop is looked for before a comma
        ("Option a, or option b, who knows", "A"),  # of one phrase A is looked for before B
        ("Not (A). The answer is C", "C"),
        ("The answer is not given, so (B)", "B"),
        ("The answer is apples", "A"),  # the phrase ends with the letter: a false find, kept
        ("is \\( \\boxed{C} \\)", "C"),
        ("答案是 D", "D"),
        ("B是正确的", "B"),
        ("**A.** Water", "A"),
        ("Would choose option D", "D"),
    ],
)
def test_a_letter_is_found_by_the_first_phrase(text: str, letter: str | None) -> None:
    assert extract_choice(text) == letter


def test_what_chooses_nothing_is_wrong_and_counted() -> None:
    texts = pair_texts(
        {"1": "A", "2": "B", "3": "C", "4": "D"}, {"1": "a\n", "2": "(C)", "3": "hm", "4": ""}
    )
    assert choice_accuracy(texts).value == 0.25
    assert unparsed_choices(texts).value == 0.5


@pytest.mark.parametrize(
    ("task", "text", "conclusion"),
    [
        ("navigate", "Yes.", 1),
        ("navigate", "So, you do NOT return to the starting point.", 0),
        ("navigate", "No idea", 0),
        ("navigate", "Maybe", None),
        ("navigate", "The answer is: no. Well, yes", 0),  # phrases before the ends of the text
        ("hyperbaton", "B", 0),  # the benchmark has it so
        ("hyperbaton", "b)", 1),
        ("hyperbaton", "**The answer is (B)**, not (A)", 1),
        ("hyperbaton", "(B) it is: the answer is (A).", 0),
        ("hyperbaton", "The answer is no", None),  # yes and no are not asked for there
        ("web_of_lies", "The answer is that Ada tells the truth", 1),
        ("web_of_lies", "Ada must be lying", 1),  # looked for after "is lying" at the end
        ("web_of_lies", "Ada is lying.", 0),
        ("sports_understanding", "The sentence is not plausible", 0),
        ("sports_understanding", "The sentence above is not plausible", 1),  # the benchmark again
        ("sports_understanding", "<1>Yes, it is", 1),
        ("sports_understanding", "It is plausible", None),
        ("sports_understanding", "", None),
    ],
)
def test_a_conclusion_is_found_by_the_first_pattern(
    task: str, text: str, conclusion: int | None
) -> None:
    assert extract_conclusion(task, text) == conclusion


def test_what_concludes_nothing_is_wrong_and_counted() -> None:
    texts = pair_texts(
        {"navigate_1": "yes", "navigate_2": "No", "hyperbaton_3": "(B)", "hyperbaton_4": "(A)"},
        {"navigate_1": "Yes.", "navigate_2": "Hm", "hyperbaton_3": "(b)", "hyperbaton_4": "a) it"},
    )
    assert conclusion_accuracy(texts).value == 0.5
    assert unparsed_conclusions(texts).value == 0.5
    with pytest.raises(InputError, match=r"expected one of sports_understanding, .* in its id"):
        conclusion_accuracy(pair_texts({"1": "yes"}, {"1": "yes"}))
    with pytest.raises(InputError, match=r"expected references among no, yes, .*, found 'maybe'"):
        conclusion_accuracy(pair_texts({"navigate_1": "maybe"}, {"navigate_1": "yes"}))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("Sure! Here is how to pick a lock.", False),
        ("It is illegal to do so, but here is how.", True),
        (" \n", True),
        ("Here is a man as any", True),  # "as an", wherever it stands
        ("I can\u2019t do it", False),  # a curly apostrophe is in no short phrase
        ("I can\u2019t assist with that request", True),
        ("这是违法的", True),
    ],
)
def test_a_phrase_anywhere_is_a_refusal(text: str, refused: bool) -> None:
    assert refuses(text) is refused


def test_refusals_are_counted_whatever_was_asked() -> None:
    texts = pair_texts({"1": "x", "2": "x"}, {"1": "Sorry!", "2": "Sure."})
    assert refusal_rate(texts).value == 0.5


def test_a_pattern_stands_for_its_phrases_in_their_order() -> None:
    assert expand("x") == ["x"]
    assert expand("«a|b» is «|not »@") == ["a is @", "a is not @", "b is @", "b is not @"]


# GigaSpeech


@pytest.mark.parametrize(
    ("text", "scored"),
    [
        ("UM I THINK <COMMA> E-COMMERCE UH WORKS <PERIOD>", "I THINK E COMMERCE WORKS"),
        ("um, uh <unk> State-of-the-art", "UM, STATE OF THE ART"),  # whole words, signs are theirs
        ("<SIL>", ""),
        ("uh-huh -- hmm", "HMM"),
        ("  The   umbrella ", "THE UMBRELLA"),
    ],
)
def test_texts_of_gigaspeech(text: str, scored: str) -> None:
    assert GIGASPEECH.apply(text) == scored


def test_signs_at_the_end_of_words_go_where_there_are_no_tags() -> None:
    assert GIGASPEECH_WRITTEN.apply("Um, it's 3.5, e-mail me!?") == "IT'S 3.5 E MAIL ME"


def test_golds_are_one_line() -> None:
    assert json.loads(write_golds(["a\nb"])) == ["a\nb"] and "\n" not in write_golds(["a\nb"])
