"""Kept encoder output: the same numbers, each recording encoded once, and no more than allowed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training import build_model, save_models

from blsp.caching import FeatureCache, fill_cache, install_cache, share_caches
from blsp.errors import InputError
from blsp.manifest import AudioPart
from blsp.model import BlspForConditionalGeneration
from blsp.model.processing import Features


@pytest.fixture
def model(tmp_path: Path) -> BlspForConditionalGeneration:
    save_models(tmp_path)
    return build_model(tmp_path)[0].eval()


FEATURES = torch.randn(3, 80, 120, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(120) < torch.tensor([120, 55, 90])[:, None]).long()


def embed(model: BlspForConditionalGeneration, rows: list[int]) -> Any:
    with torch.no_grad():
        return model.get_audio_features(FEATURES[rows], MASK[rows]).pooler_output


def count_calls(model: BlspForConditionalGeneration) -> list[int]:
    calls: list[int] = []
    tower: Any = model.model.audio_tower
    forward = tower.forward

    def counted(features: torch.Tensor, **options: Any) -> Any:
        calls.append(len(features))
        return forward(features, **options)

    tower.forward = counted
    return calls


def test_kept_output_is_what_the_encoder_says(model: BlspForConditionalGeneration) -> None:
    expected = embed(model, [0, 1, 2])
    install_cache(model, 1.0)
    assert torch.allclose(embed(model, [0, 1, 2]), expected, atol=1e-5)
    both = torch.cat([embed(model, [2]), embed(model, [1])])
    assert torch.allclose(embed(model, [2, 1]), both, atol=1e-6)  # the adapter sees a batch


def test_a_recording_is_encoded_once(model: BlspForConditionalGeneration) -> None:
    calls = count_calls(model)
    install_cache(model, 1.0)
    for rows in ([0, 1], [1, 2], [2, 1, 0]):
        embed(model, rows)
    assert calls == [1, 1, 1]


def test_what_is_encoded_together_is_what_is_encoded_alone(
    model: BlspForConditionalGeneration,
) -> None:
    expected = embed(model, [0, 1, 2])
    calls = count_calls(model)
    cache = install_cache(model, 1.0)
    for _ in range(2):
        cache.fill(FEATURES, MASK)
    assert torch.allclose(embed(model, [0, 1, 2]), expected, atol=1e-5)
    assert calls == [3]


def test_no_more_is_kept_than_allowed(model: BlspForConditionalGeneration) -> None:
    """60 rows of 32 numbers of 4 bytes fit, 28 more do not."""
    calls = count_calls(model)
    cache = install_cache(model, 8000 / 1e9)
    embed(model, [0, 1])
    embed(model, [0, 1])
    assert sum(kept.nbytes for kept in cache.store.tensors.values()) == 60 * 32 * 4
    assert len(calls) == 3


class Recordings:
    """A data set of so many recordings of a second, of which it counts those that are read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def recordings(self) -> Iterator[tuple[AudioPart, Path, Any]]:
        for index in range(self.count):
            self.read += 1
            yield AudioPart(audio=f"{index}", duration=1.0, transcript=""), Path("x"), load_noise


def load_noise(part: AudioPart, root: Path) -> Features:
    noise = torch.Generator().manual_seed(int(part.audio))
    return torch.randn(80, 100, generator=noise), 100


def test_a_run_of_which_all_finds_room_is_encoded_before_it(
    model: BlspForConditionalGeneration,
) -> None:
    calls, recordings = count_calls(model), Recordings(20)
    cache = install_cache(model, 1.0)
    fill_cache(cache, model, [recordings])  # type: ignore[list-item]
    assert calls == [16, 4] and len(cache.store.tensors) == 20


def test_no_more_of_a_run_is_read_than_finds_room(model: BlspForConditionalGeneration) -> None:
    """50 rows of 32 numbers of 4 bytes a recording: three find room."""
    calls, recordings = count_calls(model), Recordings(1_000)
    fill_cache(install_cache(model, 3.5 * 6_400 / 1e9), model, [recordings])  # type: ignore[list-item]
    assert (calls, recordings.read) == ([], 4)


def test_a_trained_encoder_is_not_kept(model: BlspForConditionalGeneration) -> None:
    model.model.audio_tower.conv1.weight.requires_grad_(True)
    with pytest.raises(InputError, match="expected 0 where the encoder is trained"):
        install_cache(model, 1.0)


def test_models_of_one_encoder_share_what_is_kept(tmp_path: Path) -> None:
    save_models(tmp_path)
    with share_caches(1.0):
        first, second = build_model(tmp_path)[0].eval(), build_model(tmp_path)[0].eval()
        calls = count_calls(first), count_calls(second)
        for model in (first, second):
            install_cache(model, 0.0)  # its own room does not count
        assert torch.equal(embed(first, [0, 1]), embed(second, [0, 1]))
        assert [len(each) for each in calls] == [2, 0]
    assert install_cache(second, 1.0).store.tensors == {}


def test_models_of_other_encoders_or_precision_share_nothing(tmp_path: Path) -> None:
    save_models(tmp_path)
    with share_caches(1.0):
        first, second, third = (build_model(tmp_path)[0].eval() for _ in range(3))
        second.config.bases["encoder"]["fingerprint"] = "another"  # type: ignore[index]
        third.model.audio_tower.to(torch.bfloat16)  # type: ignore[arg-type]
        stores = [install_cache(model, 0.0).store for model in (first, second, third)]
        assert len({id(store) for store in stores}) == 3


def test_features_are_read_once_while_there_is_room() -> None:
    read: list[str] = []

    def load(part: AudioPart, root: Path) -> Features:
        read.append(f"{root}/{part.audio}@{part.start:g}")
        return torch.full((80, 100), part.start), 90  # 32,000 bytes

    cache = FeatureCache(load, 70e-6)
    parts = [AudioPart(audio="a", duration=1.0, transcript="", start=at) for at in (0.0, 1.0, 2.0)]
    for part in (*parts, *parts):
        log_mel, frames = cache(part, Path("x"))
        assert (log_mel[0, 0], frames) == (part.start, 90)
    assert cache(parts[0], Path("y"))[0][0, 0] == 0
    assert read == ["x/a@0", "x/a@1", "x/a@2", "x/a@2", "y/a@0"]
