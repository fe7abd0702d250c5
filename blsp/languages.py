"""Which language a text is in: sure, or silent.

English and German are known by their commonest words, Chinese by its script. An answer in the
wrong language costs little where it is overlooked, and a right one that is thrown away is lost for
certain; so what is short, mixed or in any other language has no name here. A text or a code from a
manifest enters; a language code, or None, leaves.
"""

import re

WRITTEN_APART = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word; of Chinese and Japanese, which put no spaces, a character."""

# Words of the neighbours (Dutch `is`, `of`, `we`; Danish `den`, `er`; French `des`) are left out.
_LISTS = {
    "en": "the and that it you with for this are have not but they his her from your she were been "
    "would there their what which will my about when has be to do can could should",
    "de": "und nicht das ist ein eine einen einem einer ich auch auf sich wird werden sind für "
    "aber oder wir ihr wie nach bei haben noch nur wenn dem sehr kann mein dein zum zur über dass "
    "diese dieser dieses von im mich mir dir kein keine hat habe wurde durch",
}
_COMMON = {code: frozenset(words.split()) for code, words in _LISTS.items()}
CHECKED = ("en", "de", "zh")
"""The languages that `find_language` knows."""

_SAME = {"cmn": "zh", "eng": "en", "deu": "de", "ger": "de", "zho": "zh", "chi": "zh"}
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; of Chinese its characters."""
    return WRITTEN_APART.findall(text.lower())


def base_language(code: str | None) -> str | None:
    """`zh-CN`, `zh_cn` and `cmn_hans_cn` -> `zh`; None stays None."""
    first = re.split(r"[-_]", code.strip().lower())[0] if code else ""
    return _SAME.get(first, first) or None


def find_language(text: str) -> str | None:
    """Return `en`, `de` or `zh`; None wherever that is not sure.

    Sure is six of ten letters in Han characters, at least four of them, and no kana; or three
    different common words of one language, at least every eighth word of all, and at most a fifth
    as many of the other.
    """
    letters = sum(map(str.isalpha, text))
    han = len(_HAN.findall(text))
    if han >= 4 and han >= 0.6 * letters:
        return None if _KANA.search(text) else "zh"
    words = split_words(text)
    hits = {code: [word for word in words if word in known] for code, known in _COMMON.items()}
    best, other = sorted(hits, key=lambda code: -len(hits[code]))
    enough = len(set(hits[best])) >= 3 and 8 * len(hits[best]) >= len(words)
    return best if enough and 5 * len(hits[other]) <= len(hits[best]) else None


def is_other_language(text: str, expected: str) -> bool:
    """Tell whether a text is surely not in the language that was asked for.

    Han characters alone may be Japanese or Cantonese, so that they speak against English and
    German only.
    """
    found, wanted = find_language(text), base_language(expected)
    return found not in (None, wanted) and (found != "zh" or wanted in CHECKED)
