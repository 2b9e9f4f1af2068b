"""What the setting `quantization` may say, and its canonical text. Plain data, no torch; quantizing is linear/'s."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mp13.errors import ConfigError

BITS = (8, 4, 3, 2)
GROUP_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
DEFAULT_GROUP_SIZE = 64
KERNELS = ("auto", "int4")
UNPACKED = 2**25  # weights of few bits that lie dequantized at one time, where rows can be taken by themselves
STORED_METHOD = "mp13-hqq"  # in a saved model's config.json; Transformers' own loaders refuse a name they don't know
QUANTIZATION_NAMES = ("none", *(f"hqq-{bits}bit" for bits in BITS))
_KEYS = ("bits", "group_size", "axis", "head", "embeddings", "kernel")
_PART = re.compile(
    r"g(?P<group_size>\d+)|axis(?P<axis>\d+)|(?P<of>head|embeddings) (?P<bits>\d)bit|kernel (?P<kernel>\w+)"
)


@dataclass(frozen=True)
class Quantization:
    """HQQ (Badri & Shaji 2023): weights of `bits` bits, `group_size` of which share a scale and a zero point.

    Args:
        group_size: None is 64 or, where that does not divide every layer's in_features, the largest below that does.
        axis: 1 groups weights within a row, 0 across rows.
        head, embeddings: bits of the output head and of the embedding table; None keeps them in the model's dtype.
        kernel: "int4" demands that torch's int4 product multiplies; "auto" takes it where it runs and is faster.

    Raises:
        ConfigError: a value is none of these.
    """

    bits: int
    group_size: int | None = None
    axis: int = 1
    head: int | None = None
    embeddings: int | None = None
    kernel: str = "auto"

    def __post_init__(self) -> None:
        self._require("bits", BITS)
        self._require("group_size", (None, *GROUP_SIZES))
        self._require("axis", (0, 1))
        self._require("head", (None, *BITS))
        self._require("embeddings", (None, *BITS))
        self._require("kernel", KERNELS)

    def _require(self, key: str, known: tuple[Any, ...]) -> None:
        value = getattr(self, key)
        if isinstance(value, bool | float) or value not in known:
            raise _refused(self, f"{key} = {value!r}", f"one of {_listed(known)}")

    def __str__(self) -> str:
        """The canonical text, which `parse_quantization` reads again."""
        parts = [f"hqq-{self.bits}bit"]
        parts += [] if self.group_size is None else [f"g{self.group_size}"]
        parts += [] if self.axis == 1 else [f"axis{self.axis}"]
        parts += [f"{of} {bits}bit" for of in ("head", "embeddings") if (bits := getattr(self, of)) is not None]
        return " ".join(parts + ([] if self.kernel == "auto" else [f"kernel {self.kernel}"]))

    @property
    def of_weights(self) -> "Quantization":
        """What decides the weights' values: all but the kernel. The usual group size goes unsaid."""
        usual = self.group_size == DEFAULT_GROUP_SIZE
        return replace(self, kernel="auto", group_size=None if usual else self.group_size)

    def fitted(self, widths: Mapping[str, int]) -> "Quantization":
        """This with its group size decided, for layers whose in_features are `widths`.

        Raises:
            ConfigError: the group size does not divide a layer's in_features, or none does.
        """
        sizes = [size for size in GROUP_SIZES if size <= (self.group_size or DEFAULT_GROUP_SIZE)]
        choices = sizes if self.group_size is None else [self.group_size]
        for size in reversed(choices):
            if all(width % size == 0 for width in widths.values()):
                return replace(self, group_size=size)
        name, width = next((name, width) for name, width in widths.items() if width % choices[-1])
        fits = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths.values())]
        fix = f"{_listed(fits)} would fit all layers" if fits else "no group size fits; give quantization = 'none'"
        raise ConfigError(
            f"group_size = {choices[-1]} cannot be used: it does not divide the {width} in_features of {name}; {fix}"
        )


def parse_quantization(value: Any) -> Quantization | None:
    """What the setting says: a name such as "hqq-4bit", the canonical text, or a table (or its JSON). None is "none".

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(value, Quantization):
        return value
    if isinstance(value, Mapping):
        return _from_table(value, value)
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            return _from_table(json.loads(value), value)
        except (json.JSONDecodeError, RecursionError):
            raise _refused(value, "it", "a table in JSON") from None
    if value == "none":
        return None
    if not isinstance(value, str) or (text := " ".join(value.split())).partition(" ")[0] not in QUANTIZATION_NAMES:
        raise _refused(
            value, None, f"one of {_listed(QUANTIZATION_NAMES)}, or a table {{bits, {', '.join(_KEYS[1:])}}}"
        )
    return _from_text(text)


def _from_text(text: str) -> Quantization:
    name, _, rest = text.partition(" ")
    table: dict[str, Any] = {"bits": int(name[4])}
    while rest:
        match = _PART.match(rest)
        if match is None or rest[match.end() : match.end() + 1] not in ("", " "):
            raise _refused(text, f"{rest!r}", "g64, axis0, head 4bit, embeddings 4bit or kernel int4")
        for key in ("group_size", "axis"):
            if match[key]:
                table[key] = int(match[key])
        if match["of"]:
            table[match["of"]] = int(match["bits"])
        if match["kernel"]:
            table["kernel"] = match["kernel"]
        rest = rest[match.end() + 1 :]
    return Quantization(**table)


def _from_table(table: Any, shown: Any) -> Quantization:
    if not isinstance(table, Mapping) or "bits" not in table:
        raise _refused(shown, None, f"a table with bits, one of {_listed(BITS)}")
    if unknown := [key for key in table if key not in _KEYS]:
        raise _refused(shown, f"{unknown[0]!r}", f"keys among {', '.join(_KEYS)}")
    values: dict[str, Any] = {key: None if value == "none" else value for key, value in table.items()}
    return Quantization(**values)


def stored_table(quantization: Quantization) -> dict[str, Any]:
    """The table that says it all, for a file; `parse_quantization` reads it."""
    return {key: value for key, value in asdict(quantization).items() if value is not None and key != "kernel"}


def _refused(value: Any, what: str | None, allowed: str) -> ConfigError:
    shown = value
    if isinstance(value, Quantization):
        shown = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
    why = "" if what is None else f" ({what} is not known)"
    return ConfigError(f"quantization = {shown!r} cannot be used{why}; give {allowed}")


def _listed(values: Any) -> str:
    return ", ".join("none" if value is None else str(value) for value in values)
