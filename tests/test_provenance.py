"""Corpora and licences of training data: added up, carried on, and said in the model card."""

from pathlib import Path

import pytest

from blsp.errors import InputError
from blsp.provenance import (
    Source,
    add_up,
    copy_provenance,
    format_card,
    format_text_card,
    join_sources,
    read_sources,
    write_provenance,
)

BASES = {
    "llm": {"source": "Qwen/Qwen2.5-0.5B-Instruct"},
    "encoder": {"source": "/home/me/models/whisper"},
}


def source(name: str, license_: str, conversations: int = 1, hours: float = 1.0) -> Source:
    return Source(source=name, license=license_, conversations=conversations, hours=hours)


def test_conversations_of_one_corpus_and_licence_are_added_up() -> None:
    rows = [("B", "CC0-1.0", 2, 1800.0), (None, None, 1, 3600.0), ("B", "CC0-1.0", 3, 1800.0)]
    assert add_up(rows) == [
        source("B", "CC0-1.0", 5, 1.0),
        source("not stated", "not stated", 1, 1.0),
    ]


@pytest.mark.parametrize(
    ("license_", "expected"),
    [
        ("CC-BY-NC-4.0", True),
        ("CC BY-NC-ND 3.0", True),
        ("research-only", True),
        ("academic", True),
        ("Non-commercial", True),
        ("CC-BY-4.0", False),
        ("Apache-2.0", False),
        ("NCSA", False),
        ("not stated", False),
    ],
)
def test_a_licence_says_by_its_name_whether_it_forbids_commercial_use(
    license_: str, expected: bool
) -> None:
    assert source("x", license_).is_non_commercial is expected


def test_a_run_carries_on_what_the_one_before_it_learnt_from() -> None:
    earlier = [source("GigaSpeech", "research-only", 9), source("LibriSpeech", "CC-BY-4.0", 5)]
    later = [source("LibriSpeech", "CC-BY-4.0", 7), source("IEMOCAP", "research-only", 1)]
    assert join_sources(earlier, later) == [
        earlier[0],
        source("IEMOCAP", "research-only", 1),
        source("LibriSpeech", "CC-BY-4.0", 7),
    ]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    sources = [source("LibriSpeech", "CC-BY-4.0", 5, 0.25)]
    write_provenance(tmp_path, sources, BASES)
    assert read_sources(tmp_path) == sources
    assert read_sources(tmp_path / "elsewhere") == []
    (tmp_path / "data_sources.json").write_text("[]")
    with pytest.raises(InputError, match="expected the sources of a checkpoint"):
        read_sources(tmp_path)


def test_the_card_names_base_models_of_the_hub_and_no_folder() -> None:
    card = format_card([source("LibriSpeech", "CC-BY-4.0", 1234, 2.5)], BASES)
    assert card.startswith(
        "---\nlibrary_name: blsp\npipeline_tag: any-to-any\nbase_model:\n"
        "- Qwen/Qwen2.5-0.5B-Instruct\n---\n"
    )
    assert "| LibriSpeech | CC-BY-4.0 | 1,234 | 2.5 |" in card
    assert "/home/me" not in card


def test_the_card_of_a_language_model_is_that_of_any_other() -> None:
    card = format_text_card([source("chats", "CC-BY-NC-4.0", 12, 0.0)], "Qwen/Qwen2.5-0.5B")
    assert card.startswith(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nbase_model:\n"
        "- Qwen/Qwen2.5-0.5B\n---\n\n# A language model\n"
    )
    assert "| chats | CC-BY-NC-4.0 (non-commercial) | 12 | 0.0 |" in card
    assert "Not for commercial use: chats may" in card


def test_a_folder_of_two_names_is_no_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "llm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in format_text_card([], "runs/llm")


def test_a_copy_keeps_the_card_that_somebody_has_written(tmp_path: Path) -> None:
    for name in ("from", "to", "silent"):
        (tmp_path / name).mkdir()
    write_provenance(tmp_path / "from", [source("A", "CC-BY-4.0")], BASES)
    (tmp_path / "from" / "README.md").write_text("mine")
    copy_provenance(tmp_path / "from", tmp_path / "to")
    assert read_sources(tmp_path / "to") == [source("A", "CC-BY-4.0")]
    assert (tmp_path / "to" / "README.md").read_text() == "mine"
    copy_provenance(tmp_path / "silent", tmp_path / "from")
    assert (tmp_path / "from" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([source("A", "CC-BY-4.0")], "No licence of these names forbids commercial use"),
        ([source("A", "CC-BY-4.0"), source("B", "CC-BY-NC-4.0")], "Not for commercial use: B may"),
        ([source("A", "not stated")], "The licence of A is not stated"),
        ([], "The licence of its data is not stated"),
    ],
)
def test_the_card_says_what_the_licences_permit(sources: list[Source], expected: str) -> None:
    assert expected in format_card(sources, {})
