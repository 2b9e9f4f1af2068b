"""Greedy answers of the starter, in padded batches. Shared by make_data.py and evaluate.py."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mp13.library.starter import install_starter

Message = dict[str, str]


def load_starter() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The starter in float32, installed first where it is missing."""
    folder = install_starter()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device), tokenizer


@torch.inference_mode()
def answers(model, tokenizer, conversations: list[list[Message]], max_tokens: int, batch_size: int = 20) -> list[str]:
    """The greedy answer to each conversation, cut after `max_tokens` tokens. Rows of like length go together."""
    prompts = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for messages in conversations
    ]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True).to(model.device)
        out = model.generate(**batch, max_new_tokens=max_tokens, do_sample=False)
        for i, ids in zip(rows, out[:, batch["input_ids"].shape[1] :], strict=True):
            texts[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return texts
