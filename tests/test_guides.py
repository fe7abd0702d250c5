"""The guides: every command is run, word for word and in order, with tiny models on a fake tree.

Hub ids stand for tiny models: a folder of that name in the working directory comes before the hub.
"""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from accelerate.commands.launch import launch_command_parser
from completions import serve
from datasets import config as datasets_config
from test_train import RECIPE
from training import save_models, write_conversations

from blsp.cli import COMMANDS, main
from blsp.manifest import Meta, Utterance, read_manifest, write_rows
from blsp.model import compose, save_checkpoint
from blsp.model.configuration import AdapterConfig
from blsp.shipped import Folder, list_programs
from blsp.tiny.build import WEIGHTS
from blsp.tiny.speech import say
from blsp.tiny.voices import voices_of
from blsp.tiny.world import sample_sentences
from tests.data_prep.conftest import build_librispeech, write_audio
from tests.model.conftest import save_ultravox

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "guides"
GUIDES = sorted(FOLDER.glob("*.md"))
COMING = "(soon)"
MODELS = {
    "Qwen/Qwen2.5-0.5B-Instruct": "llm",
    "Qwen/Qwen2.5-1.5B-Instruct": "llm",
    "openai/whisper-small": "whisper",
    "path/to/llm": "llm",
}
SAID = {"a": "Turn on the light.", "b": "What is the capital of France?"}


def blocks(guide: Path, language: str) -> str:
    """All code blocks of a language, one after the other."""
    text = guide.read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S))


def commands(guide: Path, program: str = "blsp ") -> list[str]:
    """Lines of the shell blocks that call a program, comments included."""
    return [line for line in blocks(guide, "sh").splitlines() if line.startswith(program)]


def name(guide: Path) -> str:
    return guide.stem


def exists(words: list[str]) -> bool:
    """Whether a command line can be run in this version."""
    programs: dict[str, Folder] = {"prep": "data_prep", "bench": "eval"}
    if words[1] in programs:
        return words[2] in list_programs(programs[words[1]])
    return words[1] in COMMANDS


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_a_command_is_marked_as_coming_exactly_while_it_is(guide: Path) -> None:
    for line in commands(guide):
        assert (COMING in line) != exists(line.split()), f"set or remove {COMING}: {line}"


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_needs_stand_before_the_first_command(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert "\n## What it needs\n" in text.partition("```sh")[0]


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_a_guide_says_that_no_real_run_has_been_made(guide: Path) -> None:
    text = " ".join(guide.read_text(encoding="utf-8").lower().split())
    assert "no run on real weights has been made" in text or "nobody has made this run" in text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory where models are tiny and `--overfit` is one step."""
    for model, kind in MODELS.items():
        (tmp_path / model).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / model).symlink_to(WEIGHTS / kind)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blsp.train.OVERFIT_STEPS", 1)
    monkeypatch.setattr("blsp.progress.MAX_NEW_TOKENS", 4)
    return tmp_path


def run(lines: list[str]) -> None:
    """Run commands that are to succeed, but for two that say what they find."""
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        allowed = (0,)
        if words[0] == "doctor":
            allowed = (0, 1)  # 1: something is to be put right on the machine of the test
        if "--overfit" in words:
            allowed = (1,)  # one step masters nothing, and the command says so
        assert main(words) in allowed, line


def run_guide(guide: Path) -> None:
    """Run all commands; a recipe that is copied to a folder gets the values the guide gives."""
    lines = commands(guide)
    copied = next(i for i, line in enumerate(lines) if line.startswith("blsp recipes copy "))
    run(lines[: copied + 1])
    edit(Path("recipes-of-mine/starter.yaml"), blocks(guide, "yaml"))
    run(lines[copied + 1 :])


def edit(recipe: Path, changes: str) -> None:
    """Put the values of a block `section:`, `  key: value` into a recipe."""
    text = recipe.read_text(encoding="utf-8")
    for key, value in re.findall(r"^  (\w+): (.*)$", changes, re.M):
        text, count = re.subn(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.M)
        assert count == 1, key
    recipe.write_text(text, encoding="utf-8")


def write_recordings(folder: Path) -> None:
    """Recordings beside their words; the meters need two that differ."""
    for name, text in SAID.items():
        write_audio(folder / f"{name}.wav")
        (folder / f"{name}.txt").write_text(text)


def test_every_command_of_the_first_real_run_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_librispeech(folder / "data", ("train-clean-100", "dev-clean", "test-clean"))
    write_audio(folder / "recording.wav")
    typed = "/file recording.wav\nsay it again\n/quit\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    run_guide(FOLDER / "first-real-run.md")
    told = capsys.readouterr().out
    assert "data/manifests/train-clean-100.jsonl: 2 utterances" in told
    assert re.search("starter +Qwen2.5-0.5B-Instruct hears", told)
    assert "\ncheckpoint: runs/starter/checkpoint\n" in told
    assert "\ncheckpoint: runs/starter-1.5b/checkpoint\n" in told
    assert "\nall that could be checked holds\n" in told
    assert "expected a" not in told  # no line of the chat went wrong
    results = json.loads((folder / "runs" / "eval" / "asr" / "results.json").read_text())
    assert {"speech", "text bound", "cascade"} <= {row["system"] for row in results["rows"]}


def test_every_command_for_ones_own_model_works(folder: Path) -> None:
    write_recordings(folder / "recordings")
    write_recordings(folder / "recordings-dev")
    table = "".join(f"{name}.wav,{text}\n" for name, text in SAID.items())
    (folder / "recordings-dev" / "metadata.csv").write_text(f"path,text\n{table}")
    save_ultravox(
        folder / "path" / "to" / "ultravox", llm=WEIGHTS / "llm", encoder=WEIGHTS / "whisper"
    )
    run_guide(FOLDER / "your-own-llm.md")
    for manifest in ("recordings", "metadata"):
        rows = list(read_manifest(folder / "data" / "manifests" / f"{manifest}.jsonl"))
        assert {row.id: row.text for row in rows} == SAID
        assert {row.source for row in rows} == {"calls"}
    check_init_from(folder)


def check_init_from(folder: Path) -> None:
    """Training begins at what was imported, once the adapter's numbers are copied."""
    config = json.loads((folder / "runs" / "ultravox" / "config.json").read_text())
    start = ["recipes-of-mine/starter.yaml", "model.init_from=runs/ultravox", "--dry-run"]
    adapter = f"model.adapter={json.dumps(config['adapter_config'])}"
    assert main(["train", *start]) == 2
    assert main(["train", *start, adapter]) == 0


@pytest.fixture
def large_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with a data set in two splits."""
    audio = write_audio(tmp_path / "a.wav").read_bytes()
    table = pa.table({"audio": [{"bytes": audio, "path": "a.wav"}], "text": [SAID["a"]]})
    data = tmp_path / "hub" / "OWNER" / "NAME" / "data"
    data.mkdir(parents=True)
    for split in ("train", "validation"):
        pq.write_table(table, data / f"{split}-00000-of-00001.parquet")
    with hub.serve(tmp_path / "hub") as served:
        hub.use(served, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(datasets_config, "HF_ENDPOINT", served.url)
        yield served


def test_every_command_from_recordings_to_training_works(
    folder: Path, large_data: hub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the recordings have no transcript; the tiny Whisper knows eSpeak's voices."""
    (folder / "recordings").mkdir()
    # By the hash of their names four of these are for development.
    numbers = (*range(10), 16, 50, 58)
    for at, sentence in zip(numbers, sample_sentences(7, "test", len(numbers)), strict=True):
        audio = say(sentence.text, voice=voices_of("test")[0])
        soundfile.write(folder / "recordings" / f"{at}.wav", audio, 16_000)
        if at % 2:
            (folder / "recordings" / f"{at}.txt").write_text(sentence.text)
    guide = FOLDER / "your-own-data.md"
    five = re.findall(r"^```sh\n(.*?)^```$", guide.read_text(), re.M | re.S)[0].splitlines()
    assert len(five) == 5
    run(commands(guide))
    told = capsys.readouterr().out
    assert "recordings.jsonl: 13 utterances" in told
    assert "\ncheckpoint: runs/calls/checkpoint\n" in told
    by_whisper = [row for row in read_manifest("data/manifests/transcribed.jsonl") if row.extra]
    assert len(by_whisper) >= 6 and {"transcribed_by"} <= set(by_whisper[0].extra)
    card = (folder / "runs" / "calls" / "checkpoint" / "README.md").read_text()
    assert "| calls | own |" in card
    [there] = read_manifest("data/hub/train.jsonl")
    [here] = read_manifest("data/dev/validation.jsonl")
    assert there.audio.startswith("hf://datasets/OWNER/NAME@")
    assert here.audio.startswith("validation-00000.tar::")
    assert {name for name, _ in large_data.served} >= {"data/train-00000-of-00001.parquet"}


def test_every_command_of_the_checks_works(folder: Path) -> None:
    """The guide finds data and a recipe, which the test writes as the other guides say."""
    write_recordings(folder / "train")
    conversations = "data/conversations/train.jsonl"
    run(
        [
            "blsp prep folder train --out data/manifests",
            "blsp continuations data/manifests/train.jsonl --llm path/to/llm"
            f" --out {conversations}",
            "blsp recipes copy starter",
        ]
    )
    recipe = Path("starter.yaml").rename("recipe.yaml")
    edit(recipe, f"  train: [{conversations}]\n  dev: [{conversations}]\n  llm: path/to/llm\n")
    run(commands(FOLDER / "when-it-does-not-learn.md"))


def save_tiny_checkpoint(folder: Path) -> None:
    """`runs/first/checkpoint`, untrained, on the shipped tiny models."""
    model, processor = compose(llm="path/to/llm", encoder="openai/whisper-small")
    save_checkpoint(model, processor, folder / "runs" / "first" / "checkpoint")


def write_test_set(folder: Path) -> list[Utterance]:
    """`data/test.jsonl`, returned."""
    rows = []
    for at, text in enumerate(("turn on the light", "play some music", "call ada")):
        write_audio(folder / "data" / f"{at}.wav", seconds=0.5 + at / 10)
        rows.append(
            Utterance(
                id=f"u{at}",
                audio=f"{at}.wav",
                duration=0.5 + at / 10,
                text=text,
                language="en",
                intent=text.split()[0],
                speaker="ab"[at % 2],
            )
        )
    write_rows(folder / "data" / "test.jsonl", rows, Meta(command="test"))
    return rows


def test_every_command_about_scores_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_checkpoint(folder)
    rows = write_test_set(folder)
    write_conversations(folder / "data" / "spoken")
    (folder / "data" / "dev.jsonl").symlink_to(folder / "data" / "spoken" / "conversations.jsonl")
    for path in (folder / "data" / "spoken").glob("*.wav"):
        (folder / "data" / path.name).symlink_to(path)
    answers = [{"id": one.id, "prediction": one.text} for one in rows]
    Path("theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    lines = commands(FOLDER / "evaluate.md")
    few = "--max-new-tokens 8"
    alone = ("meters", "judge")
    with serve(judge=lambda _: "4") as server:
        lines = [re.sub(r"openai:\S+#qwen", server.address, line) for line in lines]
        run(
            [
                f"{line} {few}" if "bench" in line and not any(a in line for a in alone) else line
                for line in lines
            ]
        )
        assert server.bodies
    told = capsys.readouterr().out
    assert "own transcript found" in told and "first token, s" in told
    assert (folder / "runs" / "eval" / "both" / "report.html").is_file()


def test_every_command_about_known_numbers_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for those about Ultravox and VoiceBench, which need the hub."""
    build_librispeech(folder, ["test-clean"])
    gold = folder / "slurp" / "dataset" / "slurp" / "test.jsonl"
    found = (
        folder / "slurp" / "experiments" / "predictions" / "multi_slurp_hermit_predictions.jsonl"
    )
    frame = {"scenario": "alarm", "action": "set"}
    sentence = {
        "tokens": [{"surface": "eight"}],
        "recordings": [{"file": "a.flac"}],
        "entities": [{"type": "time", "span": [0]}],
    }
    prediction = {"file": "a.flac", "entities": [{"type": "time", "filler": "eight"}]}
    for path, row in ((gold, sentence), (found, prediction)):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(frame | row) + "\n")
    lines = commands(FOLDER / "reproduce.md")
    run([line for line in lines if "ultravox" not in line and "voicebench" not in line])
    told = capsys.readouterr().out
    assert "1 recordings, 0 not predicted" in told
    assert re.search(r"^asr +test-clean +wer +whisper-small ", told, re.M)


def test_every_command_about_lora_and_few_bits_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(folder)
    write_test_set(folder)
    lines = commands(FOLDER / "lora-and-4bit.md")
    # The recipe's own Whisper is a random one without a table of spellings.
    few = "--max-new-tokens 8 --whisper openai/whisper-small"
    run([f"{line} {few}" if "precision" in line else line for line in lines])
    told = capsys.readouterr().out
    assert "| 4 bits |" in told and "| (text bound) |" in told
    assert told.count("memory of the largest batch: ") == 2
    assert told.count("all that could be checked holds") == 3
    assert "answers of 16 tokens equal, logits within" in told
    assert not (folder / "runs" / "first").exists()


def test_every_command_about_text_and_right_answers_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guide goes on where a quickstart ended, which the test makes small."""
    rows = [{"instruction": "Name a colour.", "input": "", "output": "Red."}]
    (folder / "alpaca_data.json").write_text(json.dumps(rows))
    quickstart = folder / "runs" / "quickstart"
    for name, seconds in {
        "train-clean": (1.0, 1.2),
        "dev-clean": (1.0, 1.2),
        "test-clean-50": (1.0, 1.2),
    }.items():
        write_intents(quickstart / "speech" / f"{name}.jsonl", seconds)
    model, processor = compose(
        llm="blsp/tiny-llm",
        encoder="blsp/tiny-whisper",
        adapter=AdapterConfig(kind="conv", norm_init=0.09, summary=4),
    )
    save_checkpoint(model, processor, quickstart / "checkpoint")
    for line in commands(FOLDER / "text-and-supervised.md"):
        short = " training.steps=2 training.eval_steps=2" if "train tiny/" in line else ""
        run([line + short])
    told = capsys.readouterr().out
    assert "language model: runs/llama2-7b-chat/llm" in told
    assert "runs/quickstart/supervised/intents.jsonl: 2 conversations" in told
    assert "serves with: blsp chat only" in told
    assert told.count("results.json") == 2


def write_intents(manifest: Path, seconds: tuple[float, ...]) -> None:
    """Recordings of different words and intents."""
    rows = []
    for i, duration in enumerate(seconds):
        write_audio(manifest.parent / manifest.stem / f"{i}.wav", seconds=duration)
        audio = f"{manifest.stem}/{i}.wav"
        words, intent = f"call {'anna' if i else 'tom'}", f"intent_{i}"
        rows.append(Utterance(id=str(i), audio=audio, duration=duration, text=words, intent=intent))
    write_rows(manifest, rows, Meta(command="test"))


def write_recipe(folder: Path) -> None:
    """`recipe.yaml`, of a run that takes seconds."""
    save_models(folder)
    write_conversations(folder / "data")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, output="runs/first"))


def test_every_command_about_stopping_and_going_on_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(folder)
    begin, *rest = commands(FOLDER / "resume.md")
    run([begin])
    for later in ("checkpoint-4", "checkpoint"):  # as if killed before them
        (folder / "runs" / "first" / later / "complete").unlink()
    capsys.readouterr()
    run(rest)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "loss" in line] == [
        *(f"{step}/4" for step in (3, 4)),
        *(f"{step}/4" for step in (1, 2, 3, 4)),
    ]


# --- several processes ----------------------------------------------------------------------------

LAUNCH = "accelerate launch "


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_accelerate_knows_every_option_of_a_launch(guide: Path) -> None:
    for line in commands(guide, LAUNCH):
        options = launch_command_parser().parse_args(shlex.split(line)[2:])
        assert options.module and options.training_script == "blsp.train"
        assert options.training_script_args[0] == "recipe.yaml"


def test_every_command_about_several_gpus_works(folder: Path) -> None:
    run(commands(FOLDER / "multi-gpu.md"))
    assert {path.name for path in folder.glob("*.yaml")} == {"multi_gpu.yaml", "fsdp2.yaml"}


@pytest.mark.slow
def test_every_launch_on_one_machine_works(folder: Path, checkout: Path) -> None:
    """Word for word, but for the port."""
    write_recipe(folder)
    guide = FOLDER / "multi-gpu.md"
    run(commands(guide))
    here = [line for line in commands(guide, LAUNCH) if "--num_machines" not in line]
    assert len(here) == 2
    for line in here:
        words = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
        done = subprocess.run(
            [*words, *shlex.split(line)[2:]],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(checkout)},
        )
        assert done.returncode == 0, done.stderr
        assert "training on 2 process(es), cpu" in done.stdout
