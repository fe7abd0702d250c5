"""Who is asked in a benchmark: one loaded model that hears and reads, and the Whisper it replaces.

The language model of the text bound and of the cascade is the very one inside the speech model,
the cascade's Whisper encodes with the same precision and padding, and one `GenerationConfig` is all
that decodes. To a benchmark they are three functions, so that anything else can take their place.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blsp.arguments import load_on_device
from blsp.audio import SAMPLING_RATE
from blsp.caching import install_cache
from blsp.checkpoint import DELTA
from blsp.errors import InputError
from blsp.generation import Answer, GenerationConfig, answer_speech, answer_texts
from blsp.hearing import Hearing, load_whisper, transcribe
from blsp.manifest import AudioPart, Message
from blsp.meters import similarity_map
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.model.foundations import resolve_folder
from blsp.model.processing import pad_features
from blsp.model.restoring import find_checkpoint
from blsp.prompts import build_renderer, build_speech_prompt, place_audio
from blsp.rendering import Renderer

_ENCODER_CACHE_GB = 1.0
"""For recordings that several tasks ask about."""

Messages = Sequence[Message]
Audio = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Models:
    """Who is asked, as functions: of chats (text), chats with a recording each, and recordings."""

    read: Callable[[Sequence[Messages]], list[Answer]]
    hear: Callable[[Sequence[Messages], Sequence[Audio]], list[Answer]]
    transcribe: Callable[[Sequence[Audio], str], list[str]]
    """Recordings and their language."""
    description: Mapping[str, Any]
    """What they are and how they decode; a run is continued only with the same."""
    whisper: Path
    """Folder of the Whisper, for its table of spellings."""
    trained_max_seconds: float | None = None
    """The longest recording of the checkpoint's training, if it knows."""
    map_sentence: Callable[[Audio, str], dict[str, Any]] | None = None
    """A recording and its transcript -> `text`, its `tokens`, and `values`: the cosine of every
    speech position with every token."""


def load_models(
    checkpoint: Path,
    config: GenerationConfig,
    *,
    llm: str | None = None,
    encoder: str | None = None,
    whisper: str | None = None,
    bits: int | None = None,
) -> Models:
    """Load a checkpoint and the Whisper of its cascade.

    Args:
        checkpoint: written by `save_checkpoint`.
        config: how all systems decode.
        llm: where the language model is now, if not where the checkpoint says.
        encoder: the same for the encoder.
        whisper: folder or hub id of the cascade's Whisper; by default the encoder's own.
        bits: 16, 8 or 4, in which the language model is held; None is as the adapter was trained.

    Raises:
        InputError: what cannot be loaded, or no Whisper to be found.
    """
    folder = locate_checkpoint(checkpoint)
    model, processor = load_on_device(folder, llm=llm, encoder=encoder, bits=bits)
    delta = hashlib.sha256((folder / DELTA).read_bytes()).hexdigest()[:16]
    return build_models(
        model,
        processor,
        config,
        whisper=find_whisper(model, whisper),
        name={"checkpoint": str(checkpoint), "delta_sha256": delta, "bits": bits},
    )


def no_models(whisper: Path) -> Models:
    """Where nobody of ours is asked: for runs that score other systems alone.

    Args:
        whisper: folder with the table of spellings.
    """

    def refuse(*_: Any) -> Any:
        raise AssertionError("a run without a checkpoint asks none of its models")

    return Models(read=refuse, hear=refuse, transcribe=refuse, description={}, whisper=whisper)


def locate_checkpoint(source: str | Path) -> Path:
    """Return the folder of a checkpoint, from its path or hub id.

    Raises:
        InputError: there is none.
    """
    folder = find_checkpoint(source)
    if folder is None:
        raise InputError(
            f"{source}: expected a checkpoint of blsp, found none; name a folder that training "
            "or `blsp import` wrote"
        )
    return folder


def find_whisper(model: BlspForConditionalGeneration, source: str | None = None) -> Path:
    """Return the folder of the cascade's Whisper: the one named, or the encoder's own.

    Raises:
        InputError: the checkpoint knows of none.
    """
    base = (model.config.bases or {}).get("encoder")
    if source is None and (base is None or base["source"].endswith(".pt")):
        raise InputError(
            "expected the folder of a whole Whisper for the cascade, found that the checkpoint "
            f"names {base['source'] if base else 'none'}; give one with --whisper"
        )
    if source is None:
        return resolve_folder(base["source"], base["revision"], what="Whisper")  # type: ignore[index]
    return resolve_folder(source, None, what="Whisper")


def build_models(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    config: GenerationConfig,
    *,
    whisper: Path,
    name: Mapping[str, Any],
) -> Models:
    """Make one loaded model hear and read, and its Whisper transcribe, all decoding alike.

    Args:
        model: of a checkpoint.
        processor: its own.
        config: how all systems decode.
        whisper: folder of the cascade's Whisper; loaded when it is first needed.
        name: what tells these weights from others, for `Models.description`.
    """
    if model.device.type == "cpu":  # a GPU encodes a batch faster than one by one
        model.requires_grad_(False)
        install_cache(model, _ENCODER_CACHE_GB)
    renderer = build_renderer(model, processor)
    decoding = {key: value for key, value in asdict(config).items() if key != "batch_size"}
    description = {
        **name,
        "bases": model.config.bases,
        "whisper": str(whisper),
        "template": renderer.template_fingerprint(),
        "dtype": str(model.model.language_model.dtype),
        "decoding": decoding,
    }

    def hear(chats: Sequence[Messages], audios: Sequence[Audio]) -> list[Answer]:
        prompts = [
            build_speech_prompt(renderer, processor, chat, [audio])
            for chat, audio in zip(chats, audios, strict=True)
        ]
        return answer_speech(model, processor, prompts, config)

    def map_sentence(audio: Audio, text: str) -> dict[str, Any]:
        return _map_sentence(model, processor, renderer, audio, text)

    return Models(
        map_sentence=map_sentence,
        trained_max_seconds=model.config.trained_max_seconds,
        read=_Reader(model, renderer, config).read,
        hear=hear,
        transcribe=_Scribe(model, whisper, config).transcribe,
        description=description,
        whisper=whisper,
    )


@torch.no_grad()
def _map_sentence(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    renderer: Renderer,
    audio: Audio,
    text: str,
) -> dict[str, Any]:
    """Compare what the language model makes, half-way up, of a recording and of its words."""
    part = AudioPart(audio="recording", duration=len(audio) / SAMPLING_RATE, transcript=text)
    chat = [place_audio("", part)]
    heard = build_speech_prompt(renderer, processor, chat, [audio])
    read = renderer.render_prompt(chat, view="teacher")
    features = pad_features(list(heard.features))
    device = model.device
    layer = model.config.get_text_config(decoder=True).num_hidden_layers // 2

    def states(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        output = model(**inputs, output_hidden_states=True, skip_lm_head=True)
        return output.hidden_states[layer][0]  # (T, D)

    written = torch.tensor([read.ids], device=device)
    (start, end) = read.transcripts[0]
    with model.model.without_lora():
        words = states({"input_ids": written})[start:end]
    given: dict[str, Any] = {"input_ids": torch.tensor([heard.ids]), **features}
    inputs = {name: tensor.to(device) for name, tensor in given.items()}
    if model.config.adapter.decides_length:
        inputs = model.fit_audio(**inputs)
    spoken = inputs["input_ids"][0] == processor.audio_token_id
    values = similarity_map(states(inputs)[spoken], words)
    tokens = [renderer.tokenizer.decode([token]).strip() for token in read.ids[start:end]]
    return {
        "text": text,
        "tokens": tokens,
        "values": [[round(value, 3) for value in row] for row in values.tolist()],
    }


class _Reader:
    """The language model alone; greedy answers to a prompt that it has read before are the same."""

    def __init__(
        self, model: BlspForConditionalGeneration, renderer: Renderer, config: GenerationConfig
    ) -> None:
        self._model = model
        self._renderer, self._config = renderer, config
        self._known: dict[tuple[int, ...], Answer] = {}

    def read(self, chats: Sequence[Messages]) -> list[Answer]:
        """Answer chats, each with a transcript in place of its recording."""
        prompts = [tuple(self._renderer.render_prompt(c, view="teacher").ids) for c in chats]
        if self._config.do_sample:
            return self._answer(prompts)
        new = list(dict.fromkeys(ids for ids in prompts if ids not in self._known))
        self._known |= zip(new, self._answer(new), strict=True)
        return [self._known[ids] for ids in prompts]

    def _answer(self, prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
        rows = [list(ids) for ids in prompts]
        llm = self._model.model.language_model
        with self._model.model.without_lora():
            return answer_texts(llm, self._renderer.tokenizer, rows, self._config)


class _Scribe:
    """The cascade's Whisper, loaded when the first recording comes."""

    def __init__(
        self, model: BlspForConditionalGeneration, folder: Path, config: GenerationConfig
    ) -> None:
        self._model, self._folder, self._config = model, folder, config
        self._loaded: tuple[Any, Any] | None = None

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """Transcribe recordings as the speech model encodes them: same precision and padding."""
        if self._loaded is None:
            tower = self._model.model.audio_tower
            whisper, processor = load_whisper(self._folder, dtype=tower.dtype)
            self._loaded = whisper.to(tower.device), processor  # type: ignore[arg-type]
        return transcribe(
            *self._loaded,
            audios,
            config=self._config,
            hearing=Hearing(
                audio_padding=self._model.config.audio_padding,  # type: ignore[arg-type]
                language=language,
            ),
        )
