"""What a person sees of a training run, and what is kept of it.

One line every few steps, with how well the model hears beside the loss; the answers to the fixed
utterances at every evaluation; and every number in `log.jsonl`, which plots and reports read. What
the trainer logs enters; lines leave.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from blsp.dataset import ConversationDataset, expand_placeholders
from blsp.generation import Answer, GenerationConfig, answer_speech
from blsp.manifest import TextPart
from blsp.metrics.recognition import count_errors, word_error_rate
from blsp.metrics.statistics import pair_texts
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.prompts import SpeechPrompt
from blsp.trainer import AlignmentTrainer, spread

LOG = "log.jsonl"
MAX_NEW_TOKENS = 48
SHOWN = 2
"""Answers of each evaluation that a person sees."""


class RunLog(TrainerCallback):
    """Keeps what the first process logs in `log.jsonl`, and tells lines about it.

    Args:
        report: takes a line, `print` or another.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self._begun, self._from_step = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._from_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            keep_rows(Path(args.output_dir) / LOG, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        seconds = max(time.monotonic() - self._begun, 1e-9)
        row = {"step": state.global_step, **logs, "seconds": round(seconds, 3)}
        with (Path(args.output_dir) / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(row | self.more(seconds)) + "\n")
        for line in self.lines(state, logs, seconds):
            self.report(line)

    def more(self, seconds: float) -> dict[str, float]:
        """What a row holds beside what the trainer logs."""
        return {}

    def lines(self, state: Any, logs: dict[str, float], seconds: float) -> Iterator[str]:
        """What is told of a row."""
        raise NotImplementedError

    def left(self, state: Any, seconds: float) -> str:
        """How long still."""
        done = max(state.global_step - self._from_step, 1)
        return f"{describe_seconds((state.max_steps - state.global_step) * seconds / done)} left"


class Progress(RunLog):
    """Reports a run on speech."""

    trainer: AlignmentTrainer
    """Set once it exists: it takes its callbacks first."""

    recovered: float | None = None

    def more(self, seconds: float) -> dict[str, float]:
        """Speed, and how many examples were left out."""
        numbers = {"audio_per_second": round(self._speed(seconds), 3)}
        count = len(self.trainer.left_out)
        return numbers | {"left_out": count} if count else numbers

    def lines(self, state: Any, logs: dict[str, float], seconds: float) -> Iterator[str]:
        """The progress line, where there is a loss."""
        self.recovered = logs.get("eval_recovered", self.recovered)
        if "loss" in logs:
            yield self.line(state, logs["loss"], seconds)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.report(f"  dev: {self.trainer.eval_line}")
            for answer in self.trainer.answers:
                self.report(f"  {answer}")

    def line(self, state: Any, loss: float, seconds: float) -> str:
        """The progress line: where it stands, what it learnt, how fast, how long still."""
        heard = "" if self.recovered is None else f"  recovered {self.recovered:.1%}"
        return (
            f"step {state.global_step}/{state.max_steps}  loss {loss:.4f}{heard}  "
            f"{self._speed(seconds):.0f} s of audio/s  {self.left(state, seconds)}"
        )

    def _speed(self, seconds: float) -> float:
        return self.trainer.heard_seconds * self.trainer.args.world_size / seconds


class FixedUtterances:
    """The same utterances, answered at every evaluation: a loss cannot be read, an answer can.

    Args:
        dataset: conversations; those with audio are taken, evenly spread.
        processor: of the model that answers.
        count: how many are answered and scored.
    """

    def __init__(self, dataset: ConversationDataset, processor: BlspProcessor, count: int) -> None:
        self.dataset, self.processor = dataset, processor
        heard = [i for i, seconds in enumerate(dataset.durations) if seconds > 0]
        self.indices = [heard[i] for i in spread(len(heard), count)]

    def __call__(
        self, model: BlspForConditionalGeneration, *, rank: int = 0, world: int = 1
    ) -> tuple[list[str], Tensor]:
        """Answer this process's share.

        Returns:
            A line for each utterance shown: its words, the answer, and the response it was to
            give; and the word errors and words of all answers against those responses, (2,).
        """
        indices = self.indices[rank::world]
        prompts = [self._build_prompt(index) for index in indices]
        config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS)
        answers = answer_speech(model, self.processor, prompts, config)
        lines = [self._describe(*pair) for pair in zip(indices, answers, strict=True)]
        wanted = {str(index): self._wanted(index) for index in indices}
        written = {str(i): answer.text for i, answer in zip(indices, answers, strict=True)}
        errors = count_errors(word_error_rate(pair_texts(wanted, written))) if indices else {}
        wrong = sum(errors.get(kind, 0) for kind in "SDI")
        words = sum(errors.get(kind, 0) for kind in "SDH")
        return lines[:SHOWN], torch.tensor([wrong, words], dtype=torch.float64)

    def _build_prompt(self, index: int) -> SpeechPrompt:
        conversation, root = self.dataset.read_conversation(index)
        features = [self.dataset.load_features(part, root) for part in conversation.recordings]
        prompt = self.dataset.renderer.render_question(conversation, view="student")
        counts = [self.dataset.num_speech_tokens(frames) for _, frames in features]
        ids, _ = expand_placeholders(prompt, counts)
        return SpeechPrompt(ids, tuple(features))

    def _describe(self, index: int, answer: Answer) -> str:
        conversation, _ = self.dataset.read_conversation(index)
        words = " / ".join(part.transcript for part in conversation.recordings)
        return f"{words!r}: {answer.text!r} (reading: {self._wanted(index)!r})"

    def _wanted(self, index: int) -> str:
        parts = self.dataset.read_conversation(index)[0].messages[-1].content
        return "".join(part.text for part in parts if isinstance(part, TextPart))


def keep_rows(path: Path, step: int) -> None:
    """Drop what an interrupted run logged after the step it goes on from."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() and step else []
    kept = [row for row in rows if json.loads(row)["step"] <= step]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")


def describe_seconds(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
