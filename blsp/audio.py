"""Any audio to what the encoder hears: float32 mono samples at 16 kHz.

A path, bytes or archive member holding WAV, FLAC, MP3, OGG Vorbis, OGG Opus or NIST SPHERE enters,
at any rate and channel count; an array leaves. Decoding runs in blocks, so that 45 minutes of 48
kHz stereo take little more memory than the result; a segment is sought, not cut from the whole.
Audio that is shorter than it says is an error, never a shorter array.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from blsp.archive import Source, describe_source, open_source
from blsp.container import AUDIO, check_container
from blsp.errors import InputError
from blsp.files import atomic_path

SAMPLING_RATE = 16_000

TOLERANCE_SECONDS = 0.1
"""How far a manifest's start, duration or expected length may be off: rounding and MP3 padding."""

_CONTAINERS = {".wav": "WAV", ".flac": "FLAC"}
_BLOCK_FRAMES = 65_536
_CONTEXT_SAMPLES = 400  # at 16 kHz; the resampler's ends reach less far
_MP3_SLACK_FRAMES = 1152  # some encoders count the header frame among the audio frames


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file's headers say."""

    seconds: float
    """Length; of an MP3 or FLAC that was cut, the length before the cut."""
    sampling_rate: int
    """Frames per second as stored, not as loaded."""
    channels: int
    format: str
    """Container and encoding in libsndfile's words, such as `WAV PCM_16` or `OGG OPUS`."""


def load_audio(
    source: Source,
    *,
    start: float = 0.0,
    duration: float | None = None,
    root: str | Path | None = None,
    expected_seconds: float | None = None,
) -> np.ndarray:
    """Load audio, or a segment of it, as mono at 16 kHz.

    Channels are averaged. A segment equals the slice of the whole (to float32 rounding where the
    rate is not 16 kHz), because it is read with a little context and cut after resampling.

    Args:
        source: a path, the file's bytes, or an archive member such as `clips.zip::a/b.wav`
            (notation: `blsp.archive.open_source`). The content counts, not the extension.
        start: seconds to skip.
        duration: seconds to load, up to the end if None.
        root: folder that `source` is relative to and may not leave.
        expected_seconds: length the result must have, within 0.1 s. It is the only guard for
            files that a cut leaves whole in form: an MP3 without length header cut between two
            frames, a WAV written to a pipe.

    Returns:
        (samples,) float32; silence and very short audio are valid.

    Raises:
        InputError: not there, not audio, truncated, damaged, without samples, with NaN or
            infinite samples, a segment outside, or not the expected length.
    """
    name = describe_source(source)
    with _open_sound(source, root) as sound:
        first, count = _locate_segment(sound, start, duration, name)
        audio = _load_samples(sound, first, count, name)
    seconds = len(audio) / SAMPLING_RATE
    if expected_seconds is not None and abs(seconds - expected_seconds) > TOLERANCE_SECONDS:
        raise InputError(
            f"{name}: expected {expected_seconds:.3f} s of audio, found {seconds:.3f} s; "
            "fetch the file again or correct the manifest"
        )
    return audio


def read_audio_info(source: Source, *, root: str | Path | None = None) -> AudioInfo:
    """Read length and format from the headers of a source, without decoding it.

    Raises:
        InputError: as `load_audio`, as far as headers tell.
    """
    with _open_sound(source, root) as sound:
        return AudioInfo(
            seconds=sound.frames / sound.samplerate,
            sampling_rate=sound.samplerate,
            channels=sound.channels,
            format=f"{sound.format} {sound.subtype}",
        )


def save_audio(path: str | Path, audio: np.ndarray) -> None:
    """Write 16 kHz mono as 16-bit WAV or FLAC, by the extension; whole or not at all.

    Args:
        path: ends in `.wav` or `.flac`; folders are made.
        audio: (samples,) float, full scale at 1; what exceeds it is clipped. Samples that came
            from a 16-bit file are written back bit for bit.

    Raises:
        InputError: another extension, no samples, another shape, NaN, or a full disk.
    """
    path = Path(path)
    container = _CONTAINERS.get(path.suffix.lower())
    if container is None:
        raise InputError(f"{path}: expected .wav or .flac, found '{path.suffix}'; rename it")
    encoded = encode_audio(audio, container=container, name=str(path))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)


def encode_audio(audio: np.ndarray, *, container: str = "WAV", name: str = "audio") -> bytes:
    """Return 16 kHz mono as the bytes of a 16-bit file, as `save_audio` writes them.

    Args:
        audio: (samples,) float, full scale at 1; what exceeds it is clipped.
        container: `WAV` or `FLAC`.
        name: for the message.

    Raises:
        InputError: no samples, another shape, or NaN.
    """
    if audio.ndim != 1 or not audio.size or not np.isfinite(audio).all():
        raise InputError(
            f"{name}: expected finite samples of shape (n,), n > 0, found shape {audio.shape}"
            f"{' with NaN or Inf' if audio.size else ''}; nothing was written"
        )
    scaled = np.round(audio * 32_768.0).clip(-32_768, 32_767).astype(np.int16)
    # Encoded in memory: libsndfile reports neither a short write nor a failing close.
    encoded = io.BytesIO()
    soundfile.write(encoded, scaled, SAMPLING_RATE, format=container, subtype="PCM_16")
    return encoded.getvalue()


def is_silent(audio: np.ndarray, *, threshold_db: float = -60.0) -> bool:
    """Tell whether no sample of (samples,) exceeds the threshold, in dB below full scale."""
    peak = np.abs(audio).max(initial=0.0)
    return bool(peak <= 10 ** (threshold_db / 20))


class _Sound(soundfile.SoundFile):
    """A file that is read on without a seek in between.

    After each read of a seekable file soundfile seeks to where it already stands, which in some
    MP3s corrupts the block that follows. Explicit seeks work as ever.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _open_sound(source: Source, root: str | Path | None) -> Iterator[soundfile.SoundFile]:
    name = describe_source(source)
    with open_source(source, root=root) as raw:
        checked: BinaryIO = check_container(raw, name)
        try:
            sound = _Sound(checked)
        except soundfile.LibsndfileError as error:
            raise InputError(
                f"{name}: expected {AUDIO}, found a header that is truncated, damaged "
                f"or of another codec ({error.error_string}); fetch the file again or convert it"
            ) from error
        with sound:
            yield sound


def _locate_segment(
    sound: soundfile.SoundFile, start: float, duration: float | None, name: str
) -> tuple[int, int]:
    """Return the first sample and the number of samples at 16 kHz of a segment in seconds."""
    rate, total = sound.samplerate, sound.frames
    if total == 0:
        raise InputError(
            f"{name}: expected samples, found a header that promises none; repair or drop the file"
        )
    end = total / rate if duration is None else start + duration
    if not (0 <= start < end and start * rate < total and end <= total / rate + TOLERANCE_SECONDS):
        until = "" if duration is None else f", duration {duration:.3f} s"
        raise InputError(
            f"{name}: expected a segment within 0 to {total / rate:.3f} s, "
            f"found start {start:.3f} s{until}; correct start and duration"
        )
    first = round(start * SAMPLING_RATE)
    return first, round(min(end, total / rate) * SAMPLING_RATE) - first


def _load_samples(sound: soundfile.SoundFile, first: int, count: int, name: str) -> np.ndarray:
    """Return (count,) samples at 16 kHz from sample `first` on.

    Reading begins where a frame and a sample fall on the same instant (every 441 frames, or 160
    samples, at 44.1 kHz), else the segment would be shifted against the whole by part of a frame.
    """
    rate = sound.samplerate
    common = math.gcd(rate, SAMPLING_RATE)
    frames_a_step, samples_a_step = rate // common, SAMPLING_RATE // common
    step = _find_safe_frame(sound, (first - _CONTEXT_SAMPLES) * rate // SAMPLING_RATE)
    step //= frames_a_step
    begin = step * frames_a_step
    end = min(sound.frames, math.ceil((first + count + _CONTEXT_SAMPLES) * rate / SAMPLING_RATE))
    audio = _decode(sound, begin, end - begin, name)[first - step * samples_a_step :][:count]
    if not len(audio):
        raise InputError(
            f"{name}: expected at least one sample at 16 kHz, "
            f"found {end - begin} at {rate} Hz; drop it"
        )
    return audio


def _find_safe_frame(sound: soundfile.SoundFile, frame: int) -> int:
    """Return a frame at or before `frame` that can be sought without changing what follows."""
    if sound.format == "MP3":  # frames borrow bits from up to ten earlier ones
        frame -= round(0.3 * sound.samplerate)
    if sound.subtype == "VORBIS":  # within the last page (under 10 s) libsndfile lands frames off
        frame = min(frame, sound.frames - 10 * sound.samplerate)
    return max(0, frame)


def _read_blocks(
    sound: soundfile.SoundFile, first: int, frames: int, name: str
) -> Iterator[np.ndarray]:
    """Yield (n,) mono blocks at the file's own rate, until `frames` are read or none come."""
    try:
        sound.seek(first)
        while frames > 0:
            block = sound.read(min(frames, _BLOCK_FRAMES), dtype="float32", always_2d=True)
            if not len(block):
                return
            first, frames = first + len(block), frames - len(block)
            yield block.mean(axis=1)  # (n, channels) -> (n,)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{name}: expected audio to the end, found damage after "
            f"{first / sound.samplerate:.3f} s: the file is truncated or corrupt; "
            "fetch it again or drop it"
        ) from error


def _decode(sound: soundfile.SoundFile, first: int, frames: int, name: str) -> np.ndarray:
    """Return `frames` frames from `first` on as (samples,) float32 at 16 kHz."""
    rate = sound.samplerate
    resampler = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32")
    # Grows with what is decoded: a damaged header may promise terabytes.
    samples = io.BytesIO()
    decoded = 0
    for block in _read_blocks(sound, first, frames, name):
        _check_finite(block, first + decoded, rate, name)
        decoded += len(block)
        chunk = resampler.resample_chunk(block) if rate != SAMPLING_RATE else block
        samples.write(chunk.data)
    if rate != SAMPLING_RATE:
        samples.write(resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True).data)
    slack = _MP3_SLACK_FRAMES if sound.format == "MP3" else 0
    if decoded < max(1, frames - slack):
        raise InputError(
            f"{name}: expected {frames / rate:.3f} s as the header says, found "
            f"{decoded / rate:.3f} s: the file is truncated; fetch it again or drop it"
        )
    return np.frombuffer(samples.getbuffer(), dtype=np.float32)


def _check_finite(block: np.ndarray, position: int, rate: int, name: str) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        seconds = (position + int(finite.argmin())) / rate
        raise InputError(
            f"{name}: expected finite samples, found NaN or Inf at {seconds:.3f} s; "
            "repair or drop the file"
        )
