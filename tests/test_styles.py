"""Shipped behaviours: what each asks, in whose language, and of whom it asks nothing."""

from pathlib import Path
from typing import Any

import pytest

from blsp import behaviours
from blsp.behaviours import SHIPPED, Behaviour, Behaviours, draw_requests, load_behaviours
from blsp.errors import InputError
from blsp.filters import find_fault
from blsp.languages import find_language
from blsp.manifest import AudioPart, Utterance

STYLES = {
    "instructions",
    "blsp",
    "blsp-emo",
    "repeat",
    "reply",
    "translate-de",
    "translate-en",
    "translate-zh",
}
LANGUAGES = ("de", "zh")


def utterance(name: str, **fields: Any) -> Utterance:
    words: dict[str, Any] = {"text": f"say {name}", "emotion": "sad"}
    return Utterance(id=name, audio=f"{name}.wav", duration=1.0, **(words | fields))


def drawn_prompts(behaviours: Behaviours, language: str | None, count: int = 300) -> set[str]:
    """What is asked about many utterances of a language, without the place of the words."""
    rows = [utterance(f"u{index}", language=language) for index in range(count)]
    requests, _ = draw_requests(rows, behaviours, per_utterance=1, seed=0)
    return {request.prompt.replace("{audio}", "").strip() for request in requests}


def test_every_style_is_shipped_beside_the_earlier_names() -> None:
    assert {*STYLES, "general", "emotions", "tiny", "tiny-emotions"} == SHIPPED.keys()


def test_a_style_lies_under_its_name_in_one_folder() -> None:
    folder = Path(behaviours.__file__).with_name("styles")
    assert {path.stem for path in folder.glob("*.yaml")} == {*STYLES, "general"}
    assert all(SHIPPED[name] == f"styles/{name}.yaml" for name in {*STYLES, "general"})
    assert SHIPPED["emotions"] == SHIPPED["blsp-emo"]  # its earlier name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_loads(name: str) -> None:
    assert load_behaviours(name).behaviours


def test_the_pool_has_twenty_to_thirty_instructions_a_language() -> None:
    pool = load_behaviours("instructions").behaviours
    assert len({behaviour.kind for behaviour in pool}) >= 10
    assert 20 <= sum(len(behaviour.prompts) for behaviour in pool) <= 30
    for language in LANGUAGES:
        prompts = [prompt for one in pool for prompt in one.prompts_by_language[language]]
        assert 20 <= len(set(prompts)) <= 30


@pytest.mark.parametrize("name", sorted(STYLES - {"blsp-emo"}))
def test_a_prompt_is_in_the_language_that_it_stands_under(name: str) -> None:
    for behaviour in load_behaviours(name).behaviours:
        for prompt in behaviour.prompts:
            assert find_language(prompt) in ("en", None), prompt
        for language, prompts in behaviour.prompts_by_language.items():
            for prompt in prompts:
                assert find_language(prompt) in (language, None), prompt


@pytest.mark.parametrize(
    ("spoken", "asked"),
    [("de-AT", "de"), ("zh_CN", "zh"), ("en", None), ("fr", None), (None, None)],
)
def test_the_prompt_follows_the_language_of_the_utterance(
    spoken: str | None, asked: str | None
) -> None:
    pool = load_behaviours("instructions")
    expected = {
        prompt
        for one in pool.behaviours
        for prompt in (one.prompts_by_language[asked] if asked else one.prompts)
    }
    assert drawn_prompts(pool, spoken) == expected


def test_a_reply_answers_the_words_alone() -> None:
    [request], _ = draw_requests(
        [utterance("a")], load_behaviours("reply"), per_utterance=1, seed=0
    )
    [part] = request.question().content
    assert isinstance(part, AudioPart) and part.transcript == "say a"


def test_blsp_emo_is_another_name_of_emotions() -> None:
    assert load_behaviours("blsp-emo") == load_behaviours("emotions")


@pytest.mark.parametrize("target", ["de", "en", "zh"])
def test_nothing_is_translated_into_its_own_language(target: str) -> None:
    rows = [utterance(code, language=code) for code in ("de-DE", "en", "zh_cn", "fr")]
    requests, left_out = draw_requests(
        rows, load_behaviours(f"translate-{target}"), per_utterance=1, seed=0
    )
    assert left_out == {"in the target language": 1}
    assert {request.translates_to for request in requests} == {target}
    assert not any(request.id.startswith(target) for request in requests)


def test_a_translation_in_the_wrong_language_is_a_fault() -> None:
    [request], _ = draw_requests(
        [utterance("a", language="fr")], load_behaviours("translate-de"), per_utterance=1, seed=0
    )
    answer = "I think that you should go to the station with them."
    assert find_fault(answer, language=request.translates_to) == "wrong language"


def test_a_chinese_instruction_needs_no_other_colon() -> None:
    behaviours = Behaviours(behaviours=(Behaviour(kind="a", prompts=("请重复。",)),))
    rows = [utterance(f"u{index}") for index in range(20)]
    requests, _ = draw_requests(rows, behaviours, per_utterance=1, seed=0)
    assert {request.prompt for request in requests} == {"请重复。\n{audio}", "{audio}\n请重复。"}


# --- a user's own ---------------------------------------------------------------------------------


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Sing it\n\n  {audio}\\nWho is it?\n")
    [mine] = load_behaviours(tmp_path / "mine.txt").behaviours
    assert (mine.kind, mine.prompts) == ("mine", ("Sing it", "{audio}\nWho is it?"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.txt", b" \n", "expected prompts, found none"),
        ("b.txt", b"Say {audio} now", "on a line of its own"),
        ("b.txt", b"\xff\xfe", "expected UTF-8"),
        (
            "b.yaml",
            b"behaviours: [{kind: a, prompts: [x], prompts_by_language: {de: []}}]",
            "found 0 of 'de'",
        ),
        (
            "b.yaml",
            b"behaviours: [{kind: a, prompts: [x], prompts_by_language: {de-AT: [y]}}]",
            "such as de or zh, found 1 of 'de-AT'",
        ),
        (
            "b.yaml",
            b"behaviours: [{kind: a, prompts: [x], prompts_by_language: {de: ['{emotion}']}}]",
            "in text_prompts only",
        ),
        (
            "b.yaml",
            b"behaviours: [{kind: a, prompts: [x], text_prompts: [y], "
            b"prompts_by_language: {de: [z]}}]",
            "found both",
        ),
    ],
)
def test_a_file_that_cannot_work_is_refused(
    tmp_path: Path, name: str, text: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        load_behaviours(tmp_path / name)
    assert name in str(caught.value)
