"""The cascade's ears: a whole Whisper that encodes the true length of what it hears.

Any Whisper folder is loaded as it is; its encoder is the one of the speech model, so that cascade
and speech model hear the same. Samples enter; words leave, with how sure Whisper was of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from blsp.errors import InputError
from blsp.generation import GenerationConfig, in_batches
from blsp.model.configuration import AudioPadding
from blsp.model.encoder import BlspWhisperEncoder, encoder_lengths, masked_cross_attention
from blsp.model.foundations import check_loaded
from blsp.model.processing import extract_window


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
        return in_batches(
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
