"""eSpeak NG through ctypes: its timings, what its parameters change, what it cannot speak."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blsp.errors import InputError
from blsp.tiny.espeak import Prosody, Spoken, Synthesizer, list_languages, load_library

TEXT = "we really need more yellow melons now"
VOICE = "en-us+m3"


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def say(synthesizer: Synthesizer, **prosody: int) -> Spoken:
    return synthesizer.speak(TEXT, voice=VOICE, prosody=Prosody(**prosody))


def seconds(spoken: Spoken) -> float:
    return len(spoken.samples) / spoken.sampling_rate


def loudness(spoken: Spoken) -> float:
    return float(np.sqrt(np.mean(spoken.samples.astype(np.float64) ** 2)))


def pitch(spoken: Spoken) -> float:
    """Median F0 in Hz over the clearly voiced frames of 40 ms, by autocorrelation, 60 to 400 Hz."""
    rate, found = spoken.sampling_rate, []
    size, shortest, longest = rate * 40 // 1000, rate // 400, rate // 60
    samples = spoken.samples.astype(np.float64)
    for start in range(0, len(samples) - size, size):
        frame = samples[start : start + size] - samples[start : start + size].mean()
        match = np.correlate(frame, frame, "full")[size - 1 :]
        lag = shortest + int(np.argmax(match[shortest:longest]))
        if match[lag] > 0.5 * match[0] > 0:
            found.append(rate / lag)
    return float(np.median(found))


def test_timings_increase_and_lie_inside_the_audio(synthesizer: Synthesizer) -> None:
    spoken = say(synthesizer)
    for starts in ([at for _, at in spoken.phonemes], [at for _, at in spoken.words]):
        assert starts == sorted(starts)
        assert starts[0] >= 0
        assert starts[-1] < seconds(spoken)


def test_every_word_is_timed_once_by_its_first_character(synthesizer: Synthesizer) -> None:
    places = [place for place, _ in say(synthesizer).words]
    assert [TEXT[place:].split()[0] for place in places] == TEXT.split()


def test_the_phonemes_are_those_of_the_word(synthesizer: Synthesizer) -> None:
    spoken = synthesizer.speak("hello", voice="en-us", prosody=Prosody())
    assert [symbol for symbol, _ in spoken.phonemes] == ["h", "@", "l", "'oU", "_:", "_"]


def test_samples_are_int16_at_22050_hertz(synthesizer: Synthesizer) -> None:
    spoken = say(synthesizer)
    assert spoken.samples.dtype == np.int16
    assert spoken.sampling_rate == 22_050


def test_pitch_changes_the_fundamental(synthesizer: Synthesizer) -> None:
    low, high = pitch(say(synthesizer, pitch=20)), pitch(say(synthesizer, pitch=80))
    assert 60 < low < high < 400
    assert high > 1.3 * low


def test_rate_changes_the_duration(synthesizer: Synthesizer) -> None:
    slow = seconds(say(synthesizer, words_per_minute=120))
    fast = seconds(say(synthesizer, words_per_minute=240))
    assert 1.6 < slow / fast < 2.2


def test_volume_changes_the_level(synthesizer: Synthesizer) -> None:
    quiet, loud = loudness(say(synthesizer, volume=50)), loudness(say(synthesizer, volume=100))
    assert 1.7 < loud / quiet < 2.3


def test_pitch_range_zero_is_monotone(synthesizer: Synthesizer) -> None:
    flat, lively = say(synthesizer, pitch_range=0), say(synthesizer, pitch_range=100)
    assert not np.array_equal(flat.samples, lively.samples)


@pytest.mark.parametrize("voice", ["en-us+nosuch", "xx", "xx+f1", "+f1", "", "en-us+F1"])
def test_an_unknown_voice_is_one_line(synthesizer: Synthesizer, voice: str) -> None:
    with pytest.raises(InputError, match="expected a voice like") as caught:
        synthesizer.speak("hello", voice=voice, prosody=Prosody())
    assert repr(voice) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_declared_language_that_cannot_be_selected_is_one_line(synthesizer: Synthesizer) -> None:
    """eSpeak would go on in the voice before; a file under `lang` does declare `en-gb`."""
    assert "en-gb" in list_languages(load_library()[1])
    with pytest.raises(InputError, match="found 'en-gb'; choose another language"):
        synthesizer.speak("hello", voice="en-gb", prosody=Prosody())


@pytest.mark.parametrize("text", ["", "   ", ".", "\n"])
def test_a_text_without_words_is_one_line(synthesizer: Synthesizer, text: str) -> None:
    with pytest.raises(InputError, match="expected words to speak"):
        synthesizer.speak(text, voice=VOICE, prosody=Prosody())


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"found none; pip install 'blsp\[tiny\]'$"):
        load_library()


def test_a_library_that_does_not_load_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import espeakng_loader

    broken = tmp_path / "libespeak.so"
    broken.write_text("not a library")
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(broken))
    with pytest.raises(InputError, match="expected eSpeak NG's library"):
        load_library()


def test_data_that_espeak_cannot_read_is_an_error_and_not_the_end_of_the_process(
    tmp_path: Path, checkout: Path
) -> None:
    """Here by a path beyond its limit; without a flag the library calls exit()."""
    deep = tmp_path / ("a" * 80) / ("b" * 80)
    deep.mkdir(parents=True)
    (deep / "data").symlink_to(load_library()[1])
    program = (
        "import espeakng_loader\n"
        "from blsp.errors import InputError\n"
        "from blsp.tiny.espeak import Synthesizer\n"
        f"espeakng_loader.get_data_path = lambda: {str(deep / 'data')!r}\n"
        "try:\n    Synthesizer()\nexcept InputError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True
    )
    assert "a path below 150 characters" in done.stdout
