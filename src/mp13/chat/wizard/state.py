"""What the wizard's steps share: the draft, what is known of the machine, and whom to ask for more. Knows no screen."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mp13.chat.conversation.connection import Connect, launch
from mp13.chat.settings.schema import Settings
from mp13.chat.wizard.draft import Draft
from mp13.library.fit import SavedModel
from mp13.library.machine import Computer, Survey, computer, survey
from mp13.library.measures import measure_model
from mp13.library.models import ModelOnDisk, list_models
from mp13.library.starter import starter_ready


@dataclass(frozen=True)
class World:
    """What the wizard asks outside itself; tests have a world of their own."""

    computer: Callable[[], Computer] = computer
    survey: Callable[[int], Awaitable[Survey]] = survey
    models: Callable[[], list[ModelOnDisk]] = list_models
    starter_ready: Callable[[], bool] = starter_ready
    measure: Callable[[str], SavedModel] = measure_model
    connect: Connect = launch


@dataclass
class State:
    """`survey` is None until torch has answered. `measured` are the sizes of models by what the engine calls them.
    `answered` are the settings under which the engine has answered the test prompt."""

    world: World = field(default_factory=World)
    draft: Draft = field(default_factory=Draft)
    survey: Survey | None = None
    measured: dict[str, SavedModel] = field(default_factory=dict)
    answered: Settings | None = None
