"""Will it fit? Each quantization of a model beside each length of its context, against the memory that is free.

The arithmetic is the library's (fit.py); which questions to put to it, and how to say the answer, is here. No screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mp13.chat.library.shown import size
from mp13.engine.config import EngineConfig
from mp13.engine.quantization import parse_quantization
from mp13.library.fit import Fit, SavedModel, fit_of, quantizations_of
from mp13.library.machine import Kernel, Room

_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)  # tokens
_MOST_USUAL = 4


@dataclass(frozen=True)
class Cell:
    """A quantization, as the setting has it, and a context in tokens; None is as long as the model and the memory
    allow. `why_not` is empty where it can be chosen; `how` says what is particular about the quantization here."""

    quantization: str
    context: int | None
    fit: Fit
    room: Room
    why_not: str = ""
    how: str = ""

    @property
    def short(self) -> str:
        """What there is room for in a table: the memory it takes, or would; of the longest context its length."""
        mark = "✗" if self.why_not else "✓"
        if self.context is None:
            return f"{self.fit.longest:,} {mark}" if self.fit.longest >= 2 else mark
        return f"{_rounded(self.needed if self.why_not else self.fit.total)} {mark}"

    @property
    def needed(self) -> int:
        """Bytes without which there is no conversation of this length."""
        return self.fit.beside_cache + self.fit.wanted_cache

    @property
    def sentence(self) -> str:
        """The sum behind it."""
        parts = (f"weights {size(self.fit.weights)}", f"adapters {size(self.fit.adapters)}",
                 f"a step {size(self.fit.activations)}", f"cache {size(self.fit.cache)}")  # fmt: skip
        return f"{' + '.join(parts)} = {size(self.fit.total)}"


@dataclass(frozen=True)
class Grid:
    """`contexts` ends with None. `saved` is how the weights are quantized on disk already, if they are."""

    quantizations: tuple[str, ...]
    contexts: tuple[int | None, ...]
    cells: dict[tuple[str, int | None], Cell]
    saved: str | None


def fit_grid(model: SavedModel, config: EngineConfig, room: Room, kernels: Sequence[Kernel]) -> Grid:
    """The grid of a model under the settings `config`, whose own choice is a part of it; `kernels` say which
    quantization runs here."""
    names = quantizations_of(model)
    if model.saved is None and config.quantization not in names:
        names = (*names, str(config.quantization))
    contexts = (*_contexts(model.shape.max_position, config.max_model_len), None)
    cells = {(name, length): _cell(model, config, name, length, room, kernels) for name in names for length in contexts}
    return Grid(names, contexts, cells, model.saved)


def _contexts(longest: int, chosen: int | None) -> list[int]:
    """Lengths to choose from: usual ones, all that the model was made for, and the one that is chosen already."""
    offered = {*[length for length in _LENGTHS if length < longest][-_MOST_USUAL:], longest}
    if chosen and chosen <= longest and chosen not in offered:
        offered = {*sorted(offered)[-_MOST_USUAL:], chosen}
    return sorted(offered)


def _cell(
    model: SavedModel, config: EngineConfig, name: str, length: int | None, room: Room, kernels: Sequence[Kernel]
) -> Cell:
    wanted = replace(config, max_model_len=length)
    fit = fit_of(model, wanted, name, room.memory, on_gpu=room.on_gpu, cpu_itemsize=room.cpu_itemsize)
    setting = name if model.saved is None else "none"
    kernel = _kernel(name, kernels)
    return Cell(setting, length, fit, room, _why_not(fit, wanted, room, kernel), kernel.how if kernel else "")


def _kernel(name: str, kernels: Sequence[Kernel]) -> Kernel | None:
    """What multiplies weights of that quantization; None where it is none of ours, or not known."""
    quantization = parse_quantization(name) if name == "none" or name.startswith("hqq-") else None
    names = {kernel.name: kernel for kernel in kernels}
    return None if quantization is None else names.get(f"hqq-{quantization.bits}bit")


def _why_not(fit: Fit, config: EngineConfig, room: Room, kernel: Kernel | None) -> str:
    if kernel is not None and not kernel.runs:
        return f"{kernel.why_not}; {kernel.fix}" if kernel.fix else kernel.why_not
    if fit.holds(config.max_model_len):
        return ""
    free = room.memory * config.gpu_memory_utilization if room.on_gpu else room.memory
    where = f"{size(int(free))} free" + (
        f" within {config.gpu_memory_utilization:.0%} of the GPU" if room.on_gpu else ""
    )
    needed = fit.beside_cache + fit.wanted_cache
    if fit.weights > free:
        return f"the weights alone take {size(fit.weights)}, and there are {where}"
    if needed > free:
        parts = f"{size(fit.beside_cache)} and {size(fit.wanted_cache)} of cache"
        return f"it takes {size(needed)} at least ({parts}), and there are {where}"
    return (
        f"the cache for it takes {size(fit.wanted_cache)}, and {size(fit.most_cache)} is the most it is given unasked; "
        "`mp13config set kv_cache_memory` asks for more"
    )


def _rounded(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.0f} GB" if num_bytes >= 10e9 else size(num_bytes)


def chosen_cell(grid: Grid, config: EngineConfig) -> tuple[int, int]:
    """Row and column of what the settings say now."""
    row = grid.quantizations.index(config.quantization) if config.quantization in grid.quantizations else 0
    last = len(grid.contexts) - 1
    return row, grid.contexts.index(config.max_model_len) if config.max_model_len in grid.contexts else last
