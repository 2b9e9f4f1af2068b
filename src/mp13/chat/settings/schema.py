"""Every setting, declared once: it becomes a flag, a variable, a line of a file, a wizard step and a row of the docs.

What a value may be is checked where it is used: by `EngineConfig` and `SamplingParams`, which these fields mirror,
and by the grammar of mixes. Where values come from is settings/load.py.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, JsonValue, PrivateAttr
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from mp13.chat.settings.keys import checked_keys
from mp13.chat.settings.model import resolve_model
from mp13.chat.settings.themes import DARK, THEMES
from mp13.engine.config import ATTENTION_NAMES, QUANTIZATION_NAMES
from mp13.errors import ConfigError
from mp13.library.paths import adapters_dir, given_path
from mp13.mix import parse_mix
from mp13.service.schema import EngineConfig, SamplingParams

# Consent, folders, URLs, secrets, tools and editors: a project's ./mp13.toml may not set these.
PERSONAL: dict[str, JsonValue] = {"personal": True}


def _none_word(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "") else value


def _listed(value: Any) -> Any:
    """A list from text: JSON when it looks like it, else the one string itself."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in ("none", ""):
        return ()
    if not value.lstrip().startswith("["):
        return (value,)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _table_text(value: Any) -> Any:
    """A file's table as JSON, which is how a flag or a variable has it."""
    return json.dumps(value) if isinstance(value, dict) else value


def _key_table(value: Any) -> Any:
    """A table of keys from JSON, or from TOML in which `adapters.pick` without quotes has become two tables."""
    if isinstance(value, str):
        if value.strip().lower() in ("none", ""):
            return {}
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return dict(_flat(value)) if isinstance(value, Mapping) else value


def _flat(table: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        else:
            yield f"{head}{key}", value


def _named(names: Sequence[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} or {last}"


_Listed = [NoDecode, BeforeValidator(_listed)]
OptionalInt = Annotated[int | None, BeforeValidator(_none_word)]
OptionalText = Annotated[str | None, BeforeValidator(_none_word)]


class ChatSettings(BaseModel):
    """What a conversation starts with."""

    model: str = Field("starter", description="The model: `starter`, a folder, a GGUF file, or a Hugging Face Hub id.")
    adapter: str = Field("base", description="The mix that answers at first: `base`, `NAME`, `A:0.7+B:-0.3`.")
    system: OptionalText = Field(None, description="The system prompt; `none` leaves it out.")
    adapters_folder: Annotated[Path | None, BeforeValidator(_none_word)] = Field(
        None, description="A folder of adapters, looked in before `<data>/adapters`.", json_schema_extra=PERSONAL
    )
    kv_policy: Literal["exact", "keep"] = Field(
        "exact",
        description="What a switch does with the cache: `exact` recomputes the history under the new mix, `keep` "
        "reuses what any mix computed: faster, and not quite the answer of that mix.",
    )
    log: bool = Field(True, description="Keep conversations in `<data>/conversations.db`.")


class SamplingSettings(BaseModel):
    """How answers are sampled: the fields of `SamplingParams`."""

    temperature: float = Field(0.7, description="0 is greedy; higher is more varied.")
    top_p: float = Field(0.9, description="Keep the likeliest tokens up to this share of probability.")
    top_k: int = Field(0, description="Keep this many of the likeliest tokens; 0 keeps all.")
    min_p: float = Field(0.0, description="Drop tokens below this share of the likeliest one's probability.")
    repetition_penalty: float = Field(
        1.0, description="Above 1, tokens of prompt and answer become less likely again; 1 is off."
    )
    presence_penalty: float = Field(
        0.0, description="Taken from the score of each token that the answer has already; 0 is off."
    )
    frequency_penalty: float = Field(
        0.0, description="Taken from a token's score for each time the answer has it already; 0 is off."
    )
    max_tokens: int = Field(512, description="The longest answer, in tokens.")
    min_tokens: int = Field(0, description="The shortest answer, in tokens.")
    stop: Annotated[tuple[str, ...], *_Listed] = Field((), description="Strings that end an answer; one, or a list.")
    stop_token_ids: Annotated[tuple[int, ...], *_Listed] = Field((), description="Token ids that end an answer.")
    ignore_eos: bool = Field(False, description="Go on past the model's own end until `max_tokens`.")
    seed: OptionalInt = Field(None, description="The same seed gives the same answer; `none` draws one for each.")


class EngineSettings(BaseModel):
    """How the engine runs: the fields of `EngineConfig`. A change starts an engine of its own.

    But for its seed and kv_policy, which are for requests without one; a chat sends none.
    """

    dtype: str = Field("auto", description="`auto`, `float32`, `bfloat16` or `float16`.")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    model_impl: str = Field("auto", description="`auto`, `native` (mp13's decoder) or `transformers`.")
    attn_implementation: str = Field(
        "auto",
        description=f"The attention backend: {_named(ATTENTION_NAMES)}. `auto` takes the fastest at decoding "
        "that runs; `mp13config doctor` says which do, and which it is.",
    )
    quantization: Annotated[str, NoDecode, BeforeValidator(_table_text)] = Field(
        "none",
        description=f"How weights are kept: {_named(QUANTIZATION_NAMES)}, or a table such as "
        "`{bits = 4, group_size = 64, axis = 1, head = 4, embeddings = 8}`; see quantization.md.",
    )
    max_model_len: OptionalInt = Field(None, description="The context window in tokens; `none` is the model's own.")
    block_size: int = Field(16, description="Tokens in one block of the KV cache.")
    kv_cache_memory: Annotated[int | str | None, BeforeValidator(_none_word)] = Field(
        None, description="Size of the KV cache: bytes, or text such as `2GiB`; `none` lets the engine choose."
    )
    gpu_memory_utilization: float = Field(
        0.9,
        description="The share of GPU memory for weights, adapters, the work of a step, and, with the rest, the cache.",
    )
    max_num_seqs: int = Field(16, description="Answers computed together.")
    max_num_batched_tokens: int = Field(2048, description="Tokens in one step of the engine.")
    enable_prefix_caching: bool = Field(True, description="Reuse the KV cache of a history that was seen before.")
    enforce_eager: bool = Field(False, description="Never use CUDA graphs or compilation.")
    max_loras: int = Field(8, description="Adapters held beside the model, ready for any batch.")
    max_lora_rank: int = Field(64, description="The largest rank of an adapter.")
    max_cpu_loras: int = Field(64, description="Adapters held in host memory.")
    tensor_parallel_size: int = Field(1, description="GPUs that share one model; only 1 in this version.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with a model.", json_schema_extra=PERSONAL
    )


class InterfaceSettings(BaseModel):
    """What the chat looks like, and which keys it obeys."""

    theme: str = Field(DARK, description="The colours; Ctrl+T tries them out: " + _named(THEMES) + ".")
    plain: bool = Field(
        False, description="Chat in plain lines without a screen, for screen readers; `--plain` on the command line."
    )
    keys: Annotated[dict[str, str], NoDecode, BeforeValidator(_key_table)] = Field(
        {},
        description='Other keys for what the chat does: in a file a table `[keys]` with lines such as `"adapters.pick" '
        '= "f5"`, elsewhere JSON. Several keys have commas between. The actions are below.',
        json_schema_extra=PERSONAL,
    )


GROUPS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Chat", ChatSettings),
    ("Sampling", SamplingSettings),
    ("Engine", EngineSettings),
    ("Interface", InterfaceSettings),
)


class Settings(InterfaceSettings, EngineSettings, SamplingSettings, ChatSettings, BaseSettings):
    """All settings of one chat, checked. Make one with `settings.load.load_settings`; it is never changed in place."""

    model_config = SettingsConfigDict(env_prefix="MP13_", extra="forbid", frozen=True, protected_namespaces=())
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands in: it has read the other sources itself, and knows which value is whose."""
        return (init_settings,)

    def source(self, key: str) -> str:
        """Where the value of `key` comes from: a flag, a variable, a file's path, or "default"."""
        return self._sources.get(key, "default")

    def sampling(self) -> SamplingParams:
        """Raises ConfigError or UnsupportedError, as SamplingParams does."""
        return SamplingParams(**{name: getattr(self, name) for name in SamplingSettings.model_fields})

    def engine_config(self) -> EngineConfig:
        """The engine's settings, with `model` resolved to a folder, a file or a Hub id.

        Raises:
            ConfigError, UnsupportedError: as EngineConfig does.
            ModelError: there is no such model.
        """
        return self._engine_config(resolve_model(self.model))

    @property
    def engine_values(self) -> dict[str, Any]:
        """The model and the engine's settings."""
        return {key: getattr(self, key) for key in ("model", *EngineSettings.model_fields)}

    def with_engine_of(self, other: Self) -> Self:
        """This, with the `engine_values` of `other`."""
        changed = self.model_copy(update=other.engine_values)
        changed._sources = {**self._sources, **{key: other.source(key) for key in other.engine_values}}
        return changed

    def check(self) -> Self:
        """This, when every value can be used; raises the Mp13Error of the first that cannot. Looks for no model."""
        self.sampling()
        self._engine_config(self.model)
        parse_mix(self.adapter)
        if self.theme not in THEMES:
            near = difflib.get_close_matches(self.theme, THEMES, n=1)
            raise ConfigError(
                f"theme = {self.theme!r} cannot be used; "
                + (f"did you mean {near[0]!r}?" if near else f"there: {', '.join(THEMES)}")
            )
        checked_keys(self.keys)
        return self

    def _engine_config(self, model: str) -> EngineConfig:
        return EngineConfig(model=model, **{name: getattr(self, name) for name in EngineSettings.model_fields})

    @property
    def adapter_folders(self) -> tuple[Path, ...]:
        """Where adapters are looked for, in this order."""
        own = () if self.adapters_folder is None else (given_path(self.adapters_folder),)
        return (*own, adapters_dir())
