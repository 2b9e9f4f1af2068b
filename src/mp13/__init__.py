"""mp13: a small, readable inference engine whose LoRA adapters switch in the middle of a conversation.

Names load on first use, so that importing mp13 does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mp13.engine.async_engine import AsyncEngine
    from mp13.engine.llm import LLM
    from mp13.engine.request import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "AsyncEngine", "SamplingParams", "__version__"]

_HOMES = {
    "LLM": "mp13.engine.llm",
    "AsyncEngine": "mp13.engine.async_engine",
    "SamplingParams": "mp13.engine.request",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mp13' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
