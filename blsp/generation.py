"""Prompts, read or heard, become answers: in batches that change nothing.

Prompts are sorted by length, padded on the left, generated together and put back in order. What a
model's makers recommend for sampling is not used: everything that shapes an answer stands in
`GenerationConfig`, so that a text bound, a cascade and a speech model are decoded alike. Prompts
come from `blsp.rendering` as token ids; `Answer`s leave. `transcribe` is the cascade's ears.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig as LibraryConfig
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TextStreamer,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from blsp.dataset import FRAMES_PER_SECOND, expand_placeholders
from blsp.drawing import build_sampler, derive_seed
from blsp.errors import InputError
from blsp.manifest import Message, Part, TextPart
from blsp.model.configuration import AudioPadding
from blsp.model.encoder import BlspWhisperEncoder, encoder_lengths, masked_cross_attention
from blsp.model.foundations import check_loaded
from blsp.model.modeling import BlspForConditionalGeneration
from blsp.model.processing import BlspProcessor, Features, extract_window, pad_features
from blsp.rendering import Renderer, contains_thinking

logger = logging.getLogger(__name__)

AUDIO_PLACE = "{audio}"
"""Where a recording stands in the text of an instruction."""


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


@dataclass(frozen=True)
class SpeechPrompt:
    """A prompt that is heard."""

    ids: list[int]
    """One placeholder a speech embedding."""
    features: tuple[Features, ...]
    """Of each recording, in order."""


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

    return _in_batches([len(ids) for ids in prompts], config, answer, on_batch)


def _seeds_of(
    chosen: Sequence[int], names: Sequence[str] | None, config: GenerationConfig
) -> list[int]:
    return [derive_seed(config.seed, names[i] if names else str(i)) for i in chosen]


# --- heard ----------------------------------------------------------------------------------------


def read_prompt(text: str) -> str:
    """A prompt as it is typed in a command, where `\\n` begins a line."""
    return text.replace("\\n", "\n")


def place_audio(instruction: str, part: Part, *, teacher: str | None = None) -> Message:
    """Return the user's message: an instruction with a recording (or its words) at `{audio}`.

    Without `{audio}` the recording comes first, on a line of its own.

    Args:
        instruction: what is asked.
        part: what stands at `{audio}`.
        teacher: what the teacher view is asked instead.

    Raises:
        InputError: `{audio}` twice, or beside other words on its line.
    """
    before, after = _split_at_audio(instruction)
    read_before, read_after = (before, after) if teacher is None else _split_at_audio(teacher)
    first, last = _build_text(before, read_before), _build_text(after, read_after)
    return Message(role="user", content=(*first, part, *last))


def _build_text(text: str, teacher: str) -> tuple[TextPart, ...]:
    """One part, or none where neither view has words."""
    if text == teacher:
        return (TextPart(text=text),) if text else ()
    return (TextPart(text=text, teacher=teacher),)


def _split_at_audio(instruction: str) -> tuple[str, str]:
    """What comes before the recording, and what after it."""
    if AUDIO_PLACE not in instruction:
        instruction = f"{AUDIO_PLACE}\n{instruction}".rstrip()
    alone = [line.strip() for line in instruction.splitlines()].count(AUDIO_PLACE)
    if alone != 1 or instruction.count(AUDIO_PLACE) != 1:
        raise InputError(
            f"expected {AUDIO_PLACE} once, on a line of its own, found {instruction!r}; words "
            "tokenise differently in mid-line"
        )
    before, _, after = instruction.partition(AUDIO_PLACE)
    return before, after


def build_renderer(model: BlspForConditionalGeneration, processor: BlspProcessor) -> Renderer:
    """The renderer of a checkpoint, with the template variables it was trained with."""
    return Renderer(
        processor.tokenizer,
        model.config.template_variables,
        audio_token_id=processor.audio_token_id,
    )


def build_speech_prompt(
    renderer: Renderer,
    processor: BlspProcessor,
    messages: Sequence[Message],
    audios: Sequence[np.ndarray],
) -> SpeechPrompt:
    """Render messages as they are heard.

    Args:
        renderer: with the audio token of the model.
        processor: of the model.
        messages: up to the answer to come; only the place of their recordings matters.
        audios: (n,) mono samples at 16 kHz of each recording in order.
    """
    rendered = renderer.render_prompt(messages, view="student")
    counts = [processor.num_speech_tokens(len(audio)) for audio in audios]
    if len(counts) != len(rendered.audio):
        raise ValueError(
            f"expected samples of {len(rendered.audio)} recordings, found {len(counts)}; give one "
            "array for each audio part"
        )
    ids, _ = expand_placeholders(rendered, counts)
    return SpeechPrompt(ids, tuple(processor.extract_features(audio) for audio in audios))


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

    return _in_batches([len(prompt.ids) for prompt in prompts], config, answer, on_batch)


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


def _in_batches(
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


# --- the cascade's ears ---------------------------------------------------------------------------


def load_whisper(
    folder: str | Path, *, dtype: torch.dtype | str = torch.float32
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Load any Whisper folder as one that encodes the true length; ``auto`` is as stored.

    Raises:
        InputError: the folder holds no whole Whisper with its processor.
    """
    try:
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
        processor = WhisperProcessor.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder}: expected a whole Whisper with its processor, found "
            f"{' '.join(str(error).split())[:200]}; check the path"
        ) from error
    whisper, info = loaded
    check_loaded(folder, missing=info["missing_keys"], unexpected=())
    whisper.model.encoder = _encoder_of(whisper)
    whisper.generation_config.max_length = None  # else warned about
    return whisper.eval(), processor


def _encoder_of(whisper: WhisperForConditionalGeneration) -> BlspWhisperEncoder:
    """The encoder on true lengths; it shares its weights with the one that is there."""
    present: Any = whisper.model.encoder
    if isinstance(present, BlspWhisperEncoder):
        return present
    with torch.device("meta"):
        encoder = BlspWhisperEncoder(whisper.config)
    encoder.load_state_dict(present.state_dict(), assign=True)
    return encoder.train(present.training)


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """What Whisper is told about recordings."""

    audio_padding: AudioPadding = "variable"
    """As the speech model that it is compared with; ``max`` is as it was trained."""
    language: str = "en"
    """Of the speech, for a multilingual Whisper."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """A multilingual Whisper translates too, into English alone."""


AS_SPOKEN = Hearing()


@dataclass(frozen=True)
class Transcript:
    """What Whisper heard in one window."""

    text: str
    """Without control tokens and outer whitespace."""
    mean_log_probability: float
    """Natural logarithm, over all tokens that were written and the one that ends them, under what
    Whisper may write: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision"
    (2022), section 4.5."""
    finish_reason: Literal["stop", "length"]
    """`length`: it was cut at `max_new_tokens`."""


def transcribe(
    whisper: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    audios: Sequence[np.ndarray],
    *,
    config: GenerationConfig,
    hearing: Hearing = AS_SPOKEN,
) -> list[str]:
    """Transcribe recordings, in their order; greedy, and longer ones in windows.

    Args:
        whisper: from `load_whisper`, or any whole Whisper.
        processor: its own.
        audios: (n,) mono samples at 16 kHz.
        config: `batch_size` and `max_new_tokens` count, the latter up to what the decoder can.
        hearing: language, padding and whether to translate.
    """
    size = count_window_samples(whisper, processor)
    windows = [
        (clip, audio[start : start + size])
        for clip, audio in enumerate(audios)
        for start in range(0, len(audio), size)
    ]
    transcripts = transcribe_windows(
        whisper,
        processor,
        [audio for _, audio in windows],
        config=config,
        hearing=hearing,
    )
    heard: list[list[str]] = [[] for _ in audios]
    for (clip, _), transcript in zip(windows, transcripts, strict=True):
        heard[clip].append(transcript.text)
    return [" ".join(filter(None, pieces)) for pieces in heard]


@torch.no_grad()
def transcribe_windows(
    whisper: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    audios: Sequence[np.ndarray],
    *,
    config: GenerationConfig,
    hearing: Hearing = AS_SPOKEN,
) -> list[Transcript]:
    """Transcribe recordings of up to one window, and say how sure Whisper is; as `transcribe`."""
    return _Scribe(whisper, processor, config, hearing).transcribe_all(audios)


def count_window_samples(
    whisper: WhisperForConditionalGeneration, processor: WhisperProcessor
) -> int:
    """How many samples Whisper hears at once: 30 s of them."""
    extractor: Any = processor.feature_extractor  # type: ignore[attr-defined]
    return 2 * whisper.config.max_source_positions * extractor.hop_length


class _Scribe:
    """A Whisper that transcribes batches of windows."""

    def __init__(
        self,
        whisper: WhisperForConditionalGeneration,
        processor: Any,
        config: GenerationConfig,
        hearing: Hearing,
    ) -> None:
        self._whisper, self._processor = whisper, processor
        self._encoder = _encoder_of(whisper)
        self._pads, self._config = hearing.audio_padding == "max", config
        self.window_samples = count_window_samples(whisper, processor)
        # Start, language, task and "no timestamps" come before what is written.
        room = whisper.config.max_target_positions - 4
        self._settings: dict[str, Any] = {
            "max_new_tokens": min(config.max_new_tokens, room),
            "do_sample": False,
            "num_beams": 1,
        }
        made: Any = whisper.generation_config
        ends = made.eos_token_id
        self._ends: list[int] = ends if isinstance(ends, list) else [ends]
        if getattr(made, "is_multilingual", False):
            self._settings |= {"language": hearing.language, "task": hearing.task}
        last_word = getattr(made, "no_timestamps_token_id", None)
        if last_word is not None:
            # A timestamp written nevertheless would make the library seek in features that it was
            # not given.
            timestamps = range(last_word + 1, whisper.config.vocab_size)
            self._settings["suppress_tokens"] = [*(made.suppress_tokens or ()), *timestamps]

    def transcribe_all(self, windows: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcribe any number of windows, in their order."""
        return _in_batches(
            [len(audio) for audio in windows],
            self._config,
            lambda chosen: self.transcribe([windows[index] for index in chosen]),
            None,
        )

    def transcribe(self, audios: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcribe one batch of windows."""
        features = [self._extract(audio) for audio in audios]
        frames = torch.tensor([one.shape[-1] for one in features])
        weight: Any = self._encoder.conv1.weight
        batch = torch.zeros(len(features), len(features[0]), int(frames.max()))
        for row, one in enumerate(features):
            batch[row, :, : one.shape[-1]] = one
        mask = (torch.arange(batch.shape[-1]) < frames[:, None]).to(weight.device)
        states = self._encoder(batch.to(weight), None if self._pads else mask).last_hidden_state
        lengths = encoder_lengths(frames.to(weight.device))
        confidence = _Confidence(self._ends)
        with masked_cross_attention(self._whisper.model.decoder, lengths):
            out: Any = self._whisper.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                logits_processor=LogitsProcessorList([confidence]),
                **self._settings,
            )
        texts = self._processor.tokenizer.batch_decode(out, skip_special_tokens=True)
        return [
            Transcript(text.strip(), mean, "length" if cut else "stop")
            for text, mean, cut in zip(texts, *confidence.read(), strict=True)
        ]

    def _extract(self, audio: np.ndarray) -> Tensor:
        return extract_window(
            self._processor.feature_extractor,
            np.asarray(audio, dtype=np.float32),
            window_samples=self.window_samples,
            pads=self._pads,
        )


class _Confidence(LogitsProcessor):
    """Adds up the log-probability of the likeliest token, which greedy decoding writes.

    The library would keep the scores of all steps for that: (B, V) each, a gigabyte a batch.

    Args:
        ends: tokens at which a row ends.
    """

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = ends
        self._total: Any = 0.0
        self._count: Any = 0
        self._open: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T) and (B, V), after all that forbids tokens -> the same scores."""
        best, token = scores.float().log_softmax(-1).max(-1)  # -> (B,) both
        if self._open is None:
            self._open = torch.ones_like(token, dtype=torch.bool)
        self._total = self._total + best.where(self._open, 0.0)
        self._count = self._count + self._open.long()
        self._open = self._open & ~torch.isin(token, torch.tensor(self._ends, device=token.device))
        return scores

    def read(self) -> tuple[list[float], list[bool]]:
        """The mean of each row, and whether it never came to its end."""
        return (self._total / self._count).tolist(), self._open.tolist()
