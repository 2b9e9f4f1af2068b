"""Which form a quantized base weight takes here, and why: torch's int4 product, or dequantized before each product."""

from collections.abc import Mapping, Sequence

import torch

from mp13.engine.linear import int4_cpu, int4_cuda
from mp13.engine.linear.quantized_tensor import QuantizedTensor, require_hqq
from mp13.engine.linear.quantized_weight import DequantizedWeight, QuantizedWeight
from mp13.engine.quantization import Quantization
from mp13.errors import ConfigError

Shape = tuple[int, int]  # (out_features, in_features)


def quantized_weight(
    tensors: Sequence[QuantizedTensor], bias: torch.Tensor | None, *, demanded: bool
) -> QuantizedWeight:
    """The rows of `tensors` in the faster form; where the int4 product is demanded, in its."""
    first, num_rows = tensors[0], sum(tensor.shape[0] for tensor in tensors)
    dtype, device = first.scale.dtype, first.scale.device
    shape = (num_rows, first.shape[1])
    cannot = _why_no_int4(first.bits, first.axis, first.group_size, shape, dtype, device)
    if cannot is not None or (_is_slow(dtype, device) and not demanded):
        return DequantizedWeight(tensors, bias)
    kind = int4_cpu.Int4CPUWeight if device.type == "cpu" else int4_cuda.Int4CUDAWeight
    return kind(tensors, bias)


def require_kernel(
    quantization: Quantization, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device
) -> None:
    """`quantization` has its group size; `shapes` are of all layers that it quantizes.

    Raises:
        ConfigError: the int4 product is demanded and cannot run.
    """
    if quantization.kernel != "int4":
        return
    for name, shape in shapes.items():
        why = _why_not(quantization, shape, dtype, device)
        if why is not None:
            raise ConfigError(f"kernel = 'int4' cannot be used for {name}: {why}; change that, or give kernel = 'auto'")


def kernel_note(
    quantization: Quantization, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device
) -> str:
    """How it is multiplied here, for a person to read."""
    words = f"quantization {quantization.of_weights}"
    reasons = [_why_not(quantization, shape, dtype, device) for shape in shapes.values()]
    why = next((reason for reason in reasons if reason), None)
    if why is None and _is_slow(dtype, device) and quantization.kernel == "auto":
        why = f"in {_name(dtype)} torch's int4 product is slower here"
    if why is not None:
        some = "some layers are " if None in reasons and len(set(reasons)) > 1 else ""
        return f"{words}: {some}dequantized before each product, which saves memory and no time, since {why}"
    few = int4_cuda.Int4CUDAWeight.few_rows if device.type == "cuda" else int4_cpu.few_rows(dtype)
    return f"{words}: int4 product for up to {few} tokens at a time, dequantized for more"


def machine_note(device: torch.device) -> str:
    """What quantized weights can expect of `device`, whatever the model. Raises UnsupportedError without hqq."""
    require_hqq()
    cannot = int4_cpu.why_not() if device.type == "cpu" else int4_cuda.why_not(device)
    four = f"4 bits too, since {cannot}" if cannot else "4 bits take torch's int4 product for few tokens"
    return f"8, 3 and 2 bits are dequantized before each product; {four}"


def _why_not(quantization: Quantization, shape: Shape, dtype: torch.dtype, device: torch.device) -> str | None:
    assert quantization.group_size is not None
    return _why_no_int4(quantization.bits, quantization.axis, quantization.group_size, shape, dtype, device)


def _why_no_int4(
    bits: int, axis: int, group_size: int, shape: Shape, dtype: torch.dtype, device: torch.device
) -> str | None:
    if bits != 4:
        return f"{bits} bits have no int4 product"
    if axis != 1:
        return "the int4 product needs axis = 1"
    if device.type == "cpu":
        return _why_not_shape(group_size, shape, int4_cpu.ROW_MULTIPLE, group_size) or int4_cpu.why_not()
    if device.type == "cuda":
        if dtype != torch.bfloat16:
            return f"the int4 product needs dtype bfloat16 on a GPU, and this is {_name(dtype)}"
        wrong = _why_not_shape(group_size, shape, int4_cuda.ROW_MULTIPLE, int4_cuda.COLUMN_MULTIPLE)
        return wrong or int4_cuda.why_not(device)
    return f"torch has no int4 product for device {device.type!r}"


def _why_not_shape(group_size: int, shape: Shape, row_multiple: int, column_multiple: int) -> str | None:
    if group_size not in int4_cpu.GROUP_SIZES:
        return f"the int4 product takes groups of {', '.join(map(str, int4_cpu.GROUP_SIZES))}, not {group_size}"
    if shape[0] % row_multiple or shape[1] % column_multiple:
        return (
            f"the int4 product takes multiples of {row_multiple} rows and {column_multiple} columns, "
            f"not {shape[0]} x {shape[1]}"
        )
    return None


def _is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    return device.type == "cpu" and dtype != torch.bfloat16


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
