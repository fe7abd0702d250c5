"""Scores of predictions against references, each with its interval and its signature.

References and predictions are joined by id and enter as `Pairs`; a metric says what every utterance
adds to it (`Statistics`), so that intervals and paired tests resample utterances, never averages
of averages. Rows (`Metric`) leave. `python -m blsp.metrics VECTORS.json` checks it all.
"""

from blsp.metrics.answers import (
    contains_gold,
    read_golds,
    score_exact,
    score_words,
    squad_em,
    squad_f1,
    write_golds,
)
from blsp.metrics.frames import (
    Frame,
    frame_f1,
    intent_accuracy,
    invalid_frames,
    parse_frame,
    slue_scores,
    slurp_scores,
    write_frame,
)
from blsp.metrics.intervals import Comparison, Metric, compare, measure, wilson_interval
from blsp.metrics.labels import (
    exact_match,
    invalid_rate,
    label_accuracy,
    mean_of_labels,
    parse_label,
    score_classes,
    unweighted_accuracy,
)
from blsp.metrics.normalizers import (
    BASIC,
    BASIC_CHARACTERS,
    GIGASPEECH,
    GIGASPEECH_WRITTEN,
    RAW,
    Normalizer,
    build_normalizer,
    load_english_normalizer,
)
from blsp.metrics.recognition import character_error_rate, count_errors, word_error_rate
from blsp.metrics.replies import answered, check_phrases, distinct_replies, fitting_replies
from blsp.metrics.seeds import Difference, Estimate, compare_seeds, holm, measure_seeds
from blsp.metrics.significance import mcnemar_test, randomization_test
from blsp.metrics.statistics import Pairs, Statistics, cluster, drop_empty_references, pair_texts
from blsp.metrics.translation import bleu, bleu_tokenizer, chrf
from blsp.metrics.voicebench import (
    CONCLUSIONS,
    TASKS,
    choice_accuracy,
    conclusion_accuracy,
    extract_choice,
    extract_conclusion,
    refusal_rate,
    refuses,
    unparsed_choices,
    unparsed_conclusions,
)

__all__ = [
    "BASIC",
    "BASIC_CHARACTERS",
    "CONCLUSIONS",
    "GIGASPEECH",
    "GIGASPEECH_WRITTEN",
    "RAW",
    "TASKS",
    "Comparison",
    "Difference",
    "Estimate",
    "Frame",
    "Metric",
    "Normalizer",
    "Pairs",
    "Statistics",
    "answered",
    "bleu",
    "bleu_tokenizer",
    "build_normalizer",
    "character_error_rate",
    "check_phrases",
    "choice_accuracy",
    "chrf",
    "cluster",
    "compare",
    "compare_seeds",
    "conclusion_accuracy",
    "contains_gold",
    "count_errors",
    "distinct_replies",
    "drop_empty_references",
    "exact_match",
    "extract_choice",
    "extract_conclusion",
    "fitting_replies",
    "frame_f1",
    "holm",
    "intent_accuracy",
    "invalid_frames",
    "invalid_rate",
    "label_accuracy",
    "load_english_normalizer",
    "mcnemar_test",
    "mean_of_labels",
    "measure",
    "measure_seeds",
    "pair_texts",
    "parse_frame",
    "parse_label",
    "randomization_test",
    "read_golds",
    "refusal_rate",
    "refuses",
    "score_classes",
    "score_exact",
    "score_words",
    "slue_scores",
    "slurp_scores",
    "squad_em",
    "squad_f1",
    "unparsed_choices",
    "unparsed_conclusions",
    "unweighted_accuracy",
    "wilson_interval",
    "word_error_rate",
    "write_frame",
    "write_golds",
]
