"""What is known of a turn, as rows for a reader and as data for a machine. Drawing it is left to others."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mp13.chat.conversation.room import oldest_exchanges
from mp13.chat.conversation.turn import Turn
from mp13.service.schema import Metrics, Provenance

Rows = list[tuple[str, str]]
_SHORT = 12  # characters of a digest that is shown


@dataclass(frozen=True)
class Report:
    """`rows` are names and what there is to say; `data` is all of it, as JSON has it. `summary` is one line."""

    title: str
    summary: str
    rows: tuple[tuple[str, str], ...]
    data: Mapping[str, Any]
    is_news: bool = False  # it cost something to find out, so its summary stays in sight

    def __str__(self) -> str:
        width = max((len(name) for name, _ in self.rows), default=0)
        return "\n".join([self.summary, *(f"{name:<{width}}  {text}" for name, text in self.rows)])


def turn_data(turn: Turn) -> dict[str, Any]:
    """An answer as `--json` has it."""
    return {
        "text": turn.text,
        "token_ids": turn.token_ids,
        "finish_reason": turn.finish_reason,
        "adapters": turn.mix,
        "provenance": turn.provenance and turn.provenance.model_dump(mode="json"),
        "metrics": turn.metrics and asdict(turn.metrics),
    }


def details_of(turn: Turn, number: int, place: tuple[int, int]) -> Report:
    """All that is known of a turn; `number` is that on the path, `place` that among its siblings."""
    rows: Rows = []
    if place[1] > 1:
        rows.append(("beside others", f"{place[0]} of {place[1]}"))
    rows += [("mix", turn.mix), ("system prompt", turn.system or "none")] if turn.role == "user" else []
    if turn.role == "assistant":
        rows += [("mix", turn.mix), ("ended by", _ENDS.get(turn.finish_reason or "", "unknown"))]
        rows += [("tokens", str(len(turn.token_ids or ())))]
        rows += _provenance_rows(turn.provenance) if turn.provenance else [("provenance", "none was stored")]
        rows += _metrics_rows(turn.metrics) if turn.metrics else [("metrics", "none: it was cut off")]
    if turn.skipped:
        rows.append(("not read", oldest_exchanges(turn.skipped)))
    data = {"id": turn.id, "number": number, "role": turn.role, "system": turn.system, "created_at": turn.created_at}
    summary = f"turn {number}, {'yours' if turn.role == 'user' else 'an answer'}"
    return Report("Details", summary, tuple(rows), data | turn_data(turn))


_ENDS = {"stop": "itself (stop)", "length": "the token limit (length)", "abort": "its reader or the engine (abort)"}


def _provenance_rows(made: Provenance) -> Rows:
    adapters = [(f"adapter {a.name}", f"weight {a.weight:g}, {_short(a.digest)}") for a in made.adapters]
    sampling = made.sampling
    chosen = {name: value for name, value in asdict(sampling).items() if value != getattr(type(sampling)(), name)}
    template = _short(made.template_digest) + (f", from {made.template_from}" if made.template_from else "")
    return [
        ("model", made.model),
        ("base digest", _short(made.base_digest)),
        ("runs as", f"{made.model_impl}, {made.dtype} on {made.device}, quantization {made.quantization}"),
        ("attention", made.attn_implementation + (f" ({made.attn_reason})" if made.attn_reason else "")),
        *(adapters or [("adapters", "none")]),
        *([("no effect", ", ".join(made.no_effect))] if made.no_effect else []),
        ("kv policy", made.kv_policy),
        ("template", template),
        *([("system prompt from", made.system_from)] if made.system_from else []),
        ("sampling", ", ".join(f"{name} {value}" for name, value in chosen.items()) or "the defaults"),
        ("seed", str(made.seed)),
        *([("continued at", f"token {made.continued_at}")] if made.continued_at else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
    ]


def _metrics_rows(cost: Metrics) -> Rows:
    return [
        ("prompt", f"{cost.prompt_tokens} tokens, {cost.cached_tokens} of them cached"),
        ("generated", f"{cost.generated_tokens} tokens"),
        ("first token", f"after {cost.ttft_s:.2f} s"),
        ("speed", f"{cost.tokens_per_s:.1f} tokens/s"),
    ]


def _short(digest: str) -> str:
    return f"{digest[:_SHORT]}…" if len(digest) > _SHORT else digest
