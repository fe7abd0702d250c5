"""Prompts, read or heard, become answers: in batches that change nothing.

Prompts are sorted by length, padded on the left, generated together and put back in order. What a
model's makers recommend for sampling is not used: everything that shapes an answer stands in
`GenerationConfig`, so that a text bound, a cascade and a speech model are decoded alike. Prompts
come from `blsp.rendering` as token ids, or from `blsp.prompts` with features; `Answer`s leave.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig as LibraryConfig
from transformers import PreTrainedTokenizerBase, TextStreamer

from blsp.dataset import FRAMES_PER_SECOND
from blsp.drawing import build_sampler, derive_seed
from blsp.errors import InputError
from blsp.model.modeling import BlspForConditionalGeneration
from blsp.model.processing import BlspProcessor, pad_features
from blsp.prompts import SpeechPrompt
from blsp.rendering import Renderer, contains_thinking

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How answers are made."""

    max_new_tokens: int = 128
    """An answer that is longer is cut, and says so."""
    do_sample: bool = False
    """Draw tokens instead of taking the likeliest."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws; what a prompt is answered depends on it, and never on who shares the batch."""
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise InputError(
                "expected temperature above 0 and top_p above 0 and up to 1, found "
                f"{self.temperature} and {self.top_p}; do_sample: false takes the likeliest tokens"
            )


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    """Without control tokens and outer whitespace."""
    finish_reason: Literal["stop", "length"]
    """`length`: it was cut at `max_new_tokens`."""
    tokens: int
    """How many were written, the one that stops it not counted."""


OnBatch = Callable[[int], object]
"""Told after each batch how many answers it gave, such as `progress.update`."""


# --- read -----------------------------------------------------------------------------------------


def answer_texts(
    llm: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    *,
    names: Sequence[str] | None = None,
    on_batch: OnBatch | None = None,
) -> list[Answer]:
    """Answer prompts of token ids, in their order.

    Args:
        llm: the language model.
        tokenizer: its own.
        prompts: token ids of each.
        config: how.
        names: of the prompts, by which draws are seeded; their numbers by default.
        on_batch: told after each batch how many were answered.

    Raises:
        InputError: an empty prompt, or one longer than the language model's positions.
    """
    writer = _Writer(llm, tokenizer, config)

    def answer(chosen: list[int]) -> list[Answer]:
        seeds = _seeds_of(chosen, names, config)
        return writer.write([prompts[index] for index in chosen], seeds)

    return in_batches([len(ids) for ids in prompts], config, answer, on_batch)


def _seeds_of(
    chosen: Sequence[int], names: Sequence[str] | None, config: GenerationConfig
) -> list[int]:
    return [derive_seed(config.seed, names[i] if names else str(i)) for i in chosen]


# --- heard ----------------------------------------------------------------------------------------


def answer_speech(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    prompts: Sequence[SpeechPrompt],
    config: GenerationConfig,
    *,
    names: Sequence[str] | None = None,
    on_batch: OnBatch | None = None,
) -> list[Answer]:
    """Answer prompts that are heard, in their order; ``names`` as in `answer_texts`.

    Raises:
        InputError: an empty prompt, or one longer than the language model's positions.
    """
    writer = _Writer(model, processor.tokenizer, config)
    warn_of_length(model, prompts)

    def answer(chosen: list[int]) -> list[Answer]:
        some = [prompts[index] for index in chosen]
        seeds = _seeds_of(chosen, names, config)
        return writer.write([prompt.ids for prompt in some], seeds, **_pad_audio(some))

    return in_batches([len(prompt.ids) for prompt in prompts], config, answer, on_batch)


def stream_answer(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    prompt: SpeechPrompt,
    config: GenerationConfig,
    *,
    on_text: Callable[[str], object],
) -> Answer:
    """Answer one prompt and hand out the text word by word as it comes."""
    writer = _Writer(model, processor.tokenizer, config)
    warn_of_length(model, [prompt])
    streamer = _CallbackStreamer(processor.tokenizer, on_text)
    seeds = _seeds_of([0], None, config)
    return writer.write([prompt.ids], seeds, streamer=streamer, **_pad_audio([prompt]))[0]


class _CallbackStreamer(TextStreamer):
    """Hands finished words to a function instead of printing them."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if stream_end:  # a character may be cut by the limit, which the answer leaves out, too
            text = text.rstrip("\ufffd")
        if text:
            self._on_text(text)


def warn_of_length(model: BlspForConditionalGeneration, prompts: Sequence[SpeechPrompt]) -> None:
    """Say once that recordings are longer than any that training had."""
    limit = model.config.trained_max_seconds
    longest = max((frames for prompt in prompts for _, frames in prompt.features), default=0)
    if limit is not None and longest / FRAMES_PER_SECOND > limit:
        _warn_once(limit)


@cache
def _warn_once(limit: float) -> None:
    logger.warning(
        "expected recordings of at most %.1f s, the longest of training, found a longer one; its "
        "answer may be worse: cut it, or train on longer ones",
        limit,
    )


def _pad_audio(prompts: Sequence[SpeechPrompt]) -> dict[str, Tensor]:
    return pad_features([each for prompt in prompts for each in prompt.features])


# --- batches --------------------------------------------------------------------------------------


def in_batches(
    lengths: Sequence[int],
    config: GenerationConfig,
    answer: Callable[[list[int]], list[Any]],
    on_batch: OnBatch | None,
) -> list[Any]:
    """Answer in batches of similar length, the longest first: too little memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    answers: list[Any] = [None] * len(lengths)
    for start in range(0, len(order), config.batch_size):
        chosen = order[start : start + config.batch_size]
        for index, one in zip(chosen, answer(chosen), strict=True):
            answers[index] = one
        if on_batch is not None:
            on_batch(len(chosen))
    return answers


class _Writer:
    """A model that answers left-padded batches under one configuration."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig
    ) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config
        self._stops = find_stop_ids(model, tokenizer)
        self._control = _find_control_ids(tokenizer)
        pad: Any = tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else self._stops[0]
        # What is not set here the library takes from the model's makers.
        self._settings = LibraryConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=False,  # draws come from `build_sampler`
            temperature=1.0,
            top_p=1.0,
            top_k=50,  # the library's own default
            repetition_penalty=1.0,
            num_beams=1,
            eos_token_id=list(self._stops),
            pad_token_id=self._pad,
        )

    def write(
        self,
        rows: Sequence[list[int]],
        seeds: Sequence[int],
        streamer: Any = None,
        **audio: Tensor,
    ) -> list[Answer]:
        """Answer B prompts, each with its seed; ``audio`` is what `pad_features` gives."""
        self._check(rows)
        config, sampler = self._config, None
        if config.do_sample:
            sampler = build_sampler(seeds, temperature=config.temperature, top_p=config.top_p)
        device = self._model.get_input_embeddings().weight.device
        ids, mask = _pad_left(rows, self._pad)
        out = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=self._settings,
            logits_processor=sampler,
            streamer=streamer,
            **{name: tensor.to(device) for name, tensor in audio.items()},
        )
        return [self._read(row) for row in out[:, ids.shape[1] :].tolist()]

    def _check(self, rows: Sequence[list[int]]) -> None:
        if not all(rows):
            raise InputError("expected prompts, found an empty one; render it with blsp.rendering")
        text_config = self._model.config.get_text_config(decoder=True)
        positions = getattr(text_config, "max_position_embeddings", None)  # ALiBi models have none
        longest = max(map(len, rows))
        if positions is not None and longest >= positions:
            raise InputError(
                f"expected prompts shorter than the language model's {positions} positions, found "
                f"{longest} tokens; shorten the conversation or the recordings"
            )

    def _read(self, row: list[int]) -> Answer:
        """The answer in a row of new tokens, which may go on after its end."""
        end = next((i for i, token in enumerate(row) if token in self._stops), None)
        kept = [token for token in row[:end] if token not in self._control]
        text = str(self._tokenizer.decode(kept, clean_up_tokenization_spaces=False)).strip()
        if end is not None:
            return Answer(text, "stop", end)
        return Answer(text.rstrip("\ufffd"), "length", len(row))  # a character may be cut, too


def find_stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens at which an answer ends: the end of sequence, and the template's end of turn."""
    found: list[Any] = []
    for ends in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found += ends if isinstance(ends, list) else [ends]
    if tokenizer.chat_template:
        # No prompt is made of it, so any date will do.
        found += Renderer(tokenizer, {"date": "2000-01-01"}).end_of_turn_ids()
    stops = tuple(dict.fromkeys(token for token in found if token is not None))
    if not stops:
        raise InputError(
            "expected an end-of-sequence token, found none, so that no answer would ever end; set "
            "eos_token in tokenizer_config.json"
        )
    return stops


def _find_control_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that are no text. Reasoning tags stay: whoever reads the answer must see them."""
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    added = tokenizer.added_tokens_decoder.items()
    named = [*special, *((token, one.content) for token, one in added if one.special)]
    return frozenset(token for token, text in named if not contains_thinking(text))


def _pad_left(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, T) both."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)
