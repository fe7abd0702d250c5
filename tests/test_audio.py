"""Any audio becomes mono 16 kHz float32, or one line that says why not."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from blsp.audio import SAMPLING_RATE, is_silent, load_audio, read_audio_info, save_audio
from blsp.container import check_container
from blsp.errors import InputError

ENCODINGS = {  # name: (container, subtype, largest error of a decoded sample of the tone)
    "pcm8": ("WAV", "PCM_U8", 0.01),
    "pcm16": ("WAV", "PCM_16", 0.001),
    "pcm24": ("WAV", "PCM_24", 0.001),
    "pcm32": ("WAV", "PCM_32", 0.001),
    "float": ("WAV", "FLOAT", 0.001),
    "double": ("WAVEX", "DOUBLE", 0.001),
    "mu-law": ("WAV", "ULAW", 0.03),
    "a-law": ("WAV", "ALAW", 0.03),
    "rf64": ("RF64", "PCM_16", 0.001),
    "flac": ("FLAC", "PCM_16", 0.001),
    "mp3": ("MP3", "MPEG_LAYER_III", 0.05),
    "vorbis": ("OGG", "VORBIS", 0.05),
    "opus": ("OGG", "OPUS", 0.05),
    "sphere": ("NIST", "PCM_16", 0.001),
}


def make_tone(seconds: float, rate: int, *, channels: int = 2, hertz: float = 440) -> np.ndarray:
    """(frames, channels): channel c is the tone at loudness 0.4 / (c + 1)."""
    tone = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.stack([0.4 / (c + 1) * tone for c in range(channels)], axis=1)


def make_noise(seconds: float, rate: int) -> np.ndarray:
    """(frames, 1) of noise that swells, so that no two places are alike."""
    frames = round(seconds * rate)
    return np.random.default_rng(0).normal(0, np.linspace(0.01, 0.2, frames))[:, None]


def encode(samples: np.ndarray, rate: int, name: str) -> bytes:
    container, subtype, _ = ENCODINGS[name]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def without_length_header(mp3: bytes) -> bytes:
    """Drop the first frame, which holds the Xing or Info header of what libsndfile writes."""
    assert b"Xing" in mp3[:200] or b"Info" in mp3[:200]
    return mp3[mp3.find(mp3[:2], 4) :]


def refuse(source: bytes | str | Path, **options: Any) -> str:  # the message, which is one line
    with pytest.raises(InputError) as error:
        load_audio(source, **options)
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)
    assert "found" in str(error.value)
    return str(error.value)


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_every_encoding_and_rate_becomes_the_mean_of_its_channels(name: str, rate: int) -> None:
    audio = load_audio(encode(make_tone(1.0, rate), rate, name))
    assert (audio.dtype, audio.shape) == (np.float32, (16000,))
    mean = make_tone(1.0, 16000, channels=1)[:, 0] * 0.75  # (0.4 + 0.2) / 2 = 0.3 = 0.75 * 0.4
    inside = slice(1600, -1600)  # lossy codecs ring at the ends
    assert np.abs(audio - mean)[inside].max() < ENCODINGS[name][2]
    assert np.abs(np.fft.rfft(audio)).argmax() == 440  # one bin a hertz


@pytest.mark.parametrize("rate", [11025, 22050, 44100, 96000])
def test_loading_equals_one_call_of_the_resampler(rate: int) -> None:
    samples = make_noise(5.0, rate).astype(np.float32)  # several blocks
    oracle = soxr.resample(samples[:, 0], rate, 16000)
    assert np.array_equal(load_audio(encode(samples, rate, "float")), oracle)


def test_six_channels_are_averaged() -> None:
    samples = np.tile([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], (160, 1))
    assert load_audio(encode(samples, 16000, "float")) == pytest.approx(0.35)


def test_very_short_audio_is_loaded_as_it_is() -> None:
    assert load_audio(encode(make_tone(0.05, 44100), 44100, "pcm16")).shape == (800,)
    assert load_audio(encode(make_tone(1 / 16000, 16000), 16000, "pcm16")).shape == (1,)


def test_the_content_counts_and_not_the_extension(tmp_path: Path) -> None:
    for extension in ("wav", "raw", "mp3", "txt", "m4a"):
        path = tmp_path / f"a.{extension}"
        path.write_bytes(encode(make_tone(0.5, 16000), 16000, "flac"))
        assert load_audio(path).shape == (8000,)


def test_path_bytes_zip_and_tar_give_the_same_audio(tmp_path: Path) -> None:
    data = encode(make_noise(1.0, 16000), 16000, "vorbis")
    (tmp_path / "a.ogg").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.ogg", data)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.ogg", "in/a.ogg")
    expected = load_audio(data)
    for source in ("a.ogg", "a.zip::in/a.ogg", "a.tar::in/a.ogg"):
        assert np.array_equal(load_audio(source, root=tmp_path), expected)
        assert read_audio_info(source, root=tmp_path).seconds == 1.0


def test_the_header_is_read_without_decoding() -> None:
    info = read_audio_info(encode(make_tone(1.5, 44100, channels=2), 44100, "pcm24"))
    assert (info.seconds, info.sampling_rate, info.channels) == (1.5, 44100, 2)
    assert info.format == "WAV PCM_24"


# --- segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pcm16", "mu-law", "flac", "mp3", "vorbis", "opus", "sphere"])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_segment_equals_the_slice_of_the_whole(name: str, rate: int) -> None:
    if name == "opus":  # which knows no others
        rate = {22050: 24000, 44100: 12000}.get(rate, rate)
    data = encode(make_noise(12.0, rate), rate, name)
    whole = load_audio(data)
    starts = np.random.default_rng(0).uniform(0, 11.4, 12).round(4)  # also into the last OGG page
    for start, duration in ((0.0, 1.0), (11.99, 0.01), *((start, 0.5) for start in starts)):
        segment = load_audio(data, start=start, duration=duration)
        first = round(start * 16000)
        expected = whole[first : round((start + duration) * 16000)]
        assert segment.shape == expected.shape
        assert np.abs(segment - expected).max() < 1e-6, start


@pytest.mark.parametrize("name", ["flac", "mp3", "vorbis", "opus"])
def test_reading_in_blocks_equals_reading_at_once(name: str) -> None:
    rate = 24000 if name == "opus" else 22050
    data = encode(make_noise(12.0, rate), rate, name)
    at_once, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert np.abs(load_audio(data) - soxr.resample(at_once, rate, 16000)).max() < 1e-6


def test_a_segment_without_duration_goes_to_the_end() -> None:
    data = encode(make_noise(2.0, 16000), 16000, "flac")
    assert np.array_equal(load_audio(data, start=0.5), load_audio(data)[8000:])


def test_a_segment_may_miss_the_end_by_rounding_only() -> None:
    data = encode(make_noise(2.0, 16000), 16000, "flac")
    assert load_audio(data, start=1.0, duration=1.09).shape == (16000,)
    message = refuse(data, start=1.0, duration=1.2)
    assert "within 0 to 2.000 s, found start 1.000 s, duration 1.200 s" in message


@pytest.mark.parametrize(
    ("start", "duration"),
    [(2.0, None), (2.05, 0.01), (-0.1, None), (0.0, 0.0), (1.0, -1.0), (float("nan"), None)],
)
def test_an_impossible_segment_is_refused(start: float, duration: float | None) -> None:
    data = encode(make_noise(2.0, 16000), 16000, "flac")
    assert "within 0 to 2.000 s" in refuse(data, start=start, duration=duration)


# --- what is not whole ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ENCODINGS if n != "double"])
def test_a_file_cut_anywhere_is_never_shorter_audio(name: str) -> None:
    data = encode(make_noise(4.0, 16000), 16000, name)
    whole = load_audio(data)
    ends = np.arange(1, 40)  # the last bytes matter most
    for cut in {*np.random.default_rng(1).integers(0, len(data), 60), *(len(data) - ends)}:
        try:
            audio = load_audio(data[:cut])
        except InputError as error:
            assert "\n" not in str(error)
        else:  # nothing but padding was lost
            slack = 1152 if name == "mp3" else 0
            assert len(audio) >= len(whole) - slack, f"cut at {cut} of {len(data)}"


def test_a_cut_file_says_how_much_is_missing() -> None:
    noise = make_noise(4.0, 16000)
    wav, flac, mp3, ogg = (encode(noise, 16000, n) for n in ("pcm16", "flac", "mp3", "vorbis"))
    assert "expected 128000 bytes of samples, found 956: the file is trunc" in refuse(wav[:1000])
    assert "found damage after" in refuse(flac[: len(flac) // 2])
    assert "expected 4.000 s as the header says, found 1.9" in refuse(mp3[: len(mp3) // 2])
    assert "expected a last page with the end-of-stream mark" in refuse(ogg[: len(ogg) // 2])


def test_a_segment_before_the_cut_of_a_flac_or_mp3_is_still_good() -> None:
    for name in ("flac", "mp3"):
        data = encode(make_noise(20.0, 16000), 16000, name)
        segment = load_audio(data[: len(data) // 2], start=1.0, duration=1.0)
        assert np.array_equal(segment, load_audio(data, start=1.0, duration=1.0))
        refuse(data[: len(data) // 2], start=18.0, duration=1.0)


def test_an_ogg_cut_between_two_pages_is_noticed() -> None:
    data = encode(make_noise(8.0, 16000), 16000, "vorbis")
    last_page = data.rfind(b"OggS")
    assert last_page > 1000
    assert "truncated" in refuse(data[:last_page])


def test_an_ogg_of_several_streams_is_refused_instead_of_read_in_part() -> None:
    first, second = (encode(make_noise(s, 16000), 16000, "vorbis") for s in (1.0, 2.0))
    assert "found several in one file" in refuse(first + second)


def test_a_wav_without_promised_length_is_read_to_its_end() -> None:
    data = bytearray(encode(make_noise(1.0, 16000), 16000, "pcm16"))
    for promise in (0xFFFFFFFF, 0x7FFFF000):  # ffmpeg and sox writing to a pipe
        data[40:44] = promise.to_bytes(4, "little")
        assert load_audio(bytes(data)).shape == (16000,)


def test_a_big_endian_wav_is_checked_too() -> None:
    file = io.BytesIO()
    soundfile.write(file, make_noise(1.0, 16000), 16000, format="WAV", endian="BIG")
    assert file.getvalue()[:4] == b"RIFX"
    assert load_audio(file.getvalue()).shape == (16000,)
    assert "expected 32000 bytes of samples" in refuse(file.getvalue()[:-1])


def test_a_flac_that_does_not_tell_its_length_is_refused() -> None:
    data = bytearray(encode(make_noise(1.0, 16000), 16000, "flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert "expected a FLAC that tells its length" in refuse(bytes(data))


def test_a_flac_header_that_promises_terabytes_costs_no_memory() -> None:
    data = bytearray(encode(make_noise(1.0, 16000), 16000, "flac"))
    data[21] |= 0x0F
    assert "expected 4026532.840 s as the header says, found 1.000 s" in refuse(bytes(data))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_length_header_is_read_to_its_end(rate: int, channels: int) -> None:
    quiet, loud = make_tone(2.0, rate, channels=channels), make_noise(2.0, rate)
    # Variable bit rate: libsndfile alone would take the first frame's rate for all of it.
    data = encode(np.concatenate([quiet * 0, loud + quiet, quiet]), rate, "mp3")
    expected, _ = soundfile.read(io.BytesIO(data))
    bare = without_length_header(data)
    tagged = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + bare + b"TAG" + bytes(125)
    for variant in (bare, tagged):
        decoded, _ = soundfile.read(check_container(io.BytesIO(variant), "variant"))
        # 576 frames that the dropped header said to skip come first, padding comes last
        assert np.abs(decoded[576:][: len(expected)] - expected)[: -rate // 10].max() < 1e-6
        assert 6.0 <= len(load_audio(variant)) / 16000 < 6.2
    assert "truncated" in refuse(bare[:-10])


def test_the_expected_length_tells_what_the_file_cannot() -> None:
    data = without_length_header(encode(make_noise(4.0, 16000), 16000, "mp3"))
    frame = data.rfind(data[:2])
    assert len(load_audio(data[:frame])) < len(
        load_audio(data)
    )  # a cut between frames is invisible
    half = data[: data.find(data[:2], len(data) // 2)]
    assert "expected 4.000 s of audio, found 2.0" in refuse(half, expected_seconds=4.0)
    assert "expected 3.900 s of audio, found 4.0" in refuse(data, expected_seconds=3.9)
    assert len(load_audio(data, expected_seconds=4.0)) == pytest.approx(4 * 16000, abs=1600)


# --- what is not audio ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b"RIFF is a word\n", "the text 'RIFF is a word"),
        ("Grüße".encode() * 30, "the text 'Grüße"),
        (b"version https://git-lfs.github.com/spec/v1\n", "the text 'version https://git-lfs"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4/M4A; convert it: ffmpeg -i INPUT"),
        (b"\xff\xf1\x50\x80\x2e\x7f\xfc\x21" + bytes(90), "AAC; convert it: ffmpeg"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0", "WebM/Matroska; convert it: ffmpeg"),
        (b"NIST_1A\n   1024\n", "none: the file is truncated"),
        (b"RIFF\x10\0\0\0AVI " + bytes(90), "bytes of no known format (52 49"),
        (bytes(100), "bytes of no known format (00 00"),
        (b"ID3\x04\0\0\0\0\0\0" + bytes(100), "an MP3 header with no frames after it"),
        (b"OggS\0\2" + bytes(8) + b"abcd" + bytes(30), "none: the file is truncated"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", "a header that is truncated"),
    ],
)
def test_what_is_not_audio_is_named(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    message = refuse(path)
    assert message.startswith(f"{path}: ")
    assert f"found {found}" in message


def test_compressed_sphere_is_named() -> None:
    data = encode(make_noise(0.3, 16000), 16000, "sphere")
    data = data.replace(b"-s3 pcm\n", b"-s26 pcm,embedded-shorten-v2.00\n")
    assert "NIST SPHERE compressed by shorten; convert it: ffmpeg" in refuse(data)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_audio_never_ends_in_a_foreign_error(seed: int) -> None:
    random = np.random.default_rng(seed)
    for name in ("pcm16", "flac", "mp3", "vorbis", "opus", "sphere"):
        data = np.frombuffer(encode(make_noise(0.3, 16000), 16000, name), dtype=np.uint8).copy()
        places = random.integers(0, min(len(data), 400), 8)  # headers, mostly
        data[places] = random.integers(0, 256, 8)
        try:
            audio = load_audio(data.tobytes())
        except InputError:
            continue
        assert np.isfinite(audio).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused_with_its_time(value: float) -> None:
    samples = make_tone(10.0, 16000)
    samples[120000, 1] = value
    assert "found NaN or Inf at 7.500 s" in refuse(encode(samples, 16000, "float"))


def test_a_file_without_samples_is_refused() -> None:
    assert "a header that promises none" in refuse(encode(np.zeros((0, 1)), 16000, "pcm16"))
    one_sample = encode(np.zeros((1, 1)), 48000, "pcm16")
    assert "expected at least one sample at 16 kHz, found 1 at 48000 Hz" in refuse(one_sample)


def test_silence_is_valid_and_can_be_told() -> None:
    silence = load_audio(encode(np.zeros((16000, 1)), 16000, "pcm16"))
    assert silence.shape == (16000,)
    assert is_silent(silence)
    assert is_silent(np.full(10, 0.0009, dtype=np.float32))  # -60.9 dB
    assert not is_silent(np.full(10, -0.0011, dtype=np.float32))  # -59.2 dB
    assert not is_silent(np.full(10, 0.0009, dtype=np.float32), threshold_db=-70)


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.FLAC"])
def test_sixteen_bit_samples_survive_saving_bit_for_bit(tmp_path: Path, name: str) -> None:
    every_value = np.arange(-32768, 32768, dtype=np.int16)
    audio = every_value.astype(np.float32) / 32768
    save_audio(tmp_path / "new" / name, audio)
    assert np.array_equal(load_audio(tmp_path / "new" / name), audio)
    assert read_audio_info(tmp_path / "new" / name).sampling_rate == SAMPLING_RATE


def test_what_exceeds_full_scale_is_clipped(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", np.array([2.0, -2.0, 0.5], dtype=np.float32))
    assert load_audio(tmp_path / "a.wav").tolist() == [32767 / 32768, -1.0, 0.5]


def test_unusable_samples_and_extensions_are_not_written(tmp_path: Path) -> None:
    for samples in (np.zeros(0), np.zeros((2, 2)), np.array([0.0, np.nan])):
        with pytest.raises(InputError, match="nothing was written"):
            save_audio(tmp_path / "a.wav", samples)
    with pytest.raises(InputError, match=r"expected .wav or .flac, found '.mp3'"):
        save_audio(tmp_path / "a.mp3", np.zeros(10))
    assert list(tmp_path.iterdir()) == []


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    folder = Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


LIMITED_WRITER = """
import resource, signal, sys
import numpy as np
from blsp.audio import save_audio
from blsp.container import check_container
from blsp.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_audio(sys.argv[1], np.zeros(16000, dtype=np.float32))
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_while_saving_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "disk full while writing" in run_python(LIMITED_WRITER, str(tmp_path / "a.wav"))
    assert list(tmp_path.iterdir()) == []


# --- long recordings ------------------------------------------------------------------------------

MEASURED_LOAD = """
import re, sys
from pathlib import Path
from blsp.audio import load_audio

def peak():  # in MiB; ru_maxrss would include what the parent process had
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def count_read():  # in MiB
    return int(re.search(r"rchar:\\s*(\\d+)", Path("/proc/self/io").read_text())[1]) / 2**20

before, unread = peak(), count_read()
segment = load_audio(sys.argv[1], start=2400.0, duration=1.0)
assert len(segment) == 16000
read = count_read() - unread
audio = load_audio(sys.argv[1])
print(read, audio.nbytes / 2**20, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_45_minutes_take_little_more_memory_than_the_result(tmp_path: Path) -> None:
    path, size = tmp_path / "long.wav", 45 * 60 * 48000 * 2 * 2  # 494 MiB, sparse on disk
    header = encode(np.zeros((1, 2)), 48000, "pcm16")[:40]
    path.write_bytes(header + size.to_bytes(4, "little"))
    os.truncate(path, 44 + size)
    read, result, extra = map(float, run_python(MEASURED_LOAD, str(path)).split())
    assert 0.18 < read < 3  # its second alone: of 494 MiB
    assert result == pytest.approx(45 * 60 * 16000 * 4 / 2**20)  # 164.8 MiB
    assert result <= extra < result + 40
