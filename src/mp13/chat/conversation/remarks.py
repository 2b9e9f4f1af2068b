"""What a reader should know of a loaded adapter: what its load warned of, that it does nothing, that it is outdated."""

from collections.abc import Collection
from dataclasses import dataclass

from mp13.service.schema import NO_EFFECT, AdapterInfo


@dataclass(frozen=True)
class Remark:
    """`label` is the remark in two words, "" where there is no room for it beside a name."""

    name: str
    sentence: str
    label: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


def remarks_on(info: AdapterInfo, changed: Collection[str]) -> list[Remark]:
    """`changed` are the names whose folders are not as they were when they were loaded."""
    remarks = [Remark(info.name, warning) for warning in info.warnings]
    if info.effect is not None and info.effect < NO_EFFECT:
        sentence = "it changed nothing measurable on a probe prompt; expect the answers of the mix without it"
        remarks.append(Remark(info.name, sentence, "no effect"))
    if info.name in changed:
        sentence = "its folder changed since it was loaded; /reload picks it up"
        remarks.append(Remark(info.name, sentence, "changed on disk"))
    return remarks


def keeping_text(problem: str | None) -> str:
    """What there is to say when storing begins to fail, or works again."""
    if problem is None:
        return "what was not saved is saved now"
    return f"this chat goes on, but is not saved: {problem}"
