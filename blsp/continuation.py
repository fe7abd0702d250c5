"""Continuations: the language model's own responses to transcripts, which training aligns to.

For every utterance of a manifest some behaviours are drawn (continue it, repeat it, ask about it),
the language model answers the transcript, and question and answer become a conversation whose
recording stands where the words stood. All batches are planned before the first answer, from the
manifest, the behaviours and the seed; a journal keeps the finished ones. A manifest enters;
conversations and their side file leave.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from blsp.arguments import (
    add_generation_options,
    join_command,
    read_generation,
    read_variables,
)
from blsp.authors import Author, ask_server, load_author
from blsp.behaviours import SHIPPED, Behaviours, Request, draw_requests, load_behaviours
from blsp.contexts import Context, draw_context, load_contexts
from blsp.endpoint import KEY, announce
from blsp.errors import InputError
from blsp.filters import Cut, describe_filters, find_fault
from blsp.generation import GenerationConfig
from blsp.journal import Plan, Work, digest, finish_output
from blsp.manifest import (
    Conversation,
    Message,
    Meta,
    TextPart,
    Utterance,
    read_manifest,
    relative_root,
    to_row,
    write_rows,
)
from blsp.rendering import Renderer


@dataclass(frozen=True, kw_only=True)
class ContinuationConfig:
    """How much is asked of each utterance, and how it is answered."""

    per_utterance: int = 1
    """Behaviours for each utterance."""
    share: tuple[int, int] = (1, 1)
    """(2, 4) is the second of four parts of the utterances."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Its seed also draws what is asked."""
    contexts: tuple[Context, ...] = ()
    """What may have been said before; each conversation draws one."""
    cut: Cut = "keep"


def plan_batches(lengths: Sequence[int], kinds: Sequence[str], batch_size: int) -> list[list[int]]:
    """Indices of each batch, the longest prompts first.

    A batch has one kind, whose answers are about as long: it is written until its last has ended.
    """
    order = sorted(range(len(lengths)), key=lambda index: (kinds[index], -lengths[index]))
    batches = [
        same[start : start + batch_size]
        for _, group in groupby(order, key=lambda index: kinds[index])
        for same in [list(group)]
        for start in range(0, len(same), batch_size)
    ]
    return sorted(batches, key=lambda batch: -lengths[batch[0]])


# --- writing --------------------------------------------------------------------------------------


def continue_manifest(
    manifest: Path,
    out: Path,
    author: Author,
    behaviours: Behaviours,
    config: ContinuationConfig,
    *,
    command: str,
) -> Counter[str] | None:
    """Write the conversations of a manifest; goes on where an earlier call was stopped.

    Args:
        manifest: whose utterances have a text; those without are counted as `without text`.
        out: the conversations; beside them their side file.
        author: who writes.
        behaviours: what may be asked.
        config: how much of it, and how answers are made.
        command: what the side file says made it.

    Returns:
        How many were `written`, and left out: what `blsp.filters` and `draw_requests` name, `cut`
        and `without text`; None where other processes have answers to come.

    Raises:
        InputError: no text anywhere, nothing that can be asked, or `out` (whole or interrupted) was
            made otherwise.
    """
    utterances = list(read_manifest(manifest))
    spoken = [utterance for utterance in utterances if utterance.is_transcribed]
    if not spoken:
        raise InputError(
            f"{manifest}: expected utterances with a text, found none among {len(utterances)}; "
            "add transcripts"
        )
    requests, left_out = _draw_all(spoken, behaviours, config)
    if left_out and not requests:
        raise InputError(
            f"{manifest}: expected utterances that the behaviours can ask about, found none: "
            f"{_join_counts(left_out)}; add `emotion` or a hint for each that there is, or choose "
            "other behaviours"
        )
    meta = Meta(
        command=command,
        root=relative_root(manifest, out),
        llm=author.base.fingerprint or None,
        models={
            "llm": "@".join(filter(None, (author.base.source, author.base.revision))),
            "engine": author.engine,
        },
        template=author.renderer.template_fingerprint(),
        template_variables=author.renderer.template_variables,
        prompt=json.dumps(asdict(behaviours)["behaviours"], ensure_ascii=False),
        seed=config.generation.seed,
    )
    counts = write_continuations(author, requests, out, config=config, meta=meta)
    silent = len(utterances) - len(spoken)
    return None if counts is None else counts + left_out + Counter({"without text": silent})


def _draw_all(
    spoken: Sequence[Utterance], behaviours: Behaviours, config: ContinuationConfig
) -> tuple[list[Request], Counter[str]]:
    """What is asked of this share of the utterances, with contexts; and who cannot be asked."""
    share, shares = config.share
    seed = config.generation.seed
    requests, left_out = draw_requests(
        spoken[share - 1 :: shares], behaviours, per_utterance=config.per_utterance, seed=seed
    )
    contexts = (draw_context(config.contexts, request.id, seed=seed) for request in requests)
    drawn = zip(requests, contexts, strict=True)
    return [replace(request, context=context) for request, context in drawn], left_out


def write_continuations(
    author: Author,
    requests: Sequence[Request],
    out: Path,
    *,
    config: ContinuationConfig,
    meta: Meta,
) -> Counter[str] | None:
    """Answer all requests and write the conversations; goes on where an earlier call stopped.

    Under `accelerate launch` each process answers its part of the batches, and the last one to end
    writes the file.

    Args:
        author: who writes.
        requests: in the order of the file to come.
        out: the conversations; beside them their side file.
        config: how answers are made, and which are left out.
        meta: of the file, but for plan and counts.

    Returns:
        How many were `written`, and rejected as `cut` or as `blsp.filters` names it; None where
        other processes have answers to come.

    Raises:
        InputError: another run is on `out`, or it (whole or interrupted) was made with another
            language model, engine, template, tokenizer, set of prompts, manifest, contexts,
            configuration or filters.
    """
    prompts = [_render(author.renderer, request) for request in requests]
    batches = plan_batches(
        [len(ids) for ids in prompts],
        [request.kind for request in requests],
        config.generation.batch_size if author.host is None else 1,
    )
    plan = _describe_plan(author, requests, prompts, config)

    def answer(batch: Sequence[int]) -> list[dict[str, str]]:
        names = [requests[index].id for index in batch]
        answers = author.write([prompts[index] for index in batch], names, config.generation)
        return [{"text": one.text, "finish_reason": one.finish_reason} for one in answers]

    def write(answers: Iterator[dict[str, str]]) -> None:
        counts = {"written": 0}
        # The counts are known when the rows are written, and the side file is written after them.
        conversations = _build_conversations(requests, answers, counts, config.cut)
        write_rows(out, conversations, replace(meta, plan=digest([plan]), counts=counts))

    def say(count: int) -> None:
        if author.host:
            announce(count, "texts", author.host)

    work = Work(
        plan=plan, sifting=["filters"], batches=batches, at_once=author.at_once, unit="answers"
    )
    written = finish_output(out, work, answer, write, announce=say)
    return Counter(dict(written.counts)) if written else None


def _describe_plan(
    author: Author,
    requests: Sequence[Request],
    prompts: Sequence[list[int]],
    config: ContinuationConfig,
) -> Plan:
    return {
        "language model": author.base.fingerprint or author.base.source,
        "engine": author.engine,
        "template": author.renderer.template_fingerprint(),
        "manifest": digest(to_row(request.utterance) for request in requests),
        "prompts": digest(
            [request.id, request.prompt, request.text_prompt] for request in requests
        ),
        "contexts": digest(context.describe() for context in config.contexts),
        "tokens": digest(prompts),
        "settings": json.dumps(asdict(config.generation)),
        "filters": describe_filters(config.cut),
    }


def _render(renderer: Renderer, request: Request) -> list[int]:
    try:
        tools = request.context.tools
        return renderer.render_prompt(request.messages(), view="teacher", tools=tools).ids
    except InputError as error:
        raise InputError(f"utterance {request.utterance.id!r}: {error}") from error


def _judge(request: Request, answer: dict[str, Any], cut: Cut) -> str | None:
    if cut == "drop" and answer["finish_reason"] == "length":
        return "cut"
    transcript = request.utterance.text or ""
    return find_fault(answer["text"], transcript=transcript, language=request.translates_to)


def _build_conversations(
    requests: Sequence[Request],
    answers: Iterable[dict[str, Any]],
    counts: dict[str, int],
    cut: Cut,
) -> Iterator[Conversation]:
    """Join questions and answers, and count them."""
    for request, answer in zip(requests, answers, strict=True):
        fault = _judge(request, answer, cut)
        counts[fault or "written"] = counts.get(fault or "written", 0) + 1
        if fault:
            continue
        reply = Message(role="assistant", content=(TextPart(text=answer["text"]),))
        yield Conversation(
            id=request.id,
            messages=(*request.messages(), reply),
            tools=request.context.tools,
            finish_reason=answer["finish_reason"],
            kind=request.kind,
            license=request.utterance.license,
            source=request.utterance.source,
        )


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run `blsp continuations`; 1 where nothing could be written."""
    options = _parse(argv)
    behaviours = load_behaviours(options.behaviours)
    config = ContinuationConfig(
        per_utterance=options.per_utterance,
        share=read_share(options.share),
        generation=read_generation(options),
        contexts=load_contexts(options.contexts) if options.contexts else (),
        cut=options.cut,
    )
    author = find_author(options)
    command = join_command("continuations", argv)
    counts = continue_manifest(
        options.manifest, options.out, author, behaviours, config, command=command
    )
    if counts is None:
        print(f"{options.out}: this process has done its part; the last one to end writes the file")
        return 0
    left_out = Counter({reason: n for reason, n in counts.items() if reason != "written"})
    print(
        f"{options.out}: {counts['written']} conversations; "
        f"left out: {_join_counts(left_out) or 'none'}"
    )
    return 0 if counts["written"] else 1


def find_author(options: argparse.Namespace) -> Author:
    """Who writes, by `--engine`."""
    variables = read_variables(options.template_variable)
    if options.engine.startswith("openai:"):
        return ask_server(
            options.engine, options.llm, options.revision, variables, at_once=options.at_once
        )
    if options.engine != "hf":
        raise InputError(
            f"--engine: expected hf or openai:URL#MODEL, found {options.engine!r}; choose one"
        )
    return load_author(options.llm, options.revision, variables, bits=options.bits)


def _join_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def read_share(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4): the second of four processes, each with a GPU and an `--out` of its own."""
    share, _, shares = text.partition("/")
    if not (share.isdigit() and shares.isdigit() and 1 <= int(share) <= int(shares)):
        raise InputError(f"--share: expected I/N such as 2/4, found {text!r}; count from 1")
    return int(share), int(shares)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp continuations",
        description="Let the language model answer each transcript; write conversations.",
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--llm", required=True, help="folder or hub id of the language model")
    parser.add_argument("--revision", help="commit or tag of a hub id")
    parser.add_argument(
        "--engine",
        default="hf",
        help="hf: in this process (default), or in all those of `accelerate launch -m blsp "
        "continuations ...`; openai:URL#MODEL: a server with /v1/completions (vLLM, ...), its key "
        f"in ${KEY}",
    )
    parser.add_argument("--bits", type=int, choices=(4, 8, 16), default=16, help="of hf's weights")
    parser.add_argument(
        "--at-once", type=int, default=32, help="requests to a server at a time (default 32)"
    )
    parser.add_argument(
        "--behaviours",
        default="general",
        help="a YAML file, a .txt file with a prompt a line, or one of "
        f"{', '.join(SHIPPED)} (default general)",
    )
    parser.add_argument(
        "--contexts",
        type=Path,
        metavar="FILE",
        help="system prompts, earlier turns and tools (YAML or .jsonl), one drawn for each "
        "conversation",
    )
    parser.add_argument("--out", type=Path, required=True, help="conversations to write (.jsonl)")
    parser.add_argument(
        "--per-utterance", type=int, default=1, help="behaviours for each utterance (default 1)"
    )
    parser.add_argument(
        "--cut",
        choices=get_args(Cut),
        default="keep",
        help="answers that end at --max-new-tokens: keep them, with no end to learn (default), or "
        "drop them",
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
