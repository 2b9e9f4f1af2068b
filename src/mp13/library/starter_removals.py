"""Which of the starter's adapters the user took out of the library, so that the next start does not bring them back."""

from importlib import resources

from mp13.library.paths import adapters_dir

_LIST = ".left-out"  # in the adapters' folder, a name a line


def note_removal(name: str) -> None:
    """Remember that `name` is not wanted, if it came with the starter."""
    names = left_out()
    if (resources.files("mp13.library") / "starter_adapters" / name).is_dir() and name not in names:
        (adapters_dir() / _LIST).write_text("\n".join([*sorted(names), name]) + "\n", encoding="utf-8")


def left_out() -> set[str]:
    try:
        return set((adapters_dir() / _LIST).read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return set()
