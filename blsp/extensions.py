"""Adapters and losses of other packages, by dotted name.

A recipe is its user's own, so what it names is imported. A checkpoint comes from somewhere, so what
it names is only ever looked up among what has been imported already: loading never runs code that
nobody asked for. A name enters; the class or function leaves.
"""

import sys
from importlib import import_module
from typing import Any

from blsp.errors import InputError


def import_named(name: str, *, key: str) -> Any:
    """Import what a recipe names.

    Args:
        name: such as ``my_package.MyAdapter``.
        key: of the recipe, for the message.

    Raises:
        InputError: there is no such package, or no such name in it.
    """
    module = _module_of(name, key)
    try:
        import_module(module)
    except ImportError as error:
        raise InputError(
            f"{key}: expected an installed module {module!r}, found none: {error}; install it, or "
            "run where it can be imported"
        ) from error
    return find_named(name, key=key)


def find_named(name: str, *, key: str) -> Any:
    """Look up what has been imported.

    Raises:
        InputError: it has not, or has no such name.
    """
    module, attribute = _module_of(name, key), name.rpartition(".")[2]
    if module not in sys.modules:
        raise InputError(
            f"{key}: expected {name} to be imported, found that it is not, and a checkpoint never "
            f"causes an import; if you trust the package, say --import {module}"
        )
    found = getattr(sys.modules[module], attribute, None)
    if found is None:
        raise InputError(f"{key}: expected {attribute!r} in {module}, found no such name; check it")
    return found


def _module_of(name: str, key: str) -> str:
    module = name.rpartition(".")[0]
    if not module:
        raise InputError(f"{key}: expected a name such as my_package.MyClass, found {name!r}")
    return module
