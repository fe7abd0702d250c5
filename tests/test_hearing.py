"""The cascade's ears: a batch changes nothing, and a transcript says how likely it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from blsp.errors import InputError
from blsp.generation import GenerationConfig
from blsp.hearing import Hearing, load_whisper, transcribe, transcribe_windows
from tests.model.conftest import make_audio, save_whisper

SHORT = GenerationConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole random Whisper, tokenizer included, as any other tool would have saved it."""
    folder = tmp_path_factory.mktemp("whole")
    words = {chr(97 + index): index + 4 for index in range(26)}
    special = {"<|pad|>": 0, "<|bos|>": 1, "<|endoftext|>": 2, "<|startoftranscript|>": 3}
    save_whisper(folder, max_target_positions=32, init_std=0.5)
    tokenizer = WhisperTokenizer(vocab=special | words, merges=[], pad_token="<|pad|>")
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def clips() -> list[np.ndarray]:
    return [make_audio(count, seed=index) for index, count in enumerate([9_000, 40_000, 300])]


def test_a_batch_of_transcripts_is_its_singles(whisper_folder: Path) -> None:
    whisper, processor = load_whisper(whisper_folder)
    together = transcribe(whisper, processor, clips(), config=SHORT)
    singles = [transcribe(whisper, processor, [clip], config=SHORT)[0] for clip in clips()]
    assert together == singles
    assert all(together[:2])


def test_a_multilingual_whisper_is_told_the_language(whisper_folder: Path) -> None:
    """Batches equal singles there too, and the decoder's last position is not overrun."""
    whisper, processor = load_whisper(whisper_folder)
    settings: Any = whisper.generation_config
    settings.is_multilingual = True
    settings.lang_to_id, settings.task_to_id = {"<|en|>": 9, "<|de|>": 10}, {"transcribe": 11}
    settings.no_timestamps_token_id = 12
    long = GenerationConfig(max_new_tokens=500)
    together = transcribe(whisper, processor, clips(), config=long)
    assert together == [transcribe(whisper, processor, [c], config=long)[0] for c in clips()]
    assert together != transcribe(
        whisper, processor, clips(), config=long, hearing=Hearing(language="de")
    )


def test_transcripts_on_full_padding_are_those_of_plain_whisper(whisper_folder: Path) -> None:
    whisper, processor = load_whisper(whisper_folder)
    ours = transcribe(
        whisper, processor, clips()[:2], config=SHORT, hearing=Hearing(audio_padding="max")
    )
    plain = WhisperForConditionalGeneration.from_pretrained(whisper_folder, dtype=torch.float32)
    features = WhisperProcessor.from_pretrained(whisper_folder)(
        clips()[:2], sampling_rate=16_000, return_tensors="pt"
    )
    out: Any = plain.eval().generate(features.input_features, max_new_tokens=12, do_sample=False)
    texts = processor.tokenizer.batch_decode(out, skip_special_tokens=True)
    assert ours == [text.strip() for text in texts]


def test_a_long_recording_is_transcribed_in_windows(whisper_folder: Path) -> None:
    whisper, processor = load_whisper(whisper_folder)
    audio = make_audio(31 * 16_000)
    [whole] = transcribe(whisper, processor, [audio], config=SHORT)
    parts = [audio[: 30 * 16_000], audio[30 * 16_000 :]]
    assert whole == " ".join(transcribe(whisper, processor, parts, config=SHORT))


@torch.no_grad()
def mean_log_probability(plain: Any, processor: Any, audio: np.ndarray, limit: int) -> float:
    """Of the likeliest tokens up to the end, each by a pass of its own of the plain library."""
    features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    states = plain.model.encoder(features)
    ids, found = [3], []
    while len(found) < limit and ids[-1] != 2:
        logits = plain(encoder_outputs=states, decoder_input_ids=torch.tensor([ids])).logits
        best = logits[0, -1].log_softmax(-1).max(-1)
        ids.append(int(best.indices))
        found.append(float(best.values))
    return sum(found) / len(found)


def test_a_transcript_says_how_likely_its_tokens_are(whisper_folder: Path) -> None:
    """Some are cut by the limit, some come to their end, which counts as a token."""
    whisper, processor = load_whisper(whisper_folder)
    plain = WhisperForConditionalGeneration.from_pretrained(whisper_folder, dtype=torch.float32)
    plain = plain.eval()
    plain.proj_out.bias = whisper.proj_out.bias = torch.nn.Parameter(3 * torch.eye(64)[2])
    audios = [make_audio(9_000 + 9_000 * seed, seed=seed) for seed in range(4)]
    found = transcribe_windows(
        whisper, processor, audios, config=SHORT, hearing=Hearing(audio_padding="max")
    )
    for audio, one in zip(audios, found, strict=True):
        expected = mean_log_probability(plain, processor, audio, SHORT.max_new_tokens)
        assert one.mean_log_probability == pytest.approx(expected, abs=1e-4)
    assert {one.finish_reason for one in found} == {"length", "stop"}


def test_a_folder_without_a_whole_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a whole Whisper"):
        load_whisper(tmp_path)


def test_a_whisper_without_its_decoder_is_refused(whisper_folder: Path, tmp_path: Path) -> None:
    whisper, processor = load_whisper(whisper_folder)
    state = whisper.state_dict()
    kept = {name: each for name, each in state.items() if "decoder.layers" not in name}
    whisper.save_pretrained(tmp_path, state_dict=kept)
    processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"found .* missing .*decoder"):
        load_whisper(tmp_path)
