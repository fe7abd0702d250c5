"""Give an open language model ears: a speech adapter finetuned by behaviour alignment.

Importing this package stays light, so that the command line answers at once and a script that only
reads files never pays for torch. A public name is looked up in the module that owns it on first use
(PEP 562) and nothing is imported before that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blsp.config import dump_config, load_config
    from blsp.errors import InputError
    from blsp.model import (
        AdapterConfig,
        BlspConfig,
        BlspForConditionalGeneration,
        BlspProcessor,
        compose,
        load_checkpoint,
        save_checkpoint,
    )

__version__ = "0.1.0"

_HOMES = {
    "InputError": "blsp.errors",
    "dump_config": "blsp.config",
    "load_config": "blsp.config",
    "AdapterConfig": "blsp.model",
    "BlspConfig": "blsp.model",
    "BlspForConditionalGeneration": "blsp.model",
    "BlspProcessor": "blsp.model",
    "compose": "blsp.model",
    "load_checkpoint": "blsp.model",
    "save_checkpoint": "blsp.model",
}

__all__ = [
    "AdapterConfig",
    "BlspConfig",
    "BlspForConditionalGeneration",
    "BlspProcessor",
    "InputError",
    "__version__",
    "compose",
    "dump_config",
    "load_checkpoint",
    "load_config",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blsp' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
