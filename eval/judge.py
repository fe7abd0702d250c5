"""A language model judges the answers of a run, by way of any OpenAI-compatible server.

    blsp bench judge runs/eval/open --judge openai:http://localhost:8000/v1#qwen --rubric open
    python -m eval.judge runs/eval/sqa --judge openai:https://api.openai.com/v1#gpt-4o-mini \\
        --rubric qa --systems speech,cascade

Answers are made once, by a benchmark, and judged afterwards, here or elsewhere. A rubric says what
the judge is asked, how often, and how its verdict is read: `open` (1 to 5, no right answer needed),
`qa` (Yes or No), `rating` (0 to 5), `binary` (0 or 1), or a YAML file of one's own. How many
requests go to which host is said first; every verdict is kept as it came
(`judgements/judge_NAME.jsonl`), so that a killed call goes on and nothing is asked twice. The row
`judge_NAME` then stands among the others. The server's key is OPENAI_API_KEY alone.
"""

import sys
from collections.abc import Sequence
from functools import partial

from blsp.endpoint import KEY, read_address
from blsp.errors import InputError
from blsp.evaluate import say
from blsp.judging import judge, load_rubric
from blsp.reporting import build_outside_parser, score_outside


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a run's answers; returns the exit code."""
    parser = build_outside_parser("judge", __doc__ or "")
    parser.add_argument(
        "--judge",
        required=True,
        metavar="openai:URL#MODEL",
        help=f"the server that judges; its key, if it wants one, in ${KEY}",
    )
    parser.add_argument(
        "--rubric", default="open", help="open, qa, rating, binary or a YAML file (default open)"
    )
    parser.add_argument(
        "--times", type=int, help="verdicts on each answer (default: as the rubric says)"
    )
    parser.add_argument("--at-once", type=int, default=8, help="requests under way (default 8)")
    options = parser.parse_args(argv)
    if options.at_once < 1:
        raise InputError(f"expected --at-once of at least 1, found {options.at_once}; leave it out")
    ask = partial(
        judge,
        options.folder,
        rubric=load_rubric(options.rubric, options.times),
        address=read_address(options.judge, "--judge"),
        at_once=options.at_once,
        on_progress=say,
    )
    return score_outside(options, ask)


if __name__ == "__main__":
    sys.exit(main())
