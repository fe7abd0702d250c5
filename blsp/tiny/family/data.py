"""The data of the comparison of methods: one set of utterances, and conversations about them.

Every recipe of the family trains on the same recordings; what it is told about them is its own
choice among the files here. The answers are the tiny LLM's, by the very functions of `blsp
continuations`, but for those of a foreign author. Whatever is there already is checked against its
plan and kept. A folder and sizes enter; `speech/` and `conversations/` leave.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blsp.authors import Author, load_author
from blsp.behaviours import draw_requests
from blsp.continuation import ContinuationConfig, continue_manifest
from blsp.generation import GenerationConfig
from blsp.journal import digest, find_finished
from blsp.manifest import (
    Conversation,
    Message,
    Meta,
    TextPart,
    read_conversations,
    read_manifest,
    read_meta,
    relative_root,
    to_row,
    write_rows,
)
from blsp.tiny.family.interleaving import interleave, read_words
from blsp.tiny.family.rewording import AUTHOR, reword
from blsp.tiny.questions import LLM, group_behaviours
from blsp.tiny.speech import Plan, make_sets, plan_emotions, plan_utterances
from blsp.tiny.world import Sentence, answer

SEED = 5
CANDIDATES = 8
TRAIN_SNR_DB, TEST_SNR_DB = 8.0, 5.0
COMMAND = "python -m blsp.tiny.family data"
TENTH = 10

CLEAN, NOISY, EMOTIONS = "clean", "5 dB", "emotions"
"""Conditions of the tests."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many utterances; halves of training and development are noisy."""

    train: int = 2_000
    dev: int = 100
    test: int = 100
    """Sentences, each clean and noisy."""
    emotion_sentences: int = 10
    """Of development; twice as many of the test; each in five emotions."""


SIZES = Sizes()


def make_data(out: Path, sizes: Sizes = SIZES) -> None:
    """Make what lacks of speech and conversations.

    Raises:
        InputError: there is data of another plan.
    """
    plans = plan_speech(sizes)
    speech, conversations = out / "speech", out / "conversations"
    make_sets(plans, speech)
    author = load_author(LLM, None, {})
    sentences = {plan.id: plan.sentence for each in plans.values() for plan in each}
    for split in ("train", "dev"):
        manifest = join_manifests(speech, split)
        moods = speech / "dev-emotions.jsonl" if split == "dev" else manifest
        write_own({"emotions": moods}, manifest, conversations, author)
        diverse = conversations / f"{split}-diverse.jsonl"
        words = {}
        for name in (f"{split}-clean", f"{split}-noisy"):
            words |= read_words(speech / f"{name}.timing.jsonl")
        interleaved = interleave(read_conversations(diverse), words, author.renderer)
        write_derived(diverse, conversations / f"{split}-interleaved.jsonl", interleaved)
        write_foreign(manifest, conversations / f"{split}-foreign.jsonl", sentences)
    source = conversations / "train-diverse.jsonl"
    tenth = list(read_conversations(source))[::TENTH]
    write_derived(source, conversations / "train-diverse-tenth.jsonl", tenth)


def plan_speech(sizes: Sizes) -> dict[str, list[Plan]]:
    """Name of a manifest -> its utterances; splits share neither sentence nor voice.

    What is scored on words is spoken plainly: what is right to reply depends on the mood.
    """
    half, dev = sizes.train // 2, sizes.dev // 2
    return {
        "train-clean": plan_utterances(SEED, "train", half, candidates=CANDIDATES),
        "train-noisy": plan_utterances(
            SEED + 1, "train", half, snr_db=TRAIN_SNR_DB, candidates=CANDIDATES
        ),
        "dev-clean": plan_utterances(SEED, "dev", dev, neutral=1.0),
        "dev-noisy": plan_utterances(SEED + 1, "dev", dev, snr_db=TEST_SNR_DB, neutral=1.0),
        "dev-emotions": plan_emotions(SEED, "dev", sizes.emotion_sentences),
        "test-clean": plan_utterances(SEED, "test", sizes.test, neutral=1.0),
        "test-noisy": plan_utterances(SEED, "test", sizes.test, snr_db=TEST_SNR_DB, neutral=1.0),
        "test-emotions": plan_emotions(SEED, "test", 2 * sizes.emotion_sentences),
    }


def join_manifests(speech: Path, split: str) -> Path:
    """One manifest of the clean and the noisy utterances of a split."""
    out = speech / f"{split}.jsonl"
    rows = [
        one
        for name in ("clean", "noisy")
        for one in read_manifest(speech / f"{out.stem}-{name}.jsonl")
    ]
    plan = {"utterances": digest([[one.id, one.extra.get("sha256")] for one in rows])}
    if find_finished(out, plan) is None:
        write_rows(out, rows, Meta(command=COMMAND, plan=digest([plan])))
    return out


# --- conversations --------------------------------------------------------------------------------


def write_own(others: Mapping[str, Path], manifest: Path, folder: Path, author: Author) -> None:
    """Let the LLM answer: one question of each set about every utterance of a split's manifest.

    Args:
        others: a set of questions -> the manifest that it is asked about instead.
        manifest: named for its split.
        folder: of the conversations.
        author: who answers.
    """
    config = ContinuationConfig(generation=GenerationConfig(max_new_tokens=96, batch_size=128))
    folder.mkdir(parents=True, exist_ok=True)
    for name, behaviours in group_behaviours().items():
        out = folder / f"{manifest.stem}-{name}.jsonl"
        asked = others.get(name, manifest)
        continue_manifest(asked, out, author, behaviours, config, command=COMMAND)


def write_foreign(manifest: Path, out: Path, sentences: Mapping[str, Sentence]) -> None:
    """Write the questions of the diverse file with right answers of another hand.

    Nobody stands in the side file as their author, so that training takes them only when told.
    """
    requests, _ = draw_requests(
        list(read_manifest(manifest)), group_behaviours()["diverse"], per_utterance=1, seed=0
    )
    rows = [
        Conversation(
            id=request.id,
            messages=(
                request.question(),
                _reply(reword(answer(request.kind, sentences[request.utterance.id]), request.id)),
            ),
            finish_reason="stop",
            kind=request.kind,
            extra={"author": AUTHOR},
        )
        for request in requests
    ]
    plan = {"rows": digest(map(to_row, rows))}
    if find_finished(out, plan) is None:
        write_rows(
            out, rows, Meta(command=COMMAND, root=relative_root(manifest, out), plan=digest([plan]))
        )


def _reply(text: str) -> Message:
    return Message(role="assistant", content=(TextPart(text=text),))


def write_derived(source: Path, out: Path, rows: Iterable[Conversation]) -> None:
    """Write conversations made from those of a file, whose author stays theirs."""
    rows, meta = list(rows), read_meta(source)
    assert meta is not None  # `continue_manifest` wrote it
    plan = {"rows": digest(map(to_row, rows))}
    if find_finished(out, plan) is None:
        counts = {"written": len(rows), "cut": sum("cut" in row.extra for row in rows)}
        write_rows(out, rows, replace(meta, command=COMMAND, plan=digest([plan]), counts=counts))


# --- tests ----------------------------------------------------------------------------------------


def find_manifests(out: Path, split: str) -> dict[str, Path]:
    """Condition -> manifest of a split that is scored."""
    names = {CLEAN: "clean", NOISY: "noisy", EMOTIONS: "emotions"}
    return {what: out / "speech" / f"{split}-{name}.jsonl" for what, name in names.items()}


def sentences_of(sizes: Sizes, split: str) -> dict[str, Sentence]:
    """Id -> what is known about the sentence, of the utterances that are scored."""
    plans = plan_speech(replace(sizes, train=2))
    chosen = [each for name, each in plans.items() if name.startswith(split)]
    return {plan.id: plan.sentence for each in chosen for plan in each}


def fingerprint(paths: Iterable[Path]) -> str:
    """A hash of what lies in files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
