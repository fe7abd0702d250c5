"""Recordings and text to model inputs: features at true length, and one audio token per embedding.

Features are computed for each recording alone, so that nothing depends on its batch mates, and
audio longer than the encoder's window is extracted window by window and never cut. The language
model's chat template gets a few lines in front that turn audio parts into the audio token: it
then renders plain strings, as it was written for.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    WhisperFeatureExtractor,
)

from blsp.errors import InputError
from blsp.model.adapter import num_speech_tokens
from blsp.model.configuration import AdapterConfig
from blsp.rendering import AUDIO_TOKEN

Features = tuple[Tensor, int]
"""Log-mel of a recording, (M, F), and its true frames: F unless ``audio_padding`` is `max`."""

# Filled in with the token's text, which must not hold a quote or a backslash. The line break at the
# end is eaten by the template engine, so that the language model's template starts on a new line.
_FLATTEN = (
    "{%- set blsp = namespace(messages=[]) %}"
    "{%- for message in messages %}"
    "{%- set content = namespace(text='') %}"
    "{%- if message['content'] is defined and message['content'] is iterable"
    " and message['content'] is not string and message['content'] is not mapping %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'audio' %}{%- set content.text = content.text + '@AUDIO@' %}"
    "{%- elif part['type'] == 'text' %}{%- set content.text = content.text + part['text'] %}"
    "{%- else %}{{- raise_exception('expected text and audio parts, found ' + part['type']) }}"
    "{%- endif %}{%- endfor %}"
    "{%- set blsp.messages = blsp.messages + [dict(message, content=content.text)] %}"
    "{%- else %}{%- set blsp.messages = blsp.messages + [message] %}{%- endif %}"
    "{%- endfor %}"
    "{%- set messages = blsp.messages %}\n"
)


class BlspProcessor(ProcessorMixin):
    """Whisper's feature extractor and the language model's tokenizer, joined.

    Args:
        feature_extractor: of the encoder.
        tokenizer: of the language model, knowing ``audio_token``.
        chat_template: with audio parts; `with_audio_parts` makes one.
        audio_token: text of the placeholder.
        adapter_config: kind and numbers of the adapter, as in the model's configuration.
        audio_padding: `variable` for true length, `max` for whole windows of silence at the end.
        window_samples: audio the encoder takes at once.
        template_variables: given to the chat template unless a call says otherwise.
    """

    text_kwargs = {"padding": True, "padding_side": "left", "return_tensors": "pt"}  # noqa: RUF012
    feature_extractor: WhisperFeatureExtractor
    tokenizer: PreTrainedTokenizerBase

    def __init__(  # noqa: PLR0913  saved and loaded by name
        self,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | dict[str, str] | None = None,
        audio_token: str = AUDIO_TOKEN,
        adapter_config: dict[str, Any] | None = None,
        audio_padding: str = "variable",
        window_samples: int = 480_000,
        template_variables: dict[str, Any] | None = None,
    ) -> None:
        self.audio_token = audio_token
        self.audio_token_id: int = tokenizer.convert_tokens_to_ids(audio_token)  # type: ignore[assignment]
        self.adapter_config = AdapterConfig.from_dict(adapter_config or {}).to_dict()
        self.audio_padding = audio_padding
        self.window_samples = window_samples
        self.template_variables = template_variables
        # A saved folder has one template file, which the tokenizer reads, too. It keeps the LLM's
        # own: conversations are known by it.
        tokenizer.chat_template = without_audio_parts(tokenizer.chat_template, audio_token)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    # --- features ---------------------------------------------------------------------------------

    def num_frames(self, samples: int) -> int:
        """Log-mel frames of so many samples: one for every hop begun."""
        return num_frames(self.feature_extractor, samples)

    def num_speech_tokens(self, samples: int) -> int:
        """Audio tokens that stand for a recording of so many samples."""
        return num_speech_tokens(
            AdapterConfig.from_dict(self.adapter_config),
            self.num_frames(samples),
            window_frames=self.num_frames(self.window_samples),
        )

    def extract_features(self, audio: NDArray[np.float32]) -> Features:
        """Log-mel features of one recording.

        Args:
            audio: mono samples at 16 kHz.

        Raises:
            InputError: no samples, or not one channel.
        """
        audio = np.asarray(audio, dtype=np.float32)
        if audio.ndim != 1 or audio.shape[0] == 0:
            raise InputError(
                f"audio: expected mono samples (n,) with n > 0, found shape {audio.shape}; "
                "mix it down, or leave empty recordings out"
            )
        windows = [
            extract_window(
                self.feature_extractor,
                audio[start : start + self.window_samples],
                window_samples=self.window_samples,
                pads=self.audio_padding == "max",
            )
            for start in range(0, len(audio), self.window_samples)
        ]
        return torch.cat(windows, dim=-1), self.num_frames(len(audio))

    # --- text -------------------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self, text: str | list[str] | None = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Tokenise text and extract audio.

        Args:
            text: with one audio token (or ``<|audio|>``) for every recording.
            audio: recordings of all texts in order: samples at 16 kHz, paths or URLs.

        Returns:
            ``input_ids``, ``attention_mask`` (B, T), left-padded, and with audio
            ``input_features`` (N, M, F), ``input_features_mask`` (N, F).
        """
        if text is not None and not kwargs.get("sanitize_control_tokens"):
            text = [text] if isinstance(text, str) else text
            text = [one.replace(AUDIO_TOKEN, self.audio_token) for one in text]
        return super().__call__(text=text, audio=audio, **kwargs)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Render a chat whose parts may be audio, with the variables the model was trained with."""
        variables = self.template_variables or {}
        return super().apply_chat_template(conversation, *args, **(variables | kwargs))

    def _process_audio(self, audio: Any, **_: Any) -> tuple[dict[str, Any], list[str]]:
        recordings = [np.asarray(one, dtype=np.float32) for one in audio]
        features = [self.extract_features(one) for one in recordings]
        inputs = {**pad_features(features), "num_samples": [len(one) for one in recordings]}
        return inputs, [
            self.replace_audio_token(inputs, audio_idx=index) for index in range(len(recordings))
        ]

    def replace_audio_token(self, audio_inputs: dict[str, Any], audio_idx: int, **_: Any) -> str:
        """As many audio tokens as the recording becomes embeddings."""
        return self.audio_token * self.num_speech_tokens(audio_inputs["num_samples"][audio_idx])

    @property
    def unused_input_names(self) -> list[str]:
        """What `_process_audio` returns for the text alone."""
        return ["num_samples"]

    @property
    def model_input_names(self) -> list[str]:
        """Everything the model may be given."""
        return [*self.tokenizer.model_input_names, "input_features", "input_features_mask"]


def pad_features(features: Sequence[Features]) -> dict[str, Tensor]:
    """Batch N recordings: ``input_features`` (N, M, F) and ``input_features_mask`` (N, F).

    Of no recordings nothing is said.
    """
    if not features:
        return {}
    width = max(one.shape[-1] for one, _ in features)
    batch = torch.zeros(len(features), features[0][0].shape[0], width)
    mask = torch.zeros(len(features), width, dtype=torch.long)
    for row, (one, frames) in enumerate(features):
        batch[row, :, : one.shape[-1]] = one
        mask[row, :frames] = 1
    return {"input_features": batch, "input_features_mask": mask}


def num_frames(extractor: WhisperFeatureExtractor, samples: int) -> int:
    """Log-mel frames of so many samples: one for every hop begun."""
    return math.ceil(samples / extractor.hop_length)


def extract_window(
    extractor: WhisperFeatureExtractor,
    audio: NDArray[np.float32],
    *,
    window_samples: int,
    pads: bool,
) -> Tensor:
    """The beginning of what Whisper sees of a window padded with silence: (M, F).

    Args:
        extractor: of the encoder.
        audio: (n,) mono samples at 16 kHz, 0 < n <= `window_samples`.
        window_samples: audio the encoder takes at once.
        pads: all frames of the window rather than the true ones.
    """
    frames, length = num_frames(extractor, len(audio)), window_samples
    if pads:
        frames = num_frames(extractor, length)
    else:
        # One analysis window of zeros after the last frame: beyond it nothing reaches back.
        length = min(frames * extractor.hop_length + extractor.n_fft, length)
    padded = np.pad(audio, (0, length - len(audio)))
    features = extractor._torch_extract_fbank_features(padded[None])[0]  # -> (M, F)
    return torch.from_numpy(features[:, :frames])


def with_audio_parts(template: Any, audio_token: str) -> Any:
    """Put the lines before a chat template (or each of several) that flatten content parts."""
    if template is None:
        return None
    if isinstance(template, dict):
        return {name: with_audio_parts(one, audio_token) for name, one in template.items()}
    return _FLATTEN.replace("@AUDIO@", audio_token) + template


def without_audio_parts(template: Any, audio_token: str) -> Any:
    """Undo `with_audio_parts`; other templates stay as they are."""
    if template is None:
        return None
    if isinstance(template, dict):
        return {name: without_audio_parts(one, audio_token) for name, one in template.items()}
    return template.removeprefix(_FLATTEN.replace("@AUDIO@", audio_token))
