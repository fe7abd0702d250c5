"""Whether a recipe can be run here: one finding a need, each seen both ways."""

import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, serve, use
from model.conftest import save_llm, save_whisper
from test_fetch import LLM, WHISPER, write_recipe
from training import write_conversations

from blsp import doctor, readiness
from blsp.cli import main
from blsp.fetch import describe_size
from blsp.findings import Finding
from blsp.model.foundations import read_llm_config, read_whisper_config
from blsp.readiness import check_recipe
from blsp.recipe import load_recipe
from blsp.sizing import forecast_recipe

Findings = dict[str, Finding]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub has."""
    root = tmp_path_factory.mktemp("hub")
    save_llm(root / LLM, "qwen3", tie_word_embeddings=False)
    save_whisper(root / WHISPER)
    return root


@pytest.fixture
def hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that this process's client asks, with an empty cache."""
    with serve(root) as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        yield hub


def look(recipe: str, *overrides: str) -> Findings:
    """The findings by their names."""
    return {finding.name: finding for finding in check_recipe(recipe, overrides)}


def test_all_is_known_before_anything_but_configurations_is_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path)
    write_conversations(tmp_path / "data")
    found = look(path)
    assert hub.names() == {"config.json"}
    assert (found[LLM].state, found[LLM].found) == ("note", "0.4 MB to download")
    assert found[LLM].advice == f"blsp fetch {path}"
    assert found["data.train"].found == f"{tmp_path}/data/conversations.jsonl"
    for name in ("data.train", "data.dev", "disk", "memory"):
        assert found[name].state == "ok"
    recipe, _ = load_recipe(Path(path))
    llm_config = read_llm_config(hub.root / LLM, LLM)
    forecast = forecast_recipe(recipe, llm_config, read_whisper_config(hub.root / WHISPER, WHISPER))
    assert found["memory"].found.startswith(f"{describe_size(forecast.total)} forecast, RAM has ")


def test_after_fetching_the_cache_is_enough(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path)
    assert look(recipe)[LLM].state == "note"
    assert main(["fetch", recipe]) == 0
    asked = hub.requests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = look(recipe)
    assert (found[LLM].state, found[LLM].advice) == ("ok", "")
    assert found[LLM].found.startswith("in the cache, ")
    assert found["memory"].state == "ok"
    assert hub.requests == asked


def test_the_doctor_prints_it_and_fails_for_what_is_lacking(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for check in ("check_core", "check_machine", "check_audio", "check_tiny"):
        monkeypatch.setattr(doctor, check, lambda *_: [])
    recipe = write_recipe(tmp_path)
    assert doctor.main([recipe]) == 1
    told = capsys.readouterr().out
    assert f"\nrecipe {recipe}\n" in told
    assert "\n2 to put right\n" in told  # the data
    write_conversations(tmp_path / "data")
    assert doctor.main([recipe, "model.llm_bits=4"]) == 0
    assert "  ok    bitsandbytes " in capsys.readouterr().out


def test_models_in_folders_are_said_to_lie_here(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hub.root)
    shipped = "blsp/tiny-whisper"
    found = look(write_recipe(tmp_path, encoder=shipped))
    for name in (LLM, shipped):
        assert found[name] == Finding(state="ok", name=name, found="lies here")
    assert hub.requests == 0


def test_a_model_that_cannot_be_had_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    hub.gated = {LLM}
    recipe = write_recipe(tmp_path, encoder="org/nothing")
    found = look(recipe)
    assert found[LLM].state == found["org/nothing"].state == "bad"
    assert found[LLM].found == "not here: a gated repository and no access"
    assert found[LLM].advice.startswith(f"accept its licence at {hub.url}/{LLM}, then ")
    assert found[LLM].advice.endswith(f", then blsp fetch {recipe}")
    assert found["memory"].state == "note"
    assert found["disk"].found.startswith("at least 0.0 MB to download and for checkpoints, ")


def test_a_model_of_another_kind_is_found_before_it_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    found = look(write_recipe(tmp_path, llm=WHISPER))
    assert found["base models"].state == "bad"
    assert "expected a decoder-only language model" in found["base models"].found


def test_missing_data_and_a_missing_start_are_named(hub: Hub, tmp_path: Path) -> None:
    train = f"data.train={json.dumps([str(tmp_path / 'a.jsonl'), str(tmp_path / 'b.jsonl')])}"
    found = look(write_recipe(tmp_path), train, f"model.init_from={tmp_path / 'run'}")
    assert (found["data.train"].state, found["data.train"].found) == (
        "bad",
        f"no {tmp_path / 'a.jsonl'} and 1 more",
    )
    assert "blsp continuations" in found["data.train"].advice
    assert found["model.init_from"].found == f"none in {tmp_path / 'run'}"


def test_a_full_disk_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 0, 200_000))
    found = look(write_recipe(tmp_path))["disk"]
    assert (found.state, found.found.partition(" free in ")[0]) == (
        "bad",
        "1.6 MB to download and for checkpoints, 0.2 MB",
    )


@pytest.mark.parametrize(
    ("bits", "advice"),
    [
        (16, "try model.llm_bits=4, training.gradient_checkpointing=true, a lower training"),
        (4, "try training.gradient_checkpointing=true, a lower training.batch_seconds"),
    ],
)
def test_too_little_memory_says_what_takes_less(
    bits: int, advice: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "find_training_memory", lambda: ("A small card", 1_000_000))
    found = look(write_recipe(tmp_path), f"model.llm_bits={bits}")
    assert found["memory"].state == "bad"
    assert found["memory"].found.endswith(" forecast, A small card has 1.0 MB")
    assert found["memory"].advice.startswith(advice)


def test_packages_that_only_this_recipe_takes_are_looked_for(hub: Hub, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert "bitsandbytes" not in look(recipe)
    found = look(recipe, "model.llm_bits=4", "training.trackers=[no_such_tracker]")
    assert (found["bitsandbytes"].state, found["bitsandbytes"].advice) == (
        "ok",
        "for model.llm_bits: 4",
    )
    assert found["packages"].state == "bad"
    assert "found 'no_such_tracker'" in found["packages"].found
