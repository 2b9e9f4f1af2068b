"""What the members of a mix bring beside weights goes where the merged thing is read: template and tokens as a
tokenizer, the system prompt as an adapter's note."""

import copy
import json
from pathlib import Path
from typing import Any

from mp13.engine.adapters.adapter_text import MixText
from mp13.engine.adapters.folder_stamp import SIDECAR_FILE


def write_tokenizer(folder: Path, text: MixText, base_tokenizer: Any) -> None:
    """Nothing, where the mix speaks as the base does. The token that ends the adapter's answers becomes the
    tokenizer's own."""
    if text.tokenizer is base_tokenizer:
        return
    tokenizer = copy.deepcopy(text.tokenizer)
    for token_id in text.eos_token_ids:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(token_id)
    tokenizer.save_pretrained(folder)


def write_system_prompt(folder: Path, text: MixText) -> None:
    if text.system_prompt is not None:
        content = json.dumps({"system_prompt": text.system_prompt}, ensure_ascii=False)
        (folder / SIDECAR_FILE).write_text(content + "\n", encoding="utf-8")
