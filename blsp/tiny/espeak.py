"""The synthesiser eSpeak NG through ctypes: text and prosody in, samples and timed phonemes out.

The shared library and its voices come from the wheel of the optional package ``espeakng-loader``,
so no system package is needed. The library keeps global state and is no function of its arguments:
equal calls give slightly different waveforms, and it seeds its noise with the clock. Only the same
calls in the same order in a fresh process repeat, so whoever wants repeatable speech uses one
``Synthesizer``, which sets the seed, in one fresh process, in manifest order.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blsp.errors import InputError

RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
_SYNCHRONOUS, _UTF8 = 2, 1
_PHONEME_EVENTS, _DO_NOT_EXIT = 0x0001, 0x8000
_LIST_TERMINATED, _WORD, _PHONEME = 0, 1, 7


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, kw_only=True)
class Prosody:
    """How a sentence is spoken; the ranges are eSpeak's own."""

    words_per_minute: int = 175
    """80 to 450."""
    volume: int = 100
    """0 to 200; 100 is normal."""
    pitch: int = 50
    """0 to 100, around the voice's own base pitch."""
    pitch_range: int = 50
    """0 (monotone) to 100."""


@dataclass(frozen=True)
class Spoken:
    """One synthesised sentence."""

    samples: np.ndarray
    """int16, mono, at ``sampling_rate``."""
    sampling_rate: int
    phonemes: tuple[tuple[str, float], ...]
    """(phoneme, start in seconds), in order; ``_:`` and the like are pauses."""
    words: tuple[tuple[int, float], ...]
    """(index of the first character in the text, start in seconds) of each word, in order."""


def load_library() -> tuple[ctypes.CDLL, Path]:
    """The shared library and its data folder.

    Raises:
        InputError: the optional package is not installed, or its library does not load.
    """
    try:
        import espeakng_loader
    except ModuleNotFoundError:
        raise InputError(
            "expected the package espeakng-loader for the tiny spoken world, found none; "
            "pip install 'blsp[tiny]'"
        ) from None
    path = espeakng_loader.get_library_path()
    try:
        return ctypes.CDLL(path), Path(espeakng_loader.get_data_path())
    except OSError as error:
        raise InputError(
            f"expected eSpeak NG's library in {path}, found: {error}; reinstall espeakng-loader"
        ) from None


def list_variants(data: Path) -> list[str]:
    """Names of the voice variants in eSpeak's data folder."""
    return sorted(path.name for path in (data / "voices" / "!v").iterdir())


def list_languages(data: Path) -> list[str]:
    """Language codes in eSpeak's data folder, as its voice files declare them."""
    files = [path for path in (data / "lang").rglob("*") if path.is_file()]
    lines = [line for path in files for line in path.read_text("utf-8", "replace").splitlines()]
    return sorted({line.split()[1].lower() for line in lines if line.startswith("language ")})


class Synthesizer:
    """One eSpeak NG instance; the library allows one per process."""

    def __init__(self) -> None:
        self._library, self._data = load_library()
        self._variants = set(list_variants(self._data))
        self._languages = set(list_languages(self._data))
        self._pieces: list[bytes] = []
        self._phonemes: list[tuple[str, float]] = []
        self._words: list[tuple[int, float]] = []
        self._callback = _Callback(self._receive)
        self.sampling_rate: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, str(self._data).encode(), _PHONEME_EVENTS | _DO_NOT_EXIT
        )
        if self.sampling_rate <= 0:
            raise InputError(
                f"expected eSpeak NG to read its data in {self._data}, found that it cannot; "
                "reinstall espeakng-loader, in an environment with a path below 150 characters"
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else it is the second of the start
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        position = 0
        while events[position].type != _LIST_TERMINATED:
            event = events[position]
            if event.type == _WORD:
                self._words.append((event.text_position - 1, event.audio_position / 1e3))
            if event.type == _PHONEME:
                # The union holds up to eight bytes without a terminating zero.
                raw = bytes(ctypes.string_at(ctypes.addressof(event.id), 8)).split(b"\0")[0]
                self._phonemes.append((raw.decode("utf-8", "replace"), event.audio_position / 1e3))
            position += 1
        return 0

    def speak(self, text: str, *, voice: str, prosody: Prosody) -> Spoken:
        """Speak ``text`` with ``voice`` (``language`` or ``language+variant``).

        Raises:
            InputError: the voice is not in the data folder (eSpeak itself would say nothing and
                use another), or there is no word in ``text``.
        """
        self._check_voice(voice)
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            # A few languages that a file declares, en-gb among them, cannot be selected by name.
            raise InputError(
                f"expected a voice that eSpeak NG can select, found {voice!r}; choose another "
                "language, such as en-us"
            )
        for parameter, value in (
            (RATE, prosody.words_per_minute),
            (VOLUME, prosody.volume),
            (PITCH, prosody.pitch),
            (RANGE, prosody.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._phonemes, self._words = [], [], []
        encoded = text.encode("utf-8")
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._words:  # of an empty text eSpeak still makes seven milliseconds
            raise InputError(f"expected words to speak, found {text!r}; give it some")
        samples = np.frombuffer(b"".join(self._pieces), dtype=np.int16)
        return Spoken(samples, self.sampling_rate, tuple(self._phonemes), tuple(self._words))

    def _check_voice(self, voice: str) -> None:
        language, _, variant = voice.partition("+")
        if language.lower() not in self._languages or (variant and variant not in self._variants):
            raise InputError(
                f"expected a voice like en-us+f1, found {voice!r}; languages and variants are the "
                f"files under {self._data}"
            )
