"""Speech translation: BLEU and chrF on any manifest with translations.

    blsp bench st CHECKPOINT --manifest test.jsonl --target de
    python -m eval.st CHECKPOINT --manifest test.jsonl --target zh
    blsp bench st CHECKPOINT --corpus covost2 --data data/covost2 --target de

Cased and detokenised, by sacrebleu, with the tokeniser of the target language. The manifest needs
`translation: {de: ...}`.
"""

import sys
from collections.abc import Sequence

from blsp.errors import InputError
from blsp.evaluate import build_parser, choose_prompts, load_sets, run_tasks, write_command
from blsp.metrics import bleu_tokenizer
from blsp.tasks import Task

INSTRUCTION = "Translate the following into {language} and write only the translation:\n{audio}"
LANGUAGES = {
    "ar": "Arabic",
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Score a checkpoint; returns the exit code."""
    parser = build_parser("st", __doc__ or "")
    parser.add_argument("--target", default="de", help="code of the language (default de)")
    options = parser.parse_args(argv)
    bleu_tokenizer(options.target)  # refuses what is no code before anything is loaded
    if not options.instruction and options.target not in LANGUAGES:
        raise InputError(
            f"expected --target among {', '.join(LANGUAGES)}, found {options.target!r}; for others "
            "say how to ask with --instruction"
        )
    name: str = LANGUAGES.get(options.target) or options.target
    prompts = choose_prompts(options, INSTRUCTION)
    task = Task(
        name=f"st-{options.target}",
        prompts=tuple(prompt.replace("{language}", name) for prompt in prompts),
        reference=f"translation.{options.target}",
        metrics=options.official.metrics or ("bleu", "chrf"),
        language=options.target,
        held_out=options.held_out,
    )
    return run_tasks(options, [task], load_sets(options), command=write_command("st", argv))


if __name__ == "__main__":
    sys.exit(main())
