"""Makes an answer again from its provenance and finds the first token that differs. Stores nothing.

The same path, mix (by digest), sampling and seed go to the engine that runs now; what differs of it is told.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mp13.chat.conversation.answer import messages_of
from mp13.chat.conversation.report import Report
from mp13.chat.conversation.turn import Turn
from mp13.errors import AdapterError, ConfigError
from mp13.mix import parse_mix
from mp13.service.schema import (
    AdapterInfo,
    FinishEvent,
    GenerateRequest,
    KVPolicy,
    Message,
    Provenance,
    ScoreRequest,
    TokenEvent,
)

if TYPE_CHECKING:
    from mp13.service.client import EngineClient

_COMPARED = (
    "model", "base_digest", "dtype", "device", "quantization", "model_impl", "attn_implementation", "kv_policy",
    "template_digest", "template_from", "system_from",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The first token that is another one, at `position` from 0. Log-probabilities are natural, in the model's own
    distribution there."""

    position: int
    token_id: int
    text: str
    logprob: float
    replayed_id: int
    replayed_text: str
    replayed_logprob: float

    @property
    def gap(self) -> float:
        """How much likelier the token of the stored answer is, in nats."""
        return self.logprob - self.replayed_logprob


@dataclass(frozen=True)
class Change:
    """Something of the setup that is not as it was."""

    what: str
    was: str
    now: str


@dataclass(frozen=True)
class Replay:
    """`replayed` of the answer's `tokens` came again, up to the first `difference` the same."""

    number: int
    tokens: int
    replayed: int
    difference: Difference | None
    changes: tuple[Change, ...]

    @property
    def is_same(self) -> bool:
        return self.difference is None and self.replayed == self.tokens

    @property
    def summary(self) -> str:
        if self.is_same:
            return f"replay of turn {self.number}: same, {self.tokens} tokens"
        if (found := self.difference) is None:
            return f"replay of turn {self.number}: the same as far as it went, {self.replayed} of {self.tokens} tokens"
        where = f"token {found.position + 1} of {self.tokens}"
        return f"replay of turn {self.number}: {where} differs, {found.text!r} then, {found.replayed_text!r} now"

    def report(self) -> Report:
        rows = []
        if (found := self.difference) is not None:
            rows = [
                ("same", f"{found.position} tokens"),
                ("then", f"{found.text!r} (id {found.token_id}), log-probability {found.logprob:.4f}"),
                (
                    "now",
                    f"{found.replayed_text!r} (id {found.replayed_id}), log-probability {found.replayed_logprob:.4f}",
                ),
                ("gap", f"{found.gap:.4g} nats"),
            ]
        rows += [(change.what, f"was {change.was}, is {change.now}") for change in self.changes]
        rows += [] if self.changes else [("setup", "as it was")]
        return Report("Replay", self.summary, tuple(rows), self.as_json(), is_news=True)

    def as_json(self) -> dict[str, Any]:
        found = self.difference
        return {
            "replay_of": self.number,
            "same": self.is_same,
            "tokens": self.tokens,
            "replayed": self.replayed,
            "first_difference": found and asdict(found) | {"gap": found.gap},
            "changes": [asdict(change) for change in self.changes],
        }


def provenance_of(turn: Turn) -> Provenance:
    """Raises ConfigError where `turn` cannot be made again."""
    if turn.role != "assistant" or not turn.token_ids:
        raise ConfigError("only an answer can be replayed; /turns lists the turns with their numbers")
    if turn.provenance is None:
        raise ConfigError("what made this answer was not stored, so it cannot be replayed; /again makes another")
    return turn.provenance


def mix_by_digest(made: Provenance, loaded: Sequence[AdapterInfo]) -> str:
    """The mix that wrote an answer, by the names that its adapters are loaded under; one whose content is gone is
    looked up by its name.

    Raises:
        AdapterError: an adapter is there under neither digest nor name.
    """
    names = {info.name: info.digest for info in loaded}
    members = []
    for used in made.adapters:
        same = [name for name, digest in names.items() if digest == used.digest]
        if not same and used.name not in names:
            raise AdapterError(f"adapter {used.name!r} ({used.digest[:12]}), which wrote this answer, is not there")
        members.append(f"{used.name if used.name in same or not same else same[0]}:{Decimal(repr(used.weight)):f}")
    return str(parse_mix("+".join(members) or "base"))


async def replay_answer(client: "EngineClient", path: list[Turn], turn: Turn, mix: str) -> Replay:
    """Make `turn`, which ends the answer to `path`, again under `mix`."""
    made, ids = provenance_of(turn), turn.token_ids or ()
    messages = messages_of([*path[:-1], replace(path[-1], skipped=turn.skipped)])
    length = max(len(ids), made.sampling.min_tokens)
    sampling = replace(made.sampling, seed=made.seed, max_tokens=length)
    policy: KVPolicy = "keep" if made.kv_policy == "keep" else "exact"
    request = GenerateRequest(messages=messages, adapters=mix, sampling=sampling, kv_policy=policy)
    again: list[int] = []
    now: Provenance | None = None
    async with aclosing(client.generate(request)) as events:
        async for event in events:
            if isinstance(event, TokenEvent):
                again.append(event.token_id)
            elif isinstance(event, FinishEvent):
                again, now = list(event.token_ids), event.provenance
            else:
                now = event.provenance
    again = again[: len(ids)]
    place = next((n for n, (one, other) in enumerate(zip(ids, again, strict=False)) if one != other), None)
    found = None if place is None else await _difference(client, messages, mix, ids, again, place)
    return Replay(len(path) + 1, len(ids), len(again), found, _changes(made, now) if now is not None else ())


async def _difference(
    client: "EngineClient", messages: tuple[Message, ...], mix: str, ids: Sequence[int], again: Sequence[int], at: int
) -> Difference:
    """Both tokens as the mix judges them after what is common to the two answers."""
    judged = []
    for token_id in (ids[at], again[at]):
        answer = (*ids[:at], token_id)
        report = await client.score(ScoreRequest(prompt=messages, answer=answer, mixes=(mix,)))
        judged.append((token_id, report.texts[-1], report.scores[0][-1].logprob))
    return Difference(at, *judged[0], *judged[1])


def _changes(then: Provenance, now: Provenance) -> tuple[Change, ...]:
    found = [
        Change(name.replace("_", " "), str(was), str(is_now))
        for name in _COMPARED
        if (was := getattr(then, name)) != (is_now := getattr(now, name))
    ]
    new = {(a.digest, a.weight): a for a in now.adapters}
    by_name = {a.name: a for a in now.adapters}
    for used in then.adapters:
        if (used.digest, used.weight) not in new and used.name in by_name:
            found.append(Change(f"adapter {used.name}", used.digest[:12], by_name[used.name].digest[:12]))
    for name in then.versions.keys() | now.versions.keys():
        was, is_now = then.versions.get(name, "unknown"), now.versions.get(name, "unknown")
        if was != is_now:
            found.append(Change(f"version of {name}", was, is_now))
    return tuple(found)
