"""Objectives as pure functions of tensors, each with the paper it comes from.

On what the LLM predicts (`response`) and on what it is given (`speech`). Whoever trains weighs and
adds them; nothing here knows a model, a batch or a recipe.
"""

from blsp.losses.response import (
    DEFAULT_CHUNK,
    IGNORED,
    Head,
    ResponseLoss,
    gather_response,
    response_ce,
    response_kl,
    response_positions,
    response_targets,
)
from blsp.losses.speech import CTC_BLANK, CTC_VARIANCE, ctc

__all__ = [
    "CTC_BLANK",
    "CTC_VARIANCE",
    "DEFAULT_CHUNK",
    "IGNORED",
    "Head",
    "ResponseLoss",
    "ctc",
    "gather_response",
    "response_ce",
    "response_kl",
    "response_positions",
    "response_targets",
]
