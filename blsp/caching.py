"""Features and encoder output kept in memory, because both are the same of a recording every time.

Several things are asked of one recording, and epochs repeat them all; on a CPU the encoder is half
of a step, and log-mel a third of the rest. Encoder output is found by a hash of the features, so
that nobody has to pass names around and long recordings are kept window by window. Where all of a
run's recordings find room they are encoded before it, in batches of equal length; others are
encoded alone. Either way what is kept never depends on the batch it was first met in, and a resumed
run sees the same numbers. A process that trains many models over one frozen encoder may let them
share both. Recordings enter as they would enter extractor and encoder; what these say leaves.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutput

from blsp.dataset import FRAMES_PER_SECOND, ConversationDataset, LoadFeatures
from blsp.errors import InputError
from blsp.manifest import AudioPart
from blsp.model import BlspForConditionalGeneration
from blsp.model.encoder import encoder_lengths
from blsp.model.processing import Features, pad_features
from blsp.remote import is_remote


class _Store:
    """Tensors by a key, while there is room."""

    def __init__(self, gigabytes: float) -> None:
        self.tensors: dict[Any, Tensor] = {}
        self.frames: dict[Any, int] = {}
        """Of features: how many frames are true."""
        self.room = gigabytes * 1e9

    def keep(self, key: Any, tensor: Tensor) -> bool:
        """Keep it on the CPU; false where there is no room."""
        if tensor.nbytes > self.room:
            return False
        self.tensors[key] = tensor.cpu()
        self.room -= tensor.nbytes
        return True


class EncoderCache:
    """Stands before the encoder's forward pass; `install_cache` puts it there.

    Args:
        forward: the encoder's own.
        store: what keeps it; what finds no room there is encoded anew each time.
    """

    def __init__(self, forward: Any, store: _Store) -> None:
        self.forward, self.store = forward, store

    @torch.no_grad()
    def __call__(
        self, input_features: Tensor, input_features_mask: Tensor | None = None
    ) -> BaseModelOutput:
        """(W, M, F) and (W, F) -> ``last_hidden_state`` (W, S, D), zero beyond each true length."""
        if input_features_mask is None:
            rows = [self._encode(row, None) for row in input_features]
        else:
            lengths = input_features_mask.sum(-1).tolist()
            rows = [
                self._encode(row[:, :length], mask[:length])
                for row, mask, length in zip(
                    input_features, input_features_mask, lengths, strict=True
                )
            ]
        rows = [row.to(input_features.device) for row in rows]
        return BaseModelOutput(last_hidden_state=pad_sequence(rows, batch_first=True))  # type: ignore[arg-type]

    @torch.no_grad()
    def fill(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> None:
        """Encode (W, M, F) together and keep each; batches many times as fast as one by one.

        Args:
            input_features: as the encoder gets them, in its precision.
            input_features_mask: (W, F); None means that all frames are true.
        """
        count, _, longest = input_features.shape
        lengths = [longest] * count
        more = {}
        if input_features_mask is not None:
            lengths = input_features_mask.sum(-1).tolist()
            more = {"input_features_mask": input_features_mask}
        keys = [
            _find_key(one[:, :length]) for one, length in zip(input_features, lengths, strict=True)
        ]
        if all(key in self.store.tensors for key in keys):
            return
        rows = self.forward(input_features, **more).last_hidden_state
        for key, row, length in zip(keys, rows, lengths, strict=True):
            if key not in self.store.tensors:
                self.store.keep(key, row[: encoder_lengths(length)].clone())

    def _encode(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """(M, F) -> (S, D), on the CPU if it was kept."""
        key = _find_key(features)
        if key not in self.store.tensors:
            more = {} if mask is None else {"input_features_mask": mask[None]}
            row = self.forward(features[None], **more).last_hidden_state[0]
            if not self.store.keep(key, row):
                return row
        return self.store.tensors[key]


def _find_key(features: Tensor) -> bytes:
    """A hash of (M, F)."""
    content = features.float().cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


class _SharedStores:
    """What `share_caches` opens: a store for each encoder, each of the same size."""

    def __init__(self) -> None:
        self.gigabytes: float | None = None
        self.stores: dict[Any, _Store] = {}

    def find_features(self, source: str, gigabytes: float) -> _Store:
        """The store of an extractor: the shared one of its settings, or else a new one."""
        if self.gigabytes is None:
            return _Store(gigabytes)
        return self.stores.setdefault(source, _Store(self.gigabytes))

    def find(self, model: BlspForConditionalGeneration, gigabytes: float) -> _Store:
        """The store of a model: the shared one of its encoder, or else a new one of its own."""
        base = (model.config.bases or {}).get("encoder")
        if self.gigabytes is None or base is None:
            return _Store(gigabytes)
        # Equal weights say other things in another precision, and beside padding.
        key = (base["fingerprint"], model.model.audio_tower.dtype, model.config.audio_padding)
        return self.stores.setdefault(key, _Store(self.gigabytes))


_shared = _SharedStores()


@contextmanager
def share_caches(gigabytes: float) -> Iterator[None]:
    """Within the block models of one frozen encoder keep its output together, and data sets with
    equal extractors their features, up to so much of each.

    `install_cache` and `FeatureCache` then take the room here, whatever they are told.
    """
    _shared.gigabytes = gigabytes
    try:
        yield
    finally:
        _shared.gigabytes = None
        _shared.stores.clear()


def install_cache(model: BlspForConditionalGeneration, gigabytes: float) -> EncoderCache:
    """Keep up to so much of the encoder's output.

    Raises:
        InputError: the encoder is trained, so that its output changes.
    """
    tower: Any = model.model.audio_tower
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise InputError(
            f"encoder_cache_gb: expected 0 where the encoder is trained, found {gigabytes:g}; its "
            "output changes with every step"
        )
    cache = EncoderCache(tower.forward, _shared.find(model, gigabytes))
    tower.forward = cache
    return cache


FILLED_AT_ONCE = 16
"""Recordings that are encoded together before a run."""


def fill_cache(
    cache: EncoderCache,
    model: BlspForConditionalGeneration,
    datasets: Sequence[ConversationDataset],
) -> None:
    """Encode what data sets hold, if all of it finds room; what cannot be read is passed over.

    Nothing is where audio is on the hub: by length, its groups of rows would be read many times.
    """
    config, weight = model.config, model.model.audio_tower.conv1.weight
    row_bytes = config.audio_config.d_model * weight.element_size()  # type: ignore[union-attr]
    parts, room = [], cache.store.room
    for part, root, load in chain.from_iterable(dataset.recordings() for dataset in datasets):
        frames = round(part.duration * FRAMES_PER_SECOND)
        room -= encoder_lengths(frames) * row_bytes
        if room < 0:  # of millions of lines only as many are read as find room
            return
        if is_remote(part.audio):
            return
        if frames <= config.window_frames:
            parts.append((part, root, load))
    parts.sort(key=lambda one: one[0].duration)
    for start in range(0, len(parts), FILLED_AT_ONCE):
        features = []
        for part, root, load in parts[start : start + FILLED_AT_ONCE]:
            with suppress(InputError):  # training says which, and counts them
                features.append(load(part, root))
        if features:
            batch = pad_features(features)
            mels = batch["input_features"].to(weight.device, weight.dtype)
            mask = batch["input_features_mask"].to(weight.device)
            cache.fill(mels, mask if config.audio_padding == "variable" else None)


class FeatureCache:
    """Stands before a dataset's ``load_features``, and keeps what it gave while there is room.

    Args:
        load_features: a recording and its root -> (F, M).
        gigabytes: what may be kept; later recordings are read anew each time.
        source: names what `load_features` does, for `share_caches`.
    """

    def __init__(self, load_features: LoadFeatures, gigabytes: float, *, source: str = "") -> None:
        self.load_features = load_features
        self.store = _shared.find_features(source, gigabytes)

    def __call__(self, part: AudioPart, root: Path) -> Features:
        """See `LoadFeatures`."""
        key = (root, part.audio, part.start, part.duration)
        if key not in self.store.tensors:
            log_mel, frames = self.load_features(part, root)
            if not self.store.keep(key, log_mel):
                return log_mel, frames
            self.store.frames[key] = frames
        return self.store.tensors[key], self.store.frames[key]
