"""The errors a caller of mp13 can meet. Each carries one sentence: what was wrong, with which value, what to do.

On the wire an error travels as its class name and that sentence; `error_from_wire` turns it back.
"""


class Mp13Error(Exception):
    """Root of every error that mp13 raises on purpose."""


class ConfigError(Mp13Error):
    """A setting, option or sampling parameter has a value that cannot be used."""


class ModelError(Mp13Error):
    """A model cannot be found, read or run."""


class OutOfMemory(ModelError):
    """Memory ran out, in the middle of a load or of one request. An engine that was up lives on."""


class AdapterError(Mp13Error):
    """An adapter cannot be found, read or put on this model. The adapters already loaded are untouched."""


class MixError(Mp13Error):
    """A mix is malformed or names an adapter that is not loaded."""


class UnsupportedError(Mp13Error):
    """The request asks for something this version does not do."""


class ContextError(Mp13Error):
    """A prompt does not fit the context window or the KV cache."""


class TrainingError(Mp13Error):
    """A training run cannot go on. What it saved before is whole."""


class DivergedError(TrainingError):
    """A run's numbers are no longer finite: going on from its last checkpoint would come to the same."""


_BY_NAME: dict[str, type[Mp13Error]] = {
    cls.__name__: cls
    for cls in (
        Mp13Error,
        ConfigError,
        ModelError,
        OutOfMemory,
        AdapterError,
        MixError,
        UnsupportedError,
        ContextError,
        TrainingError,
        DivergedError,
    )
}


def error_from_wire(code: str, message: str) -> Mp13Error:
    """The error that `code` (a class name) and `message` stood for on the other side of the socket."""
    return _BY_NAME.get(code, Mp13Error)(message)
