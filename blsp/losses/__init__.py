"""Objectives as pure functions of tensors, each with the paper it comes from.

On what the LLM predicts and on what it is given. Whoever trains weighs and adds them; no model,
batch or recipe is known here.
"""

from blsp.losses.response import (
    DEFAULT_CHUNK,
    IGNORED,
    Head,
    ResponseLoss,
    gather_response,
    gather_spans,
    input_kl,
    response_ce,
    response_kl,
    response_positions,
    response_targets,
)
from blsp.losses.speech import (
    CTC_BLANK,
    CTC_VARIANCE,
    cif_quantity,
    ctc,
    embedding_l2,
    emotion_ce,
)
from blsp.losses.transport import optimal_transport

__all__ = [
    "CTC_BLANK",
    "CTC_VARIANCE",
    "DEFAULT_CHUNK",
    "IGNORED",
    "Head",
    "ResponseLoss",
    "cif_quantity",
    "ctc",
    "embedding_l2",
    "emotion_ce",
    "gather_response",
    "gather_spans",
    "input_kl",
    "optimal_transport",
    "response_ce",
    "response_kl",
    "response_positions",
    "response_targets",
]
