"""The speech language model: encoder, adapter and the LLM that hears.

Importing it makes transformers' Auto classes know `BlspConfig`, the models and the processor.
"""

from blsp.model.adapter import num_speech_tokens
from blsp.model.configuration import AdapterConfig, BlspConfig, LoraConfig
from blsp.model.foundations import LlmOptions
from blsp.model.loading import compose, load_checkpoint, register, save_checkpoint, warm_start
from blsp.model.modeling import BlspForConditionalGeneration, BlspModel, BlspOutput
from blsp.model.processing import BlspProcessor

__all__ = [
    "AdapterConfig",
    "BlspConfig",
    "BlspForConditionalGeneration",
    "BlspModel",
    "BlspOutput",
    "BlspProcessor",
    "LlmOptions",
    "LoraConfig",
    "compose",
    "load_checkpoint",
    "num_speech_tokens",
    "save_checkpoint",
    "warm_start",
]

register()
