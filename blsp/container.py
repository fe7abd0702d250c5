"""What an audio file says about itself, before anything is decoded.

libsndfile shortens a cut WAV or OGG without a word, and of an MP3 without a length header it reads
only as much as the first frame's bit rate suggests (less than half of a real file, in our tests).
The checks here read a few headers and turn such silence into an error or, for MP3, into the right
length. An open binary file enters; the same or a corrected file leaves.
"""

import io
import re
import struct
from typing import BinaryIO

from blsp.errors import InputError

_CONVERT = "ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.flac"
AUDIO = "WAV, FLAC, MP3, OGG Vorbis, OGG Opus or NIST SPHERE audio"
_FOREIGN = {  # (offset, magic bytes): name
    (4, b"ftyp"): "MP4/M4A",
    (0, b"\x1a\x45\xdf\xa3"): "WebM/Matroska",
    (0, b"\x30\x26\xb2\x75"): "WMA/ASF",
    (0, b"FORM"): "AIFF",
    (0, b".snd"): "AU",
    (0, b"caff"): "CAF",
    (0, b"#!AMR"): "AMR",
}
# A data size from here on is what writers to a pipe put for "until the end" (sox: 0x7FFFF000).
_STREAMED = 0x7FFF_F000
_OGG_PAGE_LIMIT = 27 + 255 + 255 * 255
_EOS = 4

_KBPS = {  # of MPEG layer III, by "is MPEG 1", from index 1 on
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def check_container(file: BinaryIO, name: str) -> BinaryIO:
    """Return the file, at its start, or a corrected one; refuse what is not whole audio.

    Args:
        file: seekable, any position.
        name: what errors call it.

    Raises:
        InputError: empty, not one of the six formats, or provably cut short. A cut cannot be
            seen here in FLAC and in MP3 with a length header (decoding sees it), nor anywhere in
            a WAV whose header promises no length (written to a pipe).
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        _check_wav(file, size, name)
    elif head[:4] == b"OggS":
        _check_ogg(file, size, serial=head[14:18], name=name)
    elif _is_mp3(head):
        file = _with_mp3_length(file, name)
    elif head[:4] == b"fLaC":
        _check_flac(head, name)
    elif head[:7] == b"NIST_1A":
        _check_sphere(file, size, name)
    else:
        raise InputError(f"{name}: expected {AUDIO}, found {_describe(head)}")
    file.seek(0)
    return file


def _describe(head: bytes) -> str:
    """Return what the first bytes are, and what to do about it."""
    if not head:
        return "an empty file; fetch it again"
    found = next((n for (at, magic), n in _FOREIGN.items() if head[at:].startswith(magic)), None)
    if _is_adts(head):
        found = "AAC"
    if found:
        return f"{found}; convert it: {_CONVERT}"
    text = head.decode("utf-8", errors="replace")
    if all(c.isprintable() or c in "\r\n\t" for c in text[:-1].replace("\ufffd", "\0")):
        return f"the text {text[:40]!r}; give the audio itself"
    return f"bytes of no known format ({head[:8].hex(' ')}); give the audio itself"


def _is_adts(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def _is_mp3(head: bytes) -> bool:
    return head[:3] == b"ID3" or (head[:1] == b"\xff" and _mp3_frame_bytes(head) > 0)


def _cut_error(name: str, promised: str, found: str) -> InputError:
    return InputError(
        f"{name}: expected {promised}, found {found}: the file is truncated; "
        "fetch it again or drop it"
    )


def _check_wav(file: BinaryIO, size: int, name: str) -> None:
    """Compare the size that the data chunk promises with the bytes that are there."""
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    file.seek(12)
    wide = None  # RF64 keeps sizes over 4 GiB in a chunk of their own
    while len(header := file.read(8)) == 8:
        tag, promised = struct.unpack(f"{order}4sI", header)
        if tag == b"data":
            promised = wide if wide is not None else promised
            found = size - file.tell()
            if promised > found and (wide is not None or promised < _STREAMED):
                raise _cut_error(name, f"{promised} bytes of samples", str(found))
            return
        chunk_end = file.tell() + promised + promised % 2
        if tag == b"ds64":
            wide = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        file.seek(chunk_end)


def _check_flac(head: bytes, name: str) -> None:
    """Refuse a stream that does not tell its length: nobody could notice that it was cut."""
    total = int.from_bytes(head[21:26], "big") & (2**36 - 1)  # the low 36 bits of STREAMINFO's
    if total == 0:
        raise InputError(
            f"{name}: expected a FLAC that tells its length, found one that does not "
            f"(written to a pipe, or cut in its header); write it again: {_CONVERT}"
        )


def _check_sphere(file: BinaryIO, size: int, name: str) -> None:
    """Compare the samples that the header, in writing, promises with the bytes that are there."""
    file.seek(0)
    head = file.read(1024)
    fields = dict(re.findall(rb"^(\w+) -\S+ (\S+)", head, re.MULTILINE))
    if b"shorten" in fields.get(b"sample_coding", b""):
        raise InputError(
            f"{name}: expected {AUDIO}, found NIST SPHERE compressed by shorten; convert it: "
            f"{_CONVERT}"
        )
    try:
        begin, samples = int(head.split()[1]), int(fields[b"sample_count"])
        promised = samples * int(fields[b"sample_n_bytes"]) * int(fields.get(b"channel_count", 1))
    except (IndexError, KeyError, ValueError):
        raise _cut_error(name, "a header that counts the samples", "none") from None
    if promised > size - begin:
        raise _cut_error(name, f"{promised} bytes of samples", str(max(0, size - begin)))


def _check_ogg(file: BinaryIO, size: int, *, serial: bytes, name: str) -> None:
    """Look for a whole last page with the end-of-stream mark, of the stream that came first."""
    file.seek(max(0, size - 2 * _OGG_PAGE_LIMIT))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    page_bytes = 27 + segments + sum(page[27 : 27 + segments])
    if len(page) < page_bytes or not page[5] & _EOS:
        raise _cut_error(name, "a last page with the end-of-stream mark", "none")
    if page[14:18] != serial:
        raise InputError(
            f"{name}: expected one OGG stream, found several in one file; join them: {_CONVERT}"
        )


def _with_mp3_length(file: BinaryIO, name: str) -> BinaryIO:
    """Return the file itself if its first frame tells the length, else one whose first frame does.

    The frames are counted (about 0.1 s for 45 minutes) and a Xing header with their number is put
    in front of a copy in memory.
    """
    file.seek(0)
    head = file.read(10).ljust(10)
    start = 0
    if head[:3] == b"ID3":  # four 7-bit bytes of size, without these ten bytes
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(start)
    data = file.read(65536)
    first = _next_mp3_frame(data, 0)
    if first is None:
        raise InputError(
            f"{name}: expected {AUDIO}, found an MP3 header with no frames after it; "
            "fetch it again or drop it"
        )
    header = data[first : first + 4]
    xing = first + 4 + _side_info_bytes(header)
    if data[xing : xing + 4] in (b"Xing", b"Info") and data[xing + 7] & 1:
        return file
    data += file.read()
    return io.BytesIO(_xing_frame(header, _count_mp3_frames(data, first, name)) + data[first:])


def _mp3_frame_bytes(header: bytes) -> int:
    """Return the length of the layer III frame that four header bytes begin, 0 if none do."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return 0
    mpeg1 = version == 3
    bytes_per_second = _KBPS[mpeg1][bits - 1] * 1000 // 8
    samples = 1152 if mpeg1 else 576
    return samples * bytes_per_second // _MPEG_RATES[version][rate] + (header[2] >> 1 & 1)


def _side_info_bytes(header: bytes) -> int:
    mono = header[3] >> 6 == 3
    if header[1] >> 3 & 3 == 3:
        return 17 if mono else 32
    return 9 if mono else 17


def _next_mp3_frame(data: bytes, position: int) -> int | None:
    """Return where the next frame begins: one that is followed by its like or by the end."""
    while (position := data.find(b"\xff", position)) >= 0:
        header = data[position : position + 4]
        if length := _mp3_frame_bytes(header):
            following = data[position + length : position + length + 4]
            if position + length == len(data) or (
                _mp3_frame_bytes(following) and _stamp(following) == _stamp(header)
            ):
                return position
        position += 1
    return None


def _count_mp3_frames(data: bytes, first: int, name: str) -> int:
    """Return the number of whole frames; a header unlike the first one is a tag or damage."""
    count, position, stamp = 0, first, _stamp(data[first : first + 4])
    while position + 4 <= len(data):
        header = data[position : position + 4]
        length = _mp3_frame_bytes(header)
        if not length or _stamp(header) != stamp:
            following = _next_mp3_frame(data, position + 1)
            position = len(data) if following is None else following
            continue
        if position + length > len(data):
            raise _cut_error(name, f"{length} bytes in frame {count}", f"{len(data) - position}")
        position, count = position + length, count + 1
    return count


def _stamp(header: bytes) -> tuple[int, int]:
    """Return what all frames of a stream share: MPEG version, layer and sampling rate."""
    return header[1] & 0xFE, header[2] & 0x0C


def _xing_frame(header: bytes, frames: int) -> bytes:
    """Return a silent frame that tells how many follow, in the format of `header`."""
    kbps_64 = 5 if header[1] >> 3 & 3 == 3 else 8
    start = bytes((0xFF, header[1] | 1, kbps_64 << 4 | header[2] & 0x0C, header[3]))
    tag = b"Xing" + struct.pack(">II", 1, frames)
    return (start + bytes(_side_info_bytes(header)) + tag).ljust(_mp3_frame_bytes(start), b"\0")
