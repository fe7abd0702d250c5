"""Metrics: numbers worked out by hand, and the libraries' own totals as an oracle."""

import json
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import jiwer
import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from blsp.errors import InputError
from blsp.metrics import (
    BASIC,
    BASIC_CHARACTERS,
    Normalizer,
    Pairs,
    Statistics,
    bleu,
    bleu_tokenizer,
    build_normalizer,
    character_error_rate,
    chrf,
    compare,
    count_errors,
    distinct_replies,
    drop_empty_references,
    exact_match,
    fitting_replies,
    invalid_rate,
    label_accuracy,
    load_english_normalizer,
    measure,
    pair_texts,
    parse_label,
    score_classes,
    unweighted_accuracy,
    wilson_interval,
    word_error_rate,
)
from blsp.metrics.__main__ import main


def pairs(references: Sequence[str], predictions: Sequence[str]) -> Pairs:
    """Numbered utterances."""
    numbered = {str(index): text for index, text in enumerate(predictions)}
    return pair_texts({str(index): text for index, text in enumerate(references)}, numbered)


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    """A checkpoint folder with a table of one spelling."""
    (tmp_path / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    return tmp_path


# Joining


def test_texts_are_joined_by_id_and_a_missing_prediction_is_empty() -> None:
    found = pair_texts({"a": "one", "b": "two", "c": "three"}, {"c": "3", "a": "1"})
    assert found.predictions == ("1", "", "3")
    assert (found.missing, len(found)) == (1, 3)


def test_a_prediction_of_another_manifest_is_refused() -> None:
    with pytest.raises(InputError, match=r"found 1 others \(the first is 'x'\)"):
        pair_texts({"a": "one"}, {"a": "1", "x": "2"})


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(InputError, match="at least one reference"):
        pair_texts({}, {})
    with pytest.raises(InputError, match="found none in 1 after normaliser 'whisper-basic'"):
        drop_empty_references(pairs(["[noise]"], ["oh"]).normalized(BASIC))


def test_references_without_words_are_dropped_after_normalising() -> None:
    kept = drop_empty_references(pairs(["[noise]", "yes"], ["oh", "yes"]).normalized(BASIC))
    assert (kept.ids, kept.references, kept.predictions) == (("1",), ("yes",), ("yes",))


# Normalisers


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("My colour", "my color"),
        ("Three hundred and five euros", "€305"),
        ("um, it's [laughs] fine", "it is fine"),
        ("", ""),
    ],
)
def test_english_texts(whisper: Path, text: str, normalized: str) -> None:
    assert load_english_normalizer(whisper).apply(text) == normalized


def test_a_curly_apostrophe_is_one_where_transcripts_are_scored(whisper: Path) -> None:
    curly = "it\N{RIGHT SINGLE QUOTATION MARK}s"
    assert load_english_normalizer(whisper).apply(curly) == "it s"
    assert build_normalizer("en-GB", whisper).apply(curly) == "it is"


def test_the_name_of_a_normaliser_says_how_large_its_table_is(whisper: Path) -> None:
    assert build_normalizer("en", whisper).name == "whisper-en-1+straight-quotes"


@pytest.mark.parametrize(
    ("language", "text", "normalized"),
    [("de", " Hallo, Welt! (lacht)", "hallo welt"), ("zh", "你好, 世 界!", "你好世界")],
)
def test_other_languages(tmp_path: Path, language: str, text: str, normalized: str) -> None:
    assert build_normalizer(language, tmp_path).apply(text) == normalized


def test_a_script_that_would_lose_its_vowels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 'hi', whose vowel signs it deletes"):
        build_normalizer("hi", tmp_path)


def test_a_whisper_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no file .*normalizer\.json; name a Whisper"):
        load_english_normalizer(tmp_path)
    (tmp_path / "normalizer.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON in"):
        load_english_normalizer(tmp_path)
    (tmp_path / "normalizer.json").write_text("[]")
    with pytest.raises(InputError, match=r"expected an object of spellings in .*found list"):
        load_english_normalizer(tmp_path)


# Error rates


@pytest.mark.parametrize(
    ("references", "predictions", "errors", "rate"),
    [
        (["a b c d"], ["a x c"], (1, 1, 0, 2), 2 / 4),
        (["a b", "c"], ["a b", "c d e"], (0, 0, 2, 3), 2 / 3),
        (["a"], ["b c d"], (1, 0, 2, 0), 3.0),  # over 1
        (["a b", ""], ["a b", "x"], (0, 0, 1, 2), 1 / 2),  # words against an empty reference
        ([""], ["x y"], (0, 0, 2, 0), 2.0),
        (["", "a"], ["", ""], (0, 1, 0, 0), 1.0),
        ([" a  b "], ["a b"], (0, 0, 0, 2), 0.0),
    ],
)
def test_word_errors(
    references: list[str], predictions: list[str], errors: tuple[int, ...], rate: float
) -> None:
    found = word_error_rate(pairs(references, predictions))
    assert tuple(count_errors(found).values()) == errors
    assert found.value == pytest.approx(rate)


def test_the_error_rate_of_a_corpus_is_no_mean_of_rates() -> None:
    # 1 of 1 wrong and 0 of 9 wrong: a tenth of all words, not half.
    found = word_error_rate(pairs(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]))
    assert found.value == pytest.approx(0.1)


def sentences(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices("abcde", k=draw.randint(0, 9))) for _ in range(count)]


def test_summed_rows_equal_the_total_of_the_library() -> None:
    references, predictions = sentences(1, 80), sentences(2, 80)
    whole = jiwer.process_words(references, predictions)
    found = word_error_rate(pairs(references, predictions))
    assert found.value == pytest.approx(whole.wer)
    assert list(count_errors(found).values()) == [
        whole.substitutions,
        whole.deletions,
        whole.insertions,
        whole.hits,
    ]


def test_characters_count_inner_spaces_unless_they_are_normalised_away() -> None:
    spoken = pairs(["我 喜欢 茶"], ["我喜欢茶"])
    assert character_error_rate(spoken).value == pytest.approx(2 / 6)
    assert character_error_rate(spoken.normalized(BASIC_CHARACTERS)).value == 0.0


def test_the_signature_says_what_texts_went_through() -> None:
    found = word_error_rate(pairs(["A"], ["a"]).normalized(BASIC))
    assert found.signature == f"norm:whisper-basic|jiwer:{version('jiwer')}"


# Translation

GERMAN = pairs(
    ["Der Zug kommt heute sehr spät an.", "Ich trinke gerne Tee ohne Zucker."],
    ["Der Zug kommt heute spät an.", "Ich trinke gern Tee ohne Zucker."],
)
CHINESE = pairs(["火车今天来得很晚。"], ["火车今天来得晚。"])


@pytest.mark.parametrize(("texts", "language"), [(GERMAN, "de"), (CHINESE, "zh-CN")])
def test_translation_scores_equal_the_library(texts: Pairs, language: str) -> None:
    predictions, references = texts.predictions, [texts.references]
    theirs = BLEU(trg_lang=language[:2]).corpus_score(predictions, references)
    assert 100 * bleu(texts, language).value == pytest.approx(theirs.score, abs=1e-9)
    for order in (0, 2):
        theirs = CHRF(word_order=order).corpus_score(predictions, references)
        found = chrf(texts, word_order=order).value
        assert 100 * found == pytest.approx(theirs.score, abs=1e-9)


def test_the_signature_names_the_tokeniser() -> None:
    assert "|tok:13a|" in bleu(GERMAN, "de").signature
    assert "|tok:zh|" in bleu(CHINESE, "zh").signature
    assert "|nw:2|" in chrf(GERMAN, word_order=2).signature


@pytest.mark.parametrize(
    ("language", "tokenize"), [("zh", "13a"), ("ja", "zh"), ("de", "char"), ("th", "13a")]
)
def test_a_tokeniser_of_another_kind_of_script_is_refused(language: str, tokenize: str) -> None:
    with pytest.raises(InputError, match=f"tokeniser for '{language}' .* found '{tokenize}'"):
        bleu_tokenizer(language, tokenize)


@pytest.mark.parametrize("language", ["Chinese", "", "ZH!"])
def test_a_language_must_be_a_code_because_a_name_would_get_the_wrong_tokeniser(
    language: str,
) -> None:
    with pytest.raises(InputError, match="expected the code of the target language"):
        bleu_tokenizer(language)


def test_normalised_text_is_not_scored_as_a_translation() -> None:
    with pytest.raises(InputError, match="found it normalised by 'whisper-basic'"):
        bleu(GERMAN.normalized(BASIC), "de")


def test_an_empty_translation_is_scored() -> None:
    assert bleu(pairs(["Ja."], [""]), "de").value == 0.0
    assert chrf(pairs(["Ja."], [""])).value == 0.0


# Labels

INTENTS = ["play_music", "set_alarm", "alarm"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("play_music", "play_music"),
        ("Play-Music!", "play_music"),
        ("The intent is: play music.", "play_music"),
        ("alarm", "alarm"),
        ("an alarm, please", "alarm"),
        ("set alarm", "set_alarm"),  # the whole text is a label, though it holds another one
        ("it is set alarm", None),  # two labels
        ("play_music or alarm", None),
        ("display music", None),  # not whole words
        ("", None),
    ],
)
def test_a_label_is_read_out_of_free_text(text: str, label: str | None) -> None:
    assert parse_label(text, INTENTS) == label


def test_what_names_no_label_is_wrong_and_counted() -> None:
    texts = pairs(["alarm", "alarm", "set_alarm", "play_music"], ["Alarm.", "?", "alarm", ""])
    assert label_accuracy(texts, INTENTS).value == 0.25
    assert invalid_rate(texts, INTENTS).value == 0.5


def test_a_reference_that_is_no_label_is_refused() -> None:
    with pytest.raises(InputError, match="found 'alarms'; did you mean 'alarm'"):
        label_accuracy(pairs(["alarms"], ["alarm"]), INTENTS)
    with pytest.raises(InputError, match="found 'a_b' and 'a-b'; rename one"):
        parse_label("x", ["a_b", "a-b"])


MOODS = ["neu", "hap", "ang", "sad"]
# Six of ten neutral, and all ten called so.
FLAT = pairs(["neu"] * 6 + ["hap", "ang", "sad", "sad"], ["neu"] * 10)


def test_every_class_weighs_the_same_in_unweighted_accuracy() -> None:
    assert label_accuracy(FLAT, MOODS).value == pytest.approx(0.6)
    assert unweighted_accuracy(FLAT, MOODS).value == pytest.approx(1 / 4)


def test_a_class_that_no_reference_has_does_not_count() -> None:
    texts = pairs(["neu", "neu", "sad"], ["neu", "hap", "They are sad."])
    assert unweighted_accuracy(texts, MOODS).value == pytest.approx((1 / 2 + 1) / 2)


def test_what_names_no_class_is_wrong_in_the_class_of_its_reference() -> None:
    texts = pairs(["neu", "sad", "sad"], ["neu", "", "sad or neu"])
    assert unweighted_accuracy(texts, MOODS).value == pytest.approx((1 + 0) / 2)


def test_unweighted_accuracy_refuses_a_reference_that_is_no_label() -> None:
    with pytest.raises(InputError, match="found 'joy'"):
        unweighted_accuracy(pairs(["joy"], ["neu"]), MOODS)


def test_f1_of_classes() -> None:
    # neu: precision 6/10, recall 1, F1 .75; the others are never named.
    scores = {
        metric: score_classes(metric, FLAT, FLAT.predictions, "").value
        for metric in ("macro_f1", "weighted_f1")
    }
    assert scores == {
        "macro_f1": pytest.approx(0.75 / 4),
        "weighted_f1": pytest.approx(0.75 * 6 / 10),
    }


def test_a_resample_without_a_class_is_scored_on_the_others() -> None:
    texts = pairs(["neu", "sad"], ["neu", "neu"])
    found = unweighted_accuracy(texts, MOODS)
    assert found.compute(found.counts).tolist() == [1.0, 0.0]
    measured = measure(found)
    assert (measured.value, measured.ci_low, measured.ci_high) == (0.5, 0.0, 1.0)


def test_exact_match_is_after_the_normaliser() -> None:
    texts = pairs(["Yes.", "No."], ["yes", "No!"])
    lower = Normalizer("lower", str.lower)
    assert exact_match(texts).value == 0.0
    assert exact_match(texts.normalized(lower)).value == 0.0
    assert exact_match(texts.normalized(BASIC)).value == 1.0


# Replies

PHRASES = {"neutral": [], "sad": ["oh dear"], "happy": ["hooray", "how nice"]}


def same_words(*said: tuple[str, str, str]) -> Pairs:
    """Replies as (words, emotion, reply)."""
    groups, emotions, replies = zip(*said, strict=True)
    return replace(pairs(emotions, replies), groups=groups)


def test_replies_to_the_same_words_are_compared_in_pairs_of_emotions() -> None:
    found = distinct_replies(
        same_words(
            ("go", "sad", "oh dear"),
            ("go", "sad", "what a pity"),  # the same emotion: not compared with the first
            ("go", "happy", "Oh, dear!"),  # the same letters as the first
            ("call", "sad", "oh dear"),
            ("call", "neutral", "hm"),
            ("alone", "sad", "oh dear"),
        )
    )
    assert found.ids == ("0", "3")
    assert found.counts.tolist() == [[1, 2], [1, 1]]
    assert found.value == pytest.approx(2 / 3)


def test_pairs_are_counted_as_if_each_were_looked_at() -> None:
    draw = random.Random(4)
    said = [(draw.choice("ab"), draw.choice("xyz"), draw.choice("123")) for _ in range(60)]
    wanted = [
        one[2] != other[2]
        for one, other in combinations(said, 2)
        if one[0] == other[0] and one[1] != other[1]
    ]
    found = distinct_replies(same_words(*said)).counts.sum(0)
    assert found.tolist() == [sum(wanted), len(wanted)]


def test_words_in_one_emotion_alone_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="same words in two emotions, found none in 2"):
        distinct_replies(same_words(("go", "sad", "a"), ("stop", "happy", "b")))


@pytest.mark.parametrize(
    ("emotion", "reply", "fits"),
    [
        ("sad", "Oh, dear! I see.", True),
        ("sad", "I see.", False),
        ("sad", "Oh dear, how nice.", False),  # and of another
        ("happy", "How nice, hooray", True),
        ("happy", "how nicely", False),  # no whole words
        ("neutral", "I see.", True),
        ("neutral", "Hooray.", False),
        ("neutral", " ", False),
    ],
)
def test_a_reply_fits_with_a_phrase_of_its_own_emotion_and_of_no_other(
    emotion: str, reply: str, fits: bool
) -> None:
    assert fitting_replies(pairs([emotion], [reply]), PHRASES).value == float(fits)


def test_an_emotion_without_an_entry_is_refused() -> None:
    with pytest.raises(InputError, match="one of neutral, sad, happy, found the emotion 'bored'"):
        fitting_replies(pairs(["bored"], ["oh"]), PHRASES)


# Intervals

# Words of eight utterances, and the errors that two systems make in them.
WORDS = np.array([7, 9, 8, 8, 8, 8, 9, 9])
GOOD, POOR = np.array([0, 1, 1, 0, 2, 1, 0, 2]), np.array([2, 5, 5, 2, 3, 3, 5, 2])


def error_counts(errors: np.ndarray, words: np.ndarray = WORDS, metric: str = "wer") -> Statistics:
    return Statistics(
        metric=metric,
        ids=tuple(map(str, range(len(words)))),
        counts=np.stack([errors, words], axis=1).astype(float),
        compute=lambda sums: sums[:, 0] / sums[:, 1],
        signature="",
    )


def plain_resamples(errors: np.ndarray, words: np.ndarray, resamples: int) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, len(words), (resamples, len(words)))
    return errors[drawn].sum(1) / words[drawn].sum(1)


def test_an_interval_of_a_ratio_of_sums() -> None:
    found = measure(error_counts(GOOD))
    assert found.value == pytest.approx(7 / 66)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.045455, 0.169231), abs=1e-6)
    assert found.n == 8


def test_resampling_in_blocks_equals_resampling_at_once() -> None:
    rng = np.random.default_rng(7)
    words = rng.integers(1, 30, 30_001)  # so many that a block holds 66 resamples
    errors = rng.integers(0, words + 1)
    low, high = np.percentile(plain_resamples(errors, words, 150), [2.5, 97.5])
    found = measure(error_counts(errors, words), resamples=150)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), abs=1e-12)


def test_the_seed_fixes_the_interval() -> None:
    first, again, other = (measure(error_counts(POOR), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert other.ci_low != first.ci_low


def test_a_thousand_resamples_of_five_thousand_utterances_take_under_a_second() -> None:
    rng = np.random.default_rng(0)
    many = error_counts(rng.integers(0, 5, 5000), rng.integers(5, 20, 5000))
    start = time.process_time()
    measure(many)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("hits", "n", "interval"),
    [
        (45, 50, (0.786398, 0.956524)),
        (0, 10, (0.0, 0.277533)),
        (10, 10, (0.722467, 1.0)),
        (723, 1000, (0.694450, 0.749844)),
    ],
)
def test_wilson_intervals(hits: int, n: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(hits, n) == pytest.approx(interval, abs=1e-6)


def test_a_share_of_utterances_never_gets_an_interval_of_no_width() -> None:
    nothing = measure(exact_match(pairs(["a"] * 10, ["b"] * 10)))
    assert (nothing.value, nothing.ci_low) == (0.0, 0.0)
    assert nothing.ci_high == pytest.approx(0.277533, abs=1e-6)
    assert (nothing.n, nothing.interval) == (10, "wilson")


def test_bleu_has_an_interval_around_its_value() -> None:
    found = measure(bleu(GERMAN, "de"), resamples=50)
    assert 0 < found.ci_low < found.value < found.ci_high < 1


def test_systems_are_compared_on_the_same_resamples() -> None:
    found = compare(error_counts(GOOD), error_counts(POOR))
    moved = plain_resamples(GOOD, WORDS, 1000) - plain_resamples(POOR, WORDS, 1000)
    assert found.difference == pytest.approx(-20 / 66)
    expected = np.percentile(moved, [2.5, 97.5])
    assert [found.ci_low, found.ci_high] == pytest.approx(expected.tolist())
    assert found.p_value == pytest.approx(1 / 1001)


def test_a_system_does_not_differ_from_itself() -> None:
    found = compare(error_counts(GOOD), error_counts(GOOD))
    assert (found.difference, found.ci_low, found.ci_high, found.p_value) == (0, 0, 0, 1)


def test_swapping_the_systems_turns_the_sign() -> None:
    one, other = (compare(*map(error_counts, both)) for both in ((GOOD, POOR), (POOR, GOOD)))
    assert (one.difference, one.ci_low, one.p_value) == pytest.approx(
        (-other.difference, -other.ci_high, other.p_value)
    )


def test_only_the_same_metric_on_the_same_utterances_is_compared() -> None:
    whole, part = error_counts(GOOD), error_counts(GOOD[:7], WORDS[:7])
    with pytest.raises(InputError, match="same ids, found 8 and 7 utterances"):
        compare(whole, part)
    with pytest.raises(InputError, match="same metric, found 'wer' and 'cer'"):
        compare(whole, error_counts(GOOD, metric="cer"))
    with pytest.raises(InputError, match="same signature, found 'norm:raw' and 'norm:whisper"):
        compare(
            exact_match(pairs(["a"], ["a"])), exact_match(pairs(["a"], ["a"]).normalized(BASIC))
        )


# Checking vectors

VECTORS = {
    "_meta": {"jiwer": "4"},
    "normalize_en": [["My colour", "my color"]],
    "normalize_basic": [["(a) B!", " b "]],
    "wer": [
        {"refs": ["A b"], "hyps": ["a"], "normalizer": "basic", "wer": 0.5}
        | {"S": 0, "D": 1, "I": 0, "H": 1},
    ],
    "cer": [{"refs": ["ab"], "hyps": ["ac"], "cer": 0.5, "S": 1, "D": 0, "I": 0, "H": 1}],
    "ser": [
        {"refs": ["sad", "neu"], "preds": ["neu", "neu"]}
        | {"wa": 0.5, "ua": 0.5, "macro_f1": 1 / 3, "weighted_f1": 1 / 3},
    ],
    "tarot": [["the fool", 0]],
}


def test_vectors_are_counted(
    tmp_path: Path, whisper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps(VECTORS))
    assert main([str(file), "--whisper", str(whisper)]) == 0
    skipped = "skipped 1 of tarot: not implemented\n"
    assert capsys.readouterr().out == f"{skipped}5 passed, 0 failed, 1 skipped\n"


def test_english_that_needs_more_spellings_than_are_at_hand_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.metrics.__main__.find_spec", lambda _: None)
    file = tmp_path / "vectors.json"
    entry = {"refs": ["my tyres"], "hyps": ["my tires"], "normalizer": "en", "wer": 0.0}
    counts = {"S": 0, "D": 0, "I": 0, "H": 2}
    vectors = {"normalize_en": [["Ten per cent", "10%"], ["My tyre", "my tire"]]}
    file.write_text(json.dumps(vectors | {"wer": [entry | counts]}))
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "skipped 1 of normalize_en: give --whisper FOLDER" in out
    assert "skipped 1 of wer: give --whisper FOLDER" in out
    assert out.endswith("1 passed, 0 failed, 2 skipped\n")


def test_the_whole_table_of_an_installed_package_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`whisper-normalizer`, which the tests ask for."""
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps({"normalize_en": [["My tyre", "my tire"], ["kinda", "kinda"]]}))
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed, 0 skipped\n"


def test_english_that_is_wrong_with_the_table_that_was_named_fails(
    tmp_path: Path, whisper: Path
) -> None:
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps({"normalize_en": [["My tyre", "my tire"]]}))
    assert main([str(file), "--whisper", str(whisper)]) == 1


def test_a_vector_that_needs_a_package_not_installed_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "MeCab", None)  # so that importing it fails
    file = tmp_path / "vectors.json"
    entry = {"refs": ["a"], "hyps": ["a"], "args": {"tokenize": "ja-mecab"}}
    file.write_text(json.dumps({"bleu": [entry]}))
    assert main([str(file)]) == 0
    assert re.match("skipped 1 of bleu: .*sacrebleu.ja", capsys.readouterr().out)


def test_a_mismatch_is_shown_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps({"cer": [VECTORS["cer"][0] | {"cer": 0.25}]}))  # type: ignore[operator]
    assert main([str(file)]) == 1
    assert capsys.readouterr().out == (
        "cer[0] cer: expected 0.25, found 0.5\n0 passed, 1 failed, 0 skipped\n"
    )


def test_a_file_that_holds_no_vectors_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "expected a JSON file of vectors at" in capsys.readouterr().err
