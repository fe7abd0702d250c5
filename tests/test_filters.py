"""Answers that would teach the wrong thing are told from right ones, in three languages."""

# ruff: noqa: RUF001  (Chinese has commas of its own)

import pytest

from blsp.filters import describe_filters, find_fault, load_refusals, loops, refuses
from blsp.languages import base_language, find_language, is_other_language

REFUSALS = {
    "en": [
        "I'm sorry, but I can't help with that.",
        "I cannot listen to audio.",
        "As an AI language model, I have no mood.",
        "I'm sorry, but I have no recording.",
        "Well: i\u2019m sorry, but i never heard it.",
        "I'm not sure what you mean.",
        "I\u2019M NOT SURE WHAT YOU WANT",
        "as an ai language model, I am neutral",
    ],
    "de": [
        "Es tut mir leid, das kann ich nicht beantworten.",
        "Tut mir leid, aber ich habe keine Aufnahme.",
        "Ich kann dir dabei leider nicht helfen.",
        "Leider kann ich diese Frage nicht beantworten.",
        "Als KI-Modell habe ich keine Gefühle.",
        "Ich bin nur ein Sprachmodell und höre nichts.",
        "Ich bin mir nicht sicher, was Sie meinen.",
    ],
    "zh": [
        "作为一个人工智能，我没有感情。",
        "很抱歉，我无法听取录音。",
        "我不能帮您完成这个请求。",
        "我只是一个语言模型。",
        "我不太明白您的意思。",
    ],
}
RIGHT = [
    "I am sorry you feel down. The light is on.",
    "I'm sorry, but it is late, and the light is on.",
    "I am not sure what to wear.",
    "She said sorry, but I forgave her.",
    "i can not find my keys",
    "Es tut mir leid, dass du so lange warten musstest.",
    "Leider kann ich heute nicht kommen.",
    "Das Haus gilt als das älteste der Stadt.",
    "对不起，我今天来晚了。",
    "我不能去学校，因为下雨了。",
]


@pytest.mark.parametrize("text", [text for some in REFUSALS.values() for text in some])
def test_a_refusal_is_known_in_each_language(text: str) -> None:
    assert find_fault(text) == "refusal"


def test_every_language_has_its_list() -> None:
    assert load_refusals().refusals.keys() == REFUSALS.keys()


@pytest.mark.parametrize("text", RIGHT)
def test_an_answer_that_regrets_something_is_no_refusal(text: str) -> None:
    assert find_fault(text) is None


def test_repeating_a_speaker_who_refuses_is_right() -> None:
    text = "I'm sorry, but I can't help you with that."
    assert refuses(text) and find_fault(text, transcript=text.lower()) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [(" \n", "empty"), ("<think>\nhm\n</think> yes", "thinking"), ("yes", None)],
)
def test_what_is_empty_or_thinks_aloud_is_left_out(text: str, fault: str | None) -> None:
    assert find_fault(text) == fault


# --- loops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_loop"),
    [
        ("no " * 12, True),
        ("no " * 11, False),
        ("I like tea. " * 4, True),
        ("I like tea. " * 3, False),
        ("Well. I like tea, and I like tea, and I like tea, and i like Tea, and I", True),
        ("one two three four five six seven eight nine ten eleven twelve thirteen", False),
        ("很好" * 6, True),
        ("很好很好", False),
        ("!" * 12, True),
        ("No, no, no, no!", False),
        ("", False),
    ],
)
def test_a_loop_is_the_same_four_times_and_twelve_words_long(text: str, is_loop: bool) -> None:
    assert loops(text) is is_loop


def test_a_loop_is_left_out_unless_the_speaker_makes_it() -> None:
    assert find_fault("no " * 20) == "repeats"
    assert find_fault("No, " * 20, transcript="no " * 20) is None


# --- languages ------------------------------------------------------------------------------------

TEXTS = {
    "en": "The train was late, and they were waiting for it with your brother.",
    "de": "Der Zug war zu spät, und wir haben auf ihn gewartet, aber es war nicht schlimm.",
    "zh": "火车晚点了，我们一直在等。",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_is_known_by_its_common_words_or_its_script(language: str) -> None:
    assert find_language(TEXTS[language]) == language


@pytest.mark.parametrize(
    "text",
    [
        "Berlin",
        "Anna Schmidt, London",
        "yes, it is",
        "Het is een van de oudste huizen van de stad, en we wonen er al jaren.",
        "Il est tard, et les enfants de la maison sont encore dans la rue avec des amis.",
        "Toget var for sent, og vi ventede på det, men det er ikke så slemt.",
        "電車が遅れたので、駅で待っていました。",
        "The German for `and it is not so` is: und es ist nicht so, aber auch das ist nicht alles.",
        "",
    ],
)
def test_what_is_short_mixed_or_foreign_has_no_language(text: str) -> None:
    assert find_language(text) is None


@pytest.mark.parametrize("wanted", TEXTS)
@pytest.mark.parametrize("found", TEXTS)
def test_an_answer_in_another_language_is_left_out(found: str, wanted: str) -> None:
    fault = find_fault(TEXTS[found], language=wanted)
    assert fault == (None if found == wanted else "wrong language")


def test_where_no_language_is_expected_none_is_wrong() -> None:
    assert [find_fault(text) for text in TEXTS.values()] == [None] * 3


@pytest.mark.parametrize(("wanted", "is_wrong"), [("ja", False), ("yue", False), ("en", True)])
def test_han_characters_alone_may_be_of_several_languages(wanted: str, is_wrong: bool) -> None:
    assert is_other_language("我们一直在等火车", wanted) is is_wrong


def test_english_is_no_french() -> None:
    assert is_other_language(TEXTS["en"], "fr")


@pytest.mark.parametrize(
    ("code", "base"),
    [("en-US", "en"), ("zh_cn", "zh"), ("cmn_hans_cn", "zh"), ("DE", "de"), ("", None)],
)
def test_a_language_is_known_by_any_of_its_codes(code: str, base: str | None) -> None:
    assert base_language(code) == base


def test_other_filters_are_another_plan() -> None:
    assert describe_filters("keep") != describe_filters("drop")
