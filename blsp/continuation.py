"""Continuations: the language model's own responses to transcripts, which training aligns to.

For every utterance of a manifest some behaviours are drawn (continue it, repeat it, ask about it),
the language model answers the transcript, and question and answer become a conversation whose
recording stands where the words stood. All batches are planned before the first answer, from the
manifest, the behaviours and the seed; a journal keeps the finished ones. A manifest enters;
conversations and their side file leave.
"""

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blsp.arguments import (
    add_generation_options,
    choose_device,
    join_command,
    read_generation,
    read_variables,
)
from blsp.behaviours import SHIPPED, Request, draw_requests, load_behaviours
from blsp.errors import InputError
from blsp.generation import GenerationConfig, answer_texts
from blsp.journal import Journal, Plan, digest, find_finished, run_batches
from blsp.manifest import (
    Conversation,
    Message,
    Meta,
    TextPart,
    find_root,
    read_manifest,
    to_row,
    write_rows,
)
from blsp.model.foundations import Base, load_llm
from blsp.model.loading import load_tokenizer
from blsp.rendering import Renderer, contains_thinking

_REFUSAL = re.compile(
    r"\bI(['\u2019]m| am) (sorry|afraid|unable)\b.{0,40}\b(can(['\u2019]t|not)|unable|not able)\b"
    r"|^(Sorry, )?I (can(['\u2019]t|not)|am unable to) (help|assist|hear|listen|process|access)"
    r"|\bas an? (AI|artificial intelligence|(large )?language model)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Author:
    """The language model that writes, and how it is addressed."""

    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    base: Base


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of each batch: similar lengths together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


# --- writing --------------------------------------------------------------------------------------


def write_continuations(
    author: Author,
    requests: Sequence[Request],
    out: Path,
    *,
    config: GenerationConfig,
    meta: Meta,
) -> Counter[str]:
    """Answer all requests and write the conversations; goes on where an earlier call stopped.

    Args:
        author: who writes.
        requests: in the order of the file to come.
        out: the conversations; beside them their side file.
        config: how answers are made.
        meta: of the file, but for plan and counts.

    Returns:
        How many were `written`, and rejected as `empty`, `thinking` or `refusal`.

    Raises:
        InputError: `out`, or an interrupted run of it, was made with another language model,
            template, set of prompts, manifest or configuration.
    """
    plan = _describe_plan(author, requests, config)
    finished = find_finished(out, plan)
    if finished is not None:
        return Counter(dict(finished.counts))
    prompts = [_render(author.renderer, request) for request in requests]
    batches = plan_batches([len(ids) for ids in prompts], config.batch_size)
    journal = Journal(out, plan)

    def answer(number: int, batch: list[int]) -> list[dict[str, Any]]:
        seeded = replace(config, seed=config.seed + number)
        answers = answer_texts(
            author.llm, author.tokenizer, [prompts[index] for index in batch], seeded
        )
        return [
            {"id": requests[index].id, "text": one.text, "finish_reason": one.finish_reason}
            for index, one in zip(batch, answers, strict=True)
        ]

    done, total = journal.row_count, len(requests)
    with tqdm(initial=done, total=total, unit=" answers", disable=None) as progress:
        rows = run_batches(journal, batches, answer, progress.update)
    answers = {row["id"]: row for row in rows}
    counts: Counter[str] = Counter(written=0)
    conversations = list(_build_conversations(requests, answers, counts))
    write_rows(out, conversations, replace(meta, plan=digest([plan]), counts=dict(counts)))
    journal.remove()
    return counts


def _describe_plan(author: Author, requests: Sequence[Request], config: GenerationConfig) -> Plan:
    return {
        "language model": author.base.fingerprint,
        "template": author.renderer.template_fingerprint(),
        "manifest": digest(to_row(request.utterance) for request in requests),
        "prompts": digest([request.id, request.prompt, request.hint] for request in requests),
        "settings": json.dumps(asdict(config)),
    }


def _render(renderer: Renderer, request: Request) -> list[int]:
    try:
        return renderer.render_prompt([request.question_with_hint()], view="teacher").ids
    except InputError as error:
        raise InputError(f"utterance {request.utterance.id!r}: {error}") from error


def find_fault(text: str) -> str | None:
    """Why an answer is no training text: `empty`, `thinking`, `refusal`; None if it is one."""
    if not text.strip():
        return "empty"
    if contains_thinking(text):
        return "thinking"
    return "refusal" if _REFUSAL.search(text) else None


def _build_conversations(
    requests: Sequence[Request], answers: dict[str, dict[str, Any]], counts: Counter[str]
) -> Iterator[Conversation]:
    """Join questions and answers, and count them."""
    for request in requests:
        answer = answers[request.id]
        fault = find_fault(answer["text"])
        counts[fault or "written"] += 1
        if fault:
            continue
        reply = Message(role="assistant", content=(TextPart(text=answer["text"]),))
        yield Conversation(
            id=request.id,
            messages=(request.question(), reply),
            finish_reason=answer["finish_reason"],
            kind=request.kind,
            license=request.utterance.license,
            source=request.utterance.source,
            extra={"hint": request.hint} if request.hint else {},
        )


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run `blsp continuations`; 1 where nothing could be written."""
    options = _parse(argv)
    behaviours = load_behaviours(options.behaviours)
    config = read_generation(options)
    utterances = list(read_manifest(options.manifest))
    spoken = [utterance for utterance in utterances if (utterance.text or "").strip()]
    if not spoken:
        raise InputError(
            f"{options.manifest}: expected utterances with a text, found none among "
            f"{len(utterances)}; add transcripts"
        )
    share, shares = read_share(options.share)
    mine = spoken[share - 1 :: shares]
    requests = draw_requests(
        mine, behaviours, per_utterance=options.per_utterance, seed=config.seed
    )
    author = load_author(options.llm, options.revision, read_variables(options.template_variable))
    meta = Meta(
        command=join_command("continuations", argv),
        root=Path(os.path.relpath(find_root(options.manifest), options.out.parent)).as_posix(),
        llm=author.base.fingerprint,
        models={"llm": "@".join(filter(None, (author.base.source, author.base.revision)))},
        template=author.renderer.template_fingerprint(),
        template_variables=author.renderer.template_variables,
        prompt=json.dumps(asdict(behaviours)["behaviours"], ensure_ascii=False),
        seed=config.seed,
    )
    counts = write_continuations(author, requests, options.out, config=config, meta=meta)
    silent = len(utterances) - len(spoken)
    about = [f"{count} {name}" for name, count in counts.items() if name != "written"]
    about += [f"{silent} utterances without text"] if silent else []
    print(
        f"{options.out}: {counts['written']} conversations; left out: {', '.join(about) or 'none'}"
    )
    return 0 if counts["written"] else 1


def read_share(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4): the second of four processes, each with a GPU and an `--out` of its own."""
    share, _, shares = text.partition("/")
    if not (share.isdigit() and shares.isdigit() and 1 <= int(share) <= int(shares)):
        raise InputError(f"--share: expected I/N such as 2/4, found {text!r}; count from 1")
    return int(share), int(shares)


def load_author(llm: str, revision: str | None, variables: dict[str, Any]) -> Author:
    """Load a language model, its tokenizer and template."""
    device, options = choose_device()
    model, base = load_llm(llm, revision=revision, options=options)
    model.to(device)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(llm, revision)
    renderer = Renderer(tokenizer, variables)
    return Author(llm=model.eval(), tokenizer=tokenizer, renderer=renderer, base=base)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp continuations",
        description="Let the language model answer each transcript; write conversations.",
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--llm", required=True, help="folder or hub id of the language model")
    parser.add_argument("--revision", help="commit or tag of a hub id")
    parser.add_argument(
        "--behaviours", default="general", help=f"a YAML file, or {' or '.join(SHIPPED)}"
    )
    parser.add_argument("--out", type=Path, required=True, help="conversations to write (.jsonl)")
    parser.add_argument(
        "--per-utterance", type=int, default=1, help="behaviours for each utterance (default 1)"
    )
    parser.add_argument(
        "--share",
        default="1/1",
        metavar="I/N",
        help="do one part of N of the utterances, so that N processes can do all; training takes "
        "several files",
    )
    parser.add_argument(
        "--template-variable",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for the chat template, such as date=2026-01-31; may be repeated",
    )
    add_generation_options(parser)
    return parser.parse_args(argv)
