"""Word and character error rates of a corpus: the sum of edits over the sum of reference units.

jiwer aligns; what each utterance adds is read from its alignments. Pairs enter as they are to be
compared, normalised before.
"""

from importlib.metadata import version

import jiwer
import numpy as np

from blsp.metrics.statistics import Pairs, Statistics

_COLUMN = {"substitute": 0, "delete": 1, "insert": 2, "equal": 3}


def word_error_rate(pairs: Pairs) -> Statistics:
    """WER; it can exceed 1. Empty references are scored: their words are insertions."""
    aligned = jiwer.process_words(list(pairs.references), list(pairs.predictions))
    return _error_rate("wer", pairs, aligned)


def character_error_rate(pairs: Pairs) -> Statistics:
    """CER; inner spaces are characters unless the normaliser removed them."""
    aligned = jiwer.process_characters(list(pairs.references), list(pairs.predictions))
    return _error_rate("cer", pairs, aligned)


def count_errors(statistics: Statistics) -> dict[str, int]:
    """Return substitutions, deletions, insertions and hits of a corpus, as S, D, I, H."""
    sums = statistics.counts.sum(0)
    return {name: int(total) for name, total in zip("SDIH", sums, strict=True)}


def _error_rate(
    metric: str, pairs: Pairs, aligned: jiwer.WordOutput | jiwer.CharacterOutput
) -> Statistics:
    counts = np.zeros((len(pairs), 4))
    for row, chunks in zip(counts, aligned.alignments, strict=True):
        for chunk in chunks:
            in_reference = chunk.ref_end_idx - chunk.ref_start_idx
            # An insertion has no reference words, a deletion no predicted ones.
            row[_COLUMN[chunk.type]] += in_reference or chunk.hyp_end_idx - chunk.hyp_start_idx
    return Statistics(
        metric=metric,
        ids=pairs.ids,
        counts=counts,
        compute=_rate,
        signature=f"norm:{pairs.normalizer}|jiwer:{version('jiwer')}",
    )


def _rate(sums: np.ndarray) -> np.ndarray:
    """(R, 4) S, D, I, H -> (R,). Without any reference word it is the number of insertions."""
    edits = sums[:, :3].sum(1)
    return edits / np.maximum(sums[:, 0] + sums[:, 1] + sums[:, 3], 1)
