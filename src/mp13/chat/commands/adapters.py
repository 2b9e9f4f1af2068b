"""The commands about who answers: choosing, comparing, keeping, taking apart, pinning, loading again."""

from typing import TYPE_CHECKING

from mp13.chat.commands.command import Command
from mp13.chat.commands.comparing import comparison_of
from mp13.chat.conversation.turn import CommandResult
from mp13.errors import ConfigError

if TYPE_CHECKING:
    from mp13.chat.conversation.session import ChatSession


async def _adapter(session: "ChatSession", argument: str) -> CommandResult:
    if argument:
        chosen = f"{await session.set_mix(argument)} answers from here on"
        return CommandResult("\n".join([chosen, *map(str, session.remarks)]), mix_changed=True)
    lines = [f"{session.mix} answers now", "base"]
    for adapter in session.available_adapters():
        size = f"{adapter.size_bytes / 1e6:.1f} MB"
        state = f"cannot be used: {adapter.unfit}" if adapter.unfit else f"{adapter.kind}, rank {adapter.rank}, {size}"
        lines.append(f"{adapter.name}  {state}")
    return CommandResult("\n".join(lines))


async def _adapters(session: "ChatSession", argument: str) -> CommandResult:
    from mp13.chat.commands.library import adapters_command

    return await adapters_command(session, argument)


async def _compare(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", ask=comparison_of(argument, _mix_names(session)))


async def _keep(session: "ChatSession", argument: str) -> CommandResult:
    if argument:
        kept = session.tree.keep(argument)
        session.moved()
        return CommandResult(f"the conversation goes on with the answer of {kept.mix}", turns_changed=True)
    listed = [
        f"{number}  {turn.mix}{'  (kept)' if turn == session.turns[-1] else ''}  {' '.join(turn.text.split())[:60]}"
        for number, turn in enumerate(session.answers, start=1)
    ]
    return CommandResult("\n".join(listed) or "there is no answer yet")


async def _diff(session: "ChatSession", argument: str) -> CommandResult:
    return CommandResult("", diff=await session.diff(argument or None))


async def _pin(session: "ChatSession", argument: str) -> CommandResult:
    if not argument:
        pin = session.tree.pin
        return CommandResult(f"{pin} is pinned to this branch" if pin else "nothing is pinned; /pin MIX pins one")
    mix, _, which = argument.partition(" ")
    turn, since = (session.tree.turn(which.strip()), f"turn {which.strip()}") if which else (None, "here")
    if turn is not None and turn not in session.turns:
        raise ConfigError(f"turn {which.strip()} is on another branch; /go {which.strip()} goes there")
    if mix == "-":
        session.tree.set_pin(None, turn)
        return CommandResult(f"nothing is pinned from {since} on; /adapter chooses who answers", mix_changed=True)
    mix = await session.set_mix(mix, despite_pin=True)
    session.tree.set_pin(mix, turn)
    said = f"{mix} answers in this branch from {since} on, whatever is chosen elsewhere"
    return CommandResult(said, mix_changed=True)


async def _reload(session: "ChatSession", argument: str) -> CommandResult:
    names = await session.reload(argument or None)
    loaded = {info.name: info.digest[:12] for info in session.adapters}
    lines = [f"{name} is loaded as it is on disk now ({loaded[name]})" for name in names]
    return CommandResult("\n".join(lines) or "no adapter has changed since it was loaded", mix_changed=bool(names))


def _mix_names(session: "ChatSession") -> list[str]:
    known = ["base", *(adapter.name for adapter in session.available_adapters() if adapter.unfit is None)]
    run = session.training.state
    return [*known, f"{run.name}@latest", *run.versions] if run is not None and run.versions else known


def _verbs(session: "ChatSession") -> list[str]:
    return ["list", "show", "add", "remove", "rename", "tag", "check", "merge", "export"]


def _loaded_names(session: "ChatSession") -> list[str]:
    return [info.name for info in session.adapters]


def _answers(session: "ChatSession") -> list[str]:
    return [turn.mix for turn in session.answers]


ADAPTER_COMMANDS = (
    Command("/adapter", "[MIX]", "Choose who answers, as a:0.7+b; alone, list.", _adapter, _mix_names, of_mixes=True),
    Command("/adapters", "[VERB …]", "The library: list, show, add, check, merge, …", _adapters, _verbs),
    Command(
        "/compare", "MIX MIX… [TEXT]", "Several mixes answer; the first is kept.", _compare, _mix_names, of_mixes=True
    ),
    Command("/keep", "[N|MIX]", "Go on with another answer; alone, list them.", _keep, _answers),
    Command("/diff", "[MIX]", "What the answer owes to its mix.", _diff, _mix_names, of_mixes=True),
    Command(
        "/pin",
        "[MIX|-] [N]",
        "One mix answers in this branch, or from turn N on; '-' frees it.",
        _pin,
        _mix_names,
        of_mixes=True,
    ),
    Command("/reload", "[NAME]", "Load adapters again that changed on disk.", _reload, _loaded_names),
)
