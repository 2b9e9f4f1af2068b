"""What an engine tells about itself once it is up."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from mp13.engine.config import EngineConfig
from mp13.engine.models.digest import base_digest
from mp13.engine.models.loader import LoadedModel
from mp13.engine.text.chat_template import template_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineDescription:
    """The engine as it came up. `notes` say what `auto` chose and why."""

    model: str
    model_type: str
    dtype: str
    device: str
    model_impl: str
    attn_implementation: str
    attn_reason: str  # why that one
    quantization: str
    max_model_len: int
    kv_cache_tokens: int
    notes: tuple[str, ...]
    eos_token_ids: frozenset[int]
    template_digest: str
    _base_digest: "Future[str]" = field(repr=False, compare=False)

    @property
    def base_digest(self) -> str:
        """SHA-256 over the model's weights. Hashed in the background; the first reader may wait for it."""
        return self._base_digest.result()


def describe(config: EngineConfig, loaded: LoadedModel, max_model_len: int, num_blocks: int) -> EngineDescription:
    """The notes go to the log, too."""
    for note in loaded.notes:
        log.info("%s", note)
    digest: Future[str] = Future()
    threading.Thread(target=_fulfil, args=(digest, lambda: base_digest(loaded.path))).start()
    return EngineDescription(
        model=config.model,
        model_type=loaded.model_type,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        model_impl=loaded.model_impl,
        attn_implementation=loaded.attention.name,
        attn_reason=loaded.attention.reason,
        quantization=loaded.quantization,
        max_model_len=max_model_len,
        kv_cache_tokens=num_blocks * config.block_size,
        notes=loaded.notes,
        eos_token_ids=loaded.eos_token_ids,
        template_digest=template_digest(loaded.tokenizer),
        _base_digest=digest,
    )


def _fulfil(future: "Future[str]", work: Callable[[], str]) -> None:
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
