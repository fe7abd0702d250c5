"""Fetching: the real client of the hub against a hub on the loopback, then no hub at all."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import TOKEN, Hub, serve, use
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import filter_repo_objects
from model.conftest import save_llm, save_whisper
from test_train import RECIPE
from training import write_conversations

from blsp.cli import main
from blsp.model.foundations import find_cached, load_encoder, load_llm, loaded_patterns
from blsp.readiness import check_recipe
from blsp.shipped import MODELS
from tests.data_prep.conftest import write_audio

LLM, WHISPER = "org/tiny-llm", "org/tiny-whisper"
CLUTTER = (
    "README.md",
    "consolidated.safetensors",
    "flax_model.msgpack",
    "model.fp32-00001-of-00002.safetensors",
    "onnx/model.onnx",
    "pytorch_model.bin",
    "tiny.Q4_K_M.gguf",
)
KEPT_OF_LLM = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub has: two tiny models, and beside each what is not to be downloaded."""
    root = tmp_path_factory.mktemp("hub")
    save_llm(root / LLM, "qwen3", tie_word_embeddings=False)
    save_whisper(root / WHISPER)
    for name in CLUTTER:
        path = root / LLM / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(1000))
    return root


@pytest.fixture
def hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that this process's client asks, with an empty cache."""
    with serve(root) as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        yield hub


def write_recipe(folder: Path, *, llm: str = LLM, encoder: str = WHISPER) -> str:
    """The recipe of the tests of training, with models of the hub; its path."""
    text = RECIPE.format(folder=folder, output=folder / "out")
    text = text.replace(f"{folder}/llm", llm).replace(f"{folder}/whisper", encoder)
    (folder / "recipe.yaml").write_text(text)
    return str(folder / "recipe.yaml")


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is to be refused; the line that says why."""
    assert main(argv) == 2
    _, blsp, said = capsys.readouterr().err.partition("blsp: ")  # behind progress bars
    assert said.count("\n") == 1
    return blsp + said


def test_only_what_is_loaded_is_downloaded_and_a_second_time_nothing(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["fetch", recipe]) == 0
    told = capsys.readouterr().out.splitlines()
    kept = {path.name for path in (hub.root / WHISPER).iterdir()}
    assert hub.names() == KEPT_OF_LLM | kept
    assert told[0].startswith(f"language model {LLM} (")
    assert told[0].endswith("): 6 of 6 files, 0.4 MB")
    folder = Path(told[2].removeprefix(f"language model {LLM}: "))
    assert {path.name for path in folder.iterdir()} == KEPT_OF_LLM
    assert told[-1] == "all is here; with HF_HUB_OFFLINE=1 set, no host is asked from now on"
    hub.served.clear()
    assert main(["fetch", recipe]) == 0
    assert "): all 6 files are here\n" in capsys.readouterr().out
    assert hub.served == []


def test_what_was_fetched_loads_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_cached(LLM, None) is None
    assert main(["fetch", write_recipe(tmp_path)]) == 0
    folder = find_cached(LLM, None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = hub.requests
    model, base = load_llm(LLM)
    assert (base.source, base.revision) == (LLM, folder.name if folder else None)
    assert model.num_parameters() > 0
    load_encoder(WHISPER)
    assert hub.requests == asked


def test_shards_are_downloaded_and_one_missing_shard_is_no_model(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.root / "org" / "shards"
    if not folder.exists():
        shutil.copytree(hub.root / LLM, folder)
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        (folder / "model-00002-of-00002.safetensors").write_bytes(bytes(64))
        (folder / "model.safetensors.index.json").write_text("{}")
    recipe = write_recipe(tmp_path, llm="org/shards")
    hub.broken = {"model-00002-of-00002.safetensors"}
    assert fails(["fetch", recipe], capsys).startswith("blsp: org/shards: expected an answer of ")
    assert find_cached("org/shards", None) is None
    whole = hub.names()
    hub.served.clear()
    hub.broken.clear()
    assert main(["fetch", recipe]) == 0
    assert "model-00002-of-00002.safetensors" in hub.names()
    assert (whole - {path.name for path in (hub.root / WHISPER).iterdir()}).isdisjoint(hub.names())
    assert find_cached("org/shards", None) is not None


def test_a_connection_that_breaks_off_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_once = {"model.safetensors"}
    assert main(["fetch", write_recipe(tmp_path)]) == 0
    half = (hub.root / LLM / "model.safetensors").stat().st_size // 2
    assert ("model.safetensors", f"bytes={half // 1000 * 1000}-") in hub.served
    stored = find_cached(LLM, None)
    assert stored is not None
    wanted = (hub.root / LLM / "model.safetensors").read_bytes()
    assert (stored / "model.safetensors").read_bytes() == wanted


def test_a_newer_commit_costs_only_the_files_that_changed(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(root / "org", tmp_path / "hub" / "org")
    recipe = write_recipe(tmp_path)
    with serve(tmp_path / "hub") as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        assert main(["fetch", recipe]) == 0
        before = find_cached(LLM, None)
        hub.served.clear()
        (hub.root / LLM / "added_tokens.json").write_text("{}")
        capsys.readouterr()
        assert main(["fetch", recipe]) == 0
        assert "): 1 of 7 files, 0.0 MB\n" in capsys.readouterr().out
        assert hub.names() == {"added_tokens.json"}
    after = find_cached(LLM, None)
    assert before and after and before != after


def test_lora_weights_bring_their_base_model(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.dumps({"base_model_name_or_path": LLM, "revision": "v1"})
    for folder in (hub.root / "org" / "lora", tmp_path / "lora"):
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(table)
        (folder / "adapter_model.safetensors").write_bytes(bytes(64))
    for source in ("org/lora", str(tmp_path / "lora")):
        assert main(["fetch", write_recipe(tmp_path, llm=source)]) == 0
        assert f"language model {LLM} (" in capsys.readouterr().out
    assert find_cached(LLM, "v1") is not None
    assert find_cached("org/lora", None) is not None


def test_a_recipe_on_text_takes_no_whisper(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where nobody has run a quickstart
    assert main(["fetch", "tiny/chat", f"model.llm={LLM}"]) == 0
    assert "Whisper" not in capsys.readouterr().out
    found = {finding.name: finding for finding in check_recipe("tiny/chat", [f"model.llm={LLM}"])}
    assert found[LLM].state == "ok"
    assert (found["data.train"].state, found["memory"].state) == ("bad", "note")


def test_the_revision_of_a_recipe_is_taken(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["fetch", recipe, "model.llm_revision=v1"]) == 0
    assert find_cached(LLM, "v1") is not None
    assert find_cached(LLM, None) is None
    assert fails(["fetch", recipe, "model.encoder_revision=v9"], capsys) == (
        f"blsp: {WHISPER}: expected the revision v9, found no such branch, tag or commit; check "
        "the revision\n"
    )


def test_models_in_folders_are_not_asked_for(
    tmp_path: Path, root: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tmp_path / "small.pt"
    encoder.touch()
    recipe = write_recipe(tmp_path, llm=str(root / LLM), encoder=str(encoder))
    assert main(["fetch", recipe]) == 0
    assert capsys.readouterr().out == (
        f"language model {root / LLM}: lies here already\nWhisper {encoder}: lies here already\n"
    )
    assert hub.requests == 0
    encoder.unlink()
    assert "expected a Whisper folder or hub id, found no such folder" in fails(
        ["fetch", recipe], capsys
    )


def test_a_gated_model_takes_a_token(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.gated = {LLM}
    recipe = write_recipe(tmp_path)
    assert fails(["fetch", recipe], capsys) == (
        f"blsp: {LLM}: expected access to it, found a gated repository and no access; accept "
        f"its licence at {hub.url}/{LLM}, then `hf auth login`, or set HF_TOKEN to a token of "
        "yours\n"
    )
    assert hub.served == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["fetch", recipe]) == 0


@pytest.mark.parametrize("name", ["org/no-such-model", "no hub id"])
def test_an_unknown_model_is_one_line(
    name: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(["fetch", write_recipe(tmp_path, llm=name)], capsys) == (
        f"blsp: {name}: expected a language model folder or hub id, found neither a folder "
        "nor a repository of that name; check the name; if it is private, `hf auth login`, or set "
        "HF_TOKEN to a token of yours\n"
    )


def test_without_a_network_is_one_line(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path)
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    assert f"blsp: {LLM}: expected an answer of {nobody}, found " in fails(
        ["fetch", recipe], capsys
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fails(["fetch", recipe], capsys) == (
        f"blsp: {LLM}: expected a network to download it from, found HF_HUB_OFFLINE=1; unset it "
        "where there is a network\n"
    )


def test_a_disk_without_room_is_found_before_the_download(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 0, 200_000))
    said = fails(["fetch", write_recipe(tmp_path)], capsys)
    assert said.startswith(f"blsp: {tmp_path / 'cache'}: expected 0.8 MB free")
    assert said.endswith("found 0.2 MB; free some, or set HF_HOME to a folder with room\n")
    assert hub.served == []
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_download_is_said_to_be_so_when_training_begins(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["fetch", recipe, f"model.llm={hub.root / LLM}"]) == 0
    hf_hub_download(LLM, "config.json")  # of several at once, any may be the last
    hub.broken = {"model.safetensors"}
    fails(["fetch", recipe], capsys)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = fails(["train", recipe, "--dry-run"], capsys)
    assert f"{LLM}: expected a language model folder or hub id, found neither: " in said
    assert "is incomplete: " in said
    assert said.endswith("check the name, or run `blsp fetch` where there is a network\n")


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        ({"model.safetensors", "pytorch_model.bin"}, {"model.safetensors"}),
        (
            {"model.safetensors.index.json", "model-00001-of-00001.safetensors"},
            {"model.safetensors.index.json", "model-00001-of-00001.safetensors"},
        ),
        ({"pytorch_model.bin", "training_args.bin"}, {"pytorch_model.bin"}),
    ],
)
def test_pickled_weights_are_downloaded_where_there_are_no_others(
    there: set[str], weights: set[str]
) -> None:
    patterns = loaded_patterns(there.__contains__)
    assert set(filter_repo_objects(there, allow_patterns=patterns)) == weights


@pytest.mark.parametrize("model", MODELS)
def test_the_files_of_the_shipped_models_are_all_loaded(model: str) -> None:
    """The Whisper's tokenizer and table of spellings among them, which the cascade needs."""
    names = {path.name for path in MODELS[model].iterdir()}
    patterns = loaded_patterns(names.__contains__)
    assert set(filter_repo_objects(names, allow_patterns=patterns)) == names


def run(code: str, **environment: str) -> str:
    """Run code in a process of its own, which reads its environment on import; what it prints."""
    begin = "import sys; from blsp.cli import main\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe with data, for processes that are to go offline."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    write_conversations(tmp_path / "data")
    return write_recipe(tmp_path)


def test_a_machine_that_goes_offline_trains_from_the_cache(
    root: Path, tmp_path: Path, recipe: str
) -> None:
    """The variables of the hub's client work, and no host is asked when there is none."""
    home = str(tmp_path / "home")
    with serve(root) as hub:
        run(f"sys.exit(main(['fetch', {recipe!r}]))", HF_ENDPOINT=hub.url, HF_HOME=home)
    told = run(
        f"sys.exit(main(['train', {recipe!r}, '--dry-run']))",
        HF_ENDPOINT=hub.url,
        HF_HOME=home,
        HF_HUB_OFFLINE="1",
    )
    assert "every trained weight has a gradient" in told


@pytest.mark.slow
def test_the_whole_way_works_offline_with_the_shipped_models(tmp_path: Path, recipe: str) -> None:
    """Training, then scores beside the cascade, which takes the whole Whisper."""
    for name, model in ((LLM, "blsp/tiny-llm"), (WHISPER, "blsp/tiny-whisper")):
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).symlink_to(MODELS[model])
    (tmp_path / "spoken").mkdir()
    for name, text in (("a", "Turn on the light."), ("b", "What is the time?")):
        write_audio(tmp_path / "spoken" / f"{name}.wav")
        (tmp_path / "spoken" / f"{name}.txt").write_text(text)
    home = str(tmp_path / "home")
    with serve(tmp_path / "hub") as hub:
        run(f"sys.exit(main(['fetch', {recipe!r}]))", HF_ENDPOINT=hub.url, HF_HOME=home)
    commands = (
        ["train", recipe],
        ["prep", "folder", str(tmp_path / "spoken"), "--out", str(tmp_path)],
        [
            "bench",
            "asr",
            str(tmp_path / "out" / "checkpoint"),
            "--manifest",
            str(tmp_path / "spoken.jsonl"),
            "--out",
            str(tmp_path / "scores"),
        ],
    )
    offline = {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
    run(f"sys.exit(any(main(command) for command in {commands!r}))", **offline)
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {"speech", "text bound", "cascade"} <= {row["system"] for row in results["rows"]}
