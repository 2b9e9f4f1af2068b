"""How this engine process is: what it told its chats, and what it takes of the machine."""

import os
import sys

import psutil

from mp13.engine.config import EngineConfig
from mp13.service.news import News
from mp13.service.schema import AdaptersEvent, FailedEvent, Health, LoadEvent, ReadyEvent


def health_of(config: EngineConfig, news: News, num_chats: int, age_s: float) -> Health:
    ready, failed, adapters = news.latest(ReadyEvent), news.latest(FailedEvent), news.latest(AdaptersEvent)
    load = None if ready or failed else news.latest(LoadEvent)
    made = ready.engine if ready else config
    return Health(
        status="failed" if failed else "ready" if ready else "loading",
        pid=os.getpid(),
        model=config.model,
        dtype=made.dtype,
        quantization=str(made.quantization),
        device=made.device,
        stage=load.stage if load else "",
        fraction=load.fraction if load else None,
        error=failed.message if failed else "",
        running=news.busy.running,
        waiting=news.busy.waiting,
        chats=num_chats,
        adapters=tuple(info.name for info in adapters.adapters) if adapters else (),
        age_s=age_s,
        memory_bytes=psutil.Process().memory_info().rss,
        gpu_bytes=_gpu_bytes() if ready else None,
    )


def _gpu_bytes() -> int | None:
    """What torch has taken of all GPUs. It is asked only when it is loaded, and has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count())))
