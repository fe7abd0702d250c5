"""BLEU and chrF of translations, by sacrebleu: cased, detokenised, one reference.

BLEU with the wrong tokeniser fails silently (good Chinese scores 0), so the tokeniser follows from
the target language and another one is refused; those that sacrebleu would download are left out.
Its signature stays with every value. Values are fractions here; sacrebleu's are percentages.
"""

import re
from importlib.util import find_spec

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from blsp.errors import InputError
from blsp.metrics.normalizers import RAW
from blsp.metrics.statistics import Pairs, Statistics

# The first is the default. Languages not named here put spaces between words.
_TOKENIZERS = {
    "zh": ("zh", "char"),
    "yue": ("zh", "char"),
    "ja": ("ja-mecab", "char"),
    "ko": ("ko-mecab", "char"),
    **dict.fromkeys(("th", "lo", "km", "my"), ("char",)),
}
_SPACED = ("13a", "intl")
_EXTRAS = {"ja-mecab": ("MeCab", "ja"), "ko-mecab": ("mecab_ko", "ko")}


def bleu_tokenizer(language: str, tokenize: str | None = None) -> str:
    """Return sacrebleu's tokeniser for a target language, or the one asked for where it fits.

    Args:
        language: two- or three-letter code, also ``zh-CN``; a name is refused.
        tokenize: sacrebleu's name; None takes the usual one.

    Raises:
        InputError: not a code, a tokeniser that is wrong for the language, or one not installed.
    """
    if not re.fullmatch(r"[a-z]{2,3}([-_]\w+)?", language):
        raise InputError(
            f"expected the code of the target language, found {language!r}; write de, zh or pt-BR"
        )
    fitting = _TOKENIZERS.get(re.split("[-_]", language)[0], _SPACED)
    chosen = tokenize or fitting[0]
    if chosen not in fitting:
        raise InputError(
            f"expected a BLEU tokeniser for {language!r} ({', '.join(fitting)}), found {chosen!r}, "
            "whose score would mean nothing; leave it out"
        )
    module, extra = _EXTRAS.get(chosen, ("sacrebleu", ""))
    if find_spec(module) is None:
        raise InputError(
            f"expected the tokeniser {chosen} for {language!r}, found it not installed; "
            f"pip install 'sacrebleu[{extra}]'"
        )
    return chosen


def bleu(pairs: Pairs, language: str, *, tokenize: str | None = None) -> Statistics:
    """Corpus BLEU (Papineni et al., ACL 2002; Post, WMT 2018) into ``language``.

    Raises:
        InputError: see ``bleu_tokenizer``; or the pairs are normalised.
    """
    return score_with("bleu", pairs, BLEU(tokenize=bleu_tokenizer(language, tokenize)))


def chrf(pairs: Pairs, *, word_order: int = 0) -> Statistics:
    """chrF (Popović, WMT 2015), or chrF++ with a word order of 2; needs no tokeniser."""
    return score_with("chrf++" if word_order else "chrf", pairs, CHRF(word_order=word_order))


def score_with(metric: str, pairs: Pairs, scorer: BLEU | CHRF) -> Statistics:
    """Statistics of a sacrebleu metric; it must have one reference an utterance.

    Raises:
        InputError: the pairs are normalised, which the signature would deny.
    """
    if pairs.normalizer != RAW.name:
        raise InputError(
            f"expected raw text for {metric}, found it normalised by {pairs.normalizer!r}; "
            "pass the pairs as they were joined"
        )
    # What sacrebleu's own significance tests resample; it has no public name.
    counts = scorer._extract_corpus_statistics(pairs.predictions, [pairs.references])

    def compute(sums: np.ndarray) -> np.ndarray:
        rows = sums.astype(np.int64).tolist()
        return np.array([scorer._compute_score_from_stats(row).score for row in rows]) / 100

    return Statistics(
        metric=metric,
        ids=pairs.ids,
        counts=np.array(counts, dtype=np.float64),
        compute=compute,
        signature=str(scorer.get_signature()),
    )
