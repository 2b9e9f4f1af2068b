"""Attention backends by name: what each can compute and where, and the choice that `auto` makes.

A backend is one function over the paged cache. Its module, and the library behind it, are imported when it is chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch

from mp13.engine.attention.metadata import AttentionMetadata
from mp13.errors import UnsupportedError


@dataclass(frozen=True)
class AttentionSpec:
    """What distinguishes one attention layer from another. `window`: keys a query sees, itself included."""

    scale: float
    window: int | None = None
    softcap: float = 0.0


# (q, k_cache, v_cache, spec, metadata) -> output, q and output (T, num_heads, head_dim)
PagedAttentionFunction = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, AttentionSpec, AttentionMetadata], torch.Tensor
]


@dataclass(frozen=True)
class AttentionNeed:
    """What a model, on a device and with a cache, asks of its attention. `dtype` is that of queries and cache."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    block_size: int
    softcap: bool = False


@dataclass(frozen=True)
class AttentionChoice:
    name: str
    reason: str
    function: PagedAttentionFunction


@dataclass(frozen=True)
class _Backend:
    """`function` is its module in this package and its name there; None in a limit is no limit."""

    function: str
    package: str = ""  # what it imports of a library
    install: str = ""
    capability: tuple[int, int] | None = None  # the least CUDA compute capability; without one, any device will do
    dtypes: tuple[torch.dtype, ...] | None = None
    head_dims: tuple[int, ...] | None = None
    block_multiple: int = 1
    softcap: bool = True


_HALF = (torch.float16, torch.bfloat16)
_EIGHTS = tuple(range(8, 257, 8))
_BACKENDS = {
    "flash_attention_3": _Backend(
        "flash_attn.flash_attention_3", "flash_attn_interface",
        "build it from the folder `hopper` of the flash-attention repository, as INSTALL.md says",
        capability=(9, 0), dtypes=_HALF, head_dims=_EIGHTS,
    ),
    "flash_attention_2": _Backend(
        "flash_attn.flash_attention_2", "flash_attn.flash_attn_interface",  # version 4 alone has `flash_attn`, too
        'pip install --no-build-isolation "mp13[flashattn]"',
        capability=(8, 0), dtypes=_HALF, head_dims=_EIGHTS, block_multiple=256,
    ),
    "triton": _Backend(
        "triton.paged_attention", "triton", 'pip install "mp13[triton]"',
        capability=(8, 0), dtypes=_HALF, head_dims=tuple(range(16, 257)),
    ),
    "flash_attention_4": _Backend(
        "flash_attn.flash_attention_4", "flash_attn.cute", 'pip install "flash-attn-4[cu13]"',
        capability=(9, 0), dtypes=_HALF, head_dims=_EIGHTS,
    ),
    "xformers": _Backend(
        "xformers.paged_attention", "xformers.ops", 'pip install "mp13[xformers]"',
        capability=(8, 0), dtypes=_HALF, head_dims=(16, 32, 64, 128, 256), block_multiple=64, softcap=False,
    ),
    "sdpa": _Backend("sdpa.paged_attention", softcap=False),
    "reference": _Backend("flash_attn.reference_attention"),
}  # fmt: skip
# The fastest at decoding first, on an H100 from Triton on; flash-attn 2 and 3 were not measured (docs/attention.md).
_AUTO = ("flash_attention_3", "flash_attention_2", "triton", "sdpa", "reference")


def choose_attention(name: str, need: AttentionNeed) -> AttentionChoice:
    """The backend called `name`; for "auto", the fastest at decoding that computes what the model needs.

    Raises:
        UnsupportedError: the named backend cannot run here, or cannot compute this model's attention.
    """
    if name != "auto":
        if (reason := why_not(name, need)) is not None:
            raise UnsupportedError(f"attn_implementation = {name!r} cannot be used: {reason}, or use 'auto'")
        return AttentionChoice(name, "chosen by the settings", _function(name))
    passed_over = []
    for candidate in _AUTO[:-1]:
        if (reason := why_not(candidate, need)) is None:
            break
        if need.device.type == "cuda" or _BACKENDS[candidate].capability is None:  # else it goes without saying
            passed_over.append(f"{candidate}: {reason.partition(';')[0]}")
    else:
        candidate = _AUTO[-1]
    others = f" ({'; '.join(passed_over)})" if passed_over else ""
    return AttentionChoice(candidate, f"the fastest at decoding that runs here{others}", _function(candidate))


def why_not(name: str, need: AttentionNeed) -> str | None:
    """Why the backend called `name` cannot do what is needed, and the fix; None where it can. Loads no weights."""
    backend = _BACKENDS[name]
    if (reason := _not_here(backend, need.device)) is not None:
        return reason
    if backend.dtypes and need.dtype not in backend.dtypes:
        known = " and ".join(_dtype_name(dtype) for dtype in backend.dtypes)
        return f"it computes in {known} only, not {_dtype_name(need.dtype)}; set dtype = 'bfloat16'"
    if backend.head_dims and need.head_dim not in backend.head_dims:
        return f"it has no kernel for heads of {need.head_dim} dimensions; choose 'sdpa'"
    if need.softcap and not backend.softcap:
        return "it cannot cap attention scores, which this model needs; choose 'triton' on a GPU, else 'reference'"
    if need.block_size % backend.block_multiple:
        fix = f"set block_size = {backend.block_multiple}"
        return f"its cache blocks hold a multiple of {backend.block_multiple} tokens, not {need.block_size}; {fix}"
    return _not_importable(backend)


def available(need: AttentionNeed) -> list[tuple[str, str | None]]:
    """Every backend with None if it can do what is needed, else why not."""
    return [(name, why_not(name, need)) for name in _BACKENDS]


def _not_here(backend: _Backend, device: torch.device) -> str | None:
    if backend.capability is not None:
        if device.type != "cuda":
            return f"it needs an NVIDIA GPU, and the device is {device.type}; choose 'sdpa'"
        capability = torch.cuda.get_device_capability(device)
        if capability < backend.capability:
            least, here = (".".join(map(str, version)) for version in (backend.capability, capability))
            return f"it needs a GPU of compute capability {least}, and this one has {here}; choose 'sdpa'"
    if backend.package and not _is_installed(backend.package):
        return f"{backend.package.partition('.')[0]} is not installed; {backend.install}"
    return None


def _is_installed(package: str) -> bool:
    """Whether there is anything of its name. Imports nothing: to look within a package would run its code."""
    return find_spec(package.partition(".")[0]) is not None


def _not_importable(backend: _Backend) -> str | None:
    """A package may lack the part that is needed, or have been built for another torch and fail when it is imported."""
    package = backend.package
    try:
        if package:
            import_module(package)
    except Exception as error:  # whatever a broken build raises
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            return f"{package} is not installed; {backend.install}"
        first_line = str(error).strip().partition("\n")[0]
        return f"{package} does not work with this torch ({type(error).__name__}: {first_line}); {backend.install}"
    return None


def _function(name: str) -> PagedAttentionFunction:
    module, _, function = _BACKENDS[name].function.partition(".")
    found: PagedAttentionFunction = getattr(import_module(f"mp13.engine.attention.{module}"), function)
    return found


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
