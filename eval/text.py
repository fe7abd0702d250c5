"""What the language model lost: instructions in writing, with the checkpoint's LoRA and without it.

    blsp bench text CHECKPOINT
    python -m eval.text CHECKPOINT --out runs/eval/text

Forty instructions of our own with answers that a rule can check (`text.yaml`): arithmetic, facts,
single words to translate, letter case, JSON, lists, limits of length. They are asked of the
checkpoint as it is served and of its untouched language model, greedily, with the same prompts.
`text.json` has the share right of both, the paired difference with its interval and McNemar's p,
and every answer that changed. With a frozen language model, or LoRA at speech alone, nothing can
change; so few instructions show a loss of a tenth or more, and no small one.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from blsp.arguments import add_checkpoint_options, load_on_device
from blsp.errors import InputError, suggest
from blsp.evaluate import write_command
from blsp.generation import GenerationConfig, answer_speech, answer_texts
from blsp.manifest import Message, TextPart
from blsp.metrics import Statistics, compare, mcnemar_test, measure
from blsp.metrics.labels import plain_words
from blsp.metrics.statistics import proportion
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.prompts import SpeechPrompt, build_renderer
from blsp.results import write_json
from blsp.systems import locate_checkpoint

INSTRUCTIONS = Path(__file__).with_name("text.yaml")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One question in writing.

    Raises:
        InputError: a rule that there is not.
    """

    ask: str
    rule: str
    value: Any
    """What the rule compares with."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(
                f"{self.ask!r}: expected a rule, found {self.rule!r}; {suggest(self.rule, RULES)}"
            )

    def accepts(self, answer: str) -> bool:
        """Whether an answer is right."""
        return RULES[self.rule](answer.strip(), self.value)


# --- rules ----------------------------------------------------------------------------------------


def _number(answer: str, value: float) -> bool:
    """The only number in it, or the last."""
    found = re.findall(r"-?\d+(?:\.\d+)?", answer.replace(",", ""))
    return bool(found) and float(found[-1]) == value


def _json(answer: str, value: Any) -> bool:
    """All of it, but for a code fence."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer, re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else answer) == value
    except ValueError:
        return False


def _bullets(answer: str, value: int) -> bool:
    lines = [line for line in answer.splitlines() if line.strip()]
    return len(lines) == value and all(re.match(r"[-*] +\S", line) for line in lines)


RULES: Mapping[str, Callable[[str, Any], bool]] = {
    "number": _number,
    "equals": lambda answer, value: plain_words(answer) in value,
    "exact": lambda answer, value: answer == value,
    "json": _json,
    "bullets": _bullets,
    "words": lambda answer, value: len(answer.split()) == value,
    "at_most_words": lambda answer, value: 0 < len(answer.split()) <= value,
    "begins": lambda answer, value: plain_words(answer).startswith(f"{value} "),
    "ends": lambda answer, value: plain_words(answer).endswith(f" {value}"),
    "without": lambda answer, value: bool(answer) and value not in answer,
}
"""Name -> whether an answer, without outer whitespace, agrees with a value."""


# --- the program ----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Compare a checkpoint's language model with the untouched one; returns the exit code."""
    options = _parse(argv)
    instructions = load_instructions()
    folder = locate_checkpoint(options.checkpoint)
    model, processor = load_on_device(folder, llm=options.llm, encoder=options.encoder)
    config = GenerationConfig(max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
    after, before = answer_both(model, processor, [one.ask for one in instructions], config)
    result = {
        "command": write_command("text", argv),
        "checkpoint": str(options.checkpoint),
        "lora": model.config.lora.scope,
        "instructions_sha256": hashlib.sha256(INSTRUCTIONS.read_bytes()).hexdigest()[:16],
        **score(instructions, before, after),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "text.json", result)
    print(format_result(result))
    print(f"\nwritten: {options.out / 'text.json'}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp bench text", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    add_checkpoint_options(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/eval/text"), help="folder")
    parser.add_argument("--batch-size", type=int, default=32, help="answers at once (default 32)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="(default 64)")
    return parser.parse_args(argv)


def load_instructions() -> list[Instruction]:
    """Return the instructions of `text.yaml`."""
    rows = yaml.safe_load(INSTRUCTIONS.read_text(encoding="utf-8"))
    return [Instruction(**row) for row in rows]


def answer_both(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    questions: Sequence[str],
    config: GenerationConfig,
) -> tuple[list[str], list[str]]:
    """Return the answers of the checkpoint as it is served, and of its language model alone."""
    renderer = build_renderer(model, processor)
    chats = [[Message(role="user", content=(TextPart(text=text),))] for text in questions]
    prompts = [renderer.render_prompt(chat, view="student").ids for chat in chats]
    served = answer_speech(model, processor, [SpeechPrompt(ids, ()) for ids in prompts], config)
    with model.model.without_lora():
        alone = answer_texts(model.model.language_model, processor.tokenizer, prompts, config)
    return [one.text for one in served], [one.text for one in alone]


def score(
    instructions: Sequence[Instruction], before: Sequence[str], after: Sequence[str]
) -> dict[str, Any]:
    """Return shares right before and after, their difference, and the answers that changed."""
    first, second = (_right(instructions, answers) for answers in (after, before))
    found = compare(first, second)
    rows = zip(instructions, before, after, strict=True)
    return {
        "n": len(instructions),
        **{
            name: {"value": one.value, "ci_low": one.ci_low, "ci_high": one.ci_high}
            for name, one in (("before", measure(second)), ("after", measure(first)))
        },
        "difference": found.difference,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "p_mcnemar": mcnemar_test(first, second),
        "changed": [
            asdict(one)
            | {"before": old, "right_before": one.accepts(old)}
            | {"after": new, "right_after": one.accepts(new)}
            for one, old, new in rows
            if old != new
        ],
    }


def _right(instructions: Sequence[Instruction], answers: Sequence[str]) -> Statistics:
    hits = [one.accepts(text) for one, text in zip(instructions, answers, strict=True)]
    ids = tuple(one.ask for one in instructions)
    return proportion("right", ids, hits, f"instructions:{len(ids)}")


def format_result(result: Mapping[str, Any]) -> str:
    """Return the shares as lines of text, and what was right and is not any more."""
    lines = [
        f"{name:<8}{100 * result[name]['value']:>6.1f} % right  "
        f"{100 * result[name]['ci_low']:.1f} to {100 * result[name]['ci_high']:.1f}"
        for name in ("before", "after")
    ]
    lines.append(
        f"{'lost':<8}{-100 * result['difference']:>6.1f} points   "
        f"{-100 * result['ci_high']:.1f} to {-100 * result['ci_low']:.1f}, "
        f"p {result['p_mcnemar']:.3f}, {len(result['changed'])} of {result['n']} answers changed"
    )
    lines += [
        f"  {one['ask']}\n    before: {one['before']}\n    after:  {one['after']}"
        for one in result["changed"]
        if one["right_before"] and not one["right_after"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
