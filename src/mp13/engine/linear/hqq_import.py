"""How hqq is imported: without the compiler, which takes longer than all the rest and is not used here."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch


def import_hqq() -> ModuleType:
    """The module with hqq's Quantizer.

    Methods beside it, which nobody calls here, are decorated with `torch.compile`, and that alone imports the compiler:
    more than a second of every start, for Transformers imports hqq wherever it is installed. So come before it.

    Raises:
        ImportError: hqq is missing or does not work here.
    """
    compiling = torch.compile
    torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        return import_module("hqq.core.quantize")
    finally:
        torch.compile = compiling


def _as_it_is(*_: Any, **__: Any) -> Callable[[Any], Any]:
    return lambda function: function
