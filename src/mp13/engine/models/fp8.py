"""Weights stored in 8-bit floating point beside their scales, as DeepSeek, Qwen and Mistral AI publish them."""

import torch

from mp13.errors import ModelError

SCALE = "_scale_inv"  # what a scale's name has behind the weight's
_ACTIVATION_SCALE = ".activation_scale"  # of a linear's input, which is not in fp8 here


def is_fp8(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)


def is_scale(name: str) -> bool:
    """Whether the tensor of that name has no meaning but beside weights in fp8."""
    return name.endswith((SCALE, _ACTIVATION_SCALE))


def dequantized(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """weight * scale in float32. `weight` is (rows, columns), `scale` has one number for all of it, or (a, b): one for
    each block of a power of two of rows and columns.

    Raises:
        ModelError: the shapes do not fit.
    """
    if scale.numel() == 1:
        return weight.float() * scale.float().reshape(())
    if scale.ndim != 2 or weight.ndim != 2:
        raise ModelError(f"scales of shape {tuple(scale.shape)} do not fit weights of shape {tuple(weight.shape)}")
    wide = scale.float()  # (a, b)
    for axis, size in enumerate(weight.shape):
        block = 1 << (-(-size // scale.shape[axis]) - 1).bit_length()
        if -(-size // block) != scale.shape[axis]:
            raise ModelError(f"{scale.shape[axis]} scales do not fit {size} rows or columns of weights")
        wide = wide.repeat_interleave(block, axis).narrow(axis, 0, size)
    return weight.float() * wide
