"""Objectives as pure functions of tensors, each with the paper it comes from.

On what the LLM predicts (`response`), on what it is given (`speech`, `transport`) and on what lies
between (`states`). Whoever trains weighs and adds them; no model, batch or recipe is known here.
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
from blsp.losses.states import contrastive, first_state, hidden_cosine
from blsp.losses.transport import optimal_transport

__all__ = [
    "CTC_BLANK",
    "CTC_VARIANCE",
    "DEFAULT_CHUNK",
    "IGNORED",
    "Head",
    "ResponseLoss",
    "cif_quantity",
    "contrastive",
    "ctc",
    "embedding_l2",
    "emotion_ce",
    "first_state",
    "gather_response",
    "gather_spans",
    "hidden_cosine",
    "input_kl",
    "optimal_transport",
    "response_ce",
    "response_kl",
    "response_positions",
    "response_targets",
]
