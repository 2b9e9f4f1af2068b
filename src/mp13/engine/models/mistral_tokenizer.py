"""Mistral AI's own tokenizer (mistral-common) with the part of Transformers' interface that the engine uses.

What a person writes never becomes a special token with it. How answers go back into a conversation as the ids they were
made of is text/mistral_chat.py's.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AddedToken

from mp13.errors import ConfigError, ModelError

_FILE = re.compile(r"tekken\.json|tokenizer\.model\.v\d+(?:m\d+)?")
_MODEL_TYPES = ("mistral3", "ministral3")


def mistral_tokenizer_file(folder: Path, model_type: str) -> Path | None:
    """The file of mistral-common's that speaks for the model in `folder`; None where Transformers' tokenizer does."""
    files = sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))
    has_other = (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file()
    if not files or (has_other and model_type not in _MODEL_TYPES):
        return None
    return next((path for path in files if path.name == "tekken.json"), files[-1])


class MistralTokenizer:
    """Raises ModelError where mistral-common is not installed or cannot read the file."""

    def __init__(self, path: Path) -> None:
        try:
            import mistral_common
            from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
            from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as Theirs
        except ImportError as error:
            raise ModelError(
                f"the tokenizer {path} needs mistral-common, which cannot be imported here ({error}); "
                'pip install "mp13[mistral3]"'
            ) from None
        try:
            self._theirs = Theirs.from_file(str(path))
        except Exception as error:  # mistral-common raises many types, ImportError for SentencePiece among them
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            raise ModelError(f"the tokenizer {path} cannot be read: {reason}") from None
        self._path, self._version = path, mistral_common.__version__
        self._policies = {True: SpecialTokenPolicy.IGNORE, False: SpecialTokenPolicy.KEEP}
        self._tokens = self._theirs.instruct_tokenizer.tokenizer
        self.eos_token_id: int = self._tokens.eos_id
        self.end_of_question_id: int = self._tokens.get_special_token("[/INST]")
        template = path.with_name("chat_template.jinja")  # never used; adapters that repeat it bring nothing new
        self.chat_template = template.read_text(encoding="utf-8") if template.is_file() else None

    @cached_property
    def template_digest(self) -> str:
        """SHA-256 of what makes a conversation's tokens: the tokenizer's file, and the version of mistral-common."""
        return hashlib.sha256(self._path.read_bytes() + self._version.encode()).hexdigest()

    @cached_property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        ids = [i for i in range(len(self)) if self._tokens.is_special(i)]
        return {i: AddedToken(self._tokens.id_to_piece(i), normalized=False, special=True) for i in ids}

    def __len__(self) -> int:
        return int(self._tokens.n_words)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._tokens.encode(text, bos=add_special_tokens, eos=False)}

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        return str(self._tokens.decode(list(ids), special_token_policy=self._policies[skip_special_tokens]))

    def encode_chat(self, rows: list[dict[str, Any]]) -> list[int]:
        """The prompt for the answer to messages, each with `role` and `content`.

        Raises:
            ConfigError: mistral-common refuses them.
        """
        from mistral_common.protocol.instruct.request import ChatCompletionRequest

        try:
            request = ChatCompletionRequest.from_openai(messages=rows)
            tokens: list[int] = self._theirs.encode_chat_completion(request).tokens
        except Exception as error:  # pydantic's and mistral-common's own
            raise ConfigError(f"mistral-common refuses this conversation: {error}") from None
        return tokens
