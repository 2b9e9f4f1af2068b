"""Trains the starter's adapters with PEFT: `python training/starter/train.py [--only NAME]`.

Reads data/NAME_train.jsonl and writes adapter_config.json and adapter_model.safetensors (bfloat16) under --out.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from chat import load_starter
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from questions import DATA
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

SHIPPED = Path(__file__).parents[2] / "src" / "mp13" / "library" / "starter_adapters"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH_SIZE = 4


@dataclass(frozen=True)
class Recipe:
    """A single pass over the rows: a second one starts to learn them by heart, and plain English pays for it."""

    learning_rate: float
    rank: int = 8


RECIPES = {"pirate": Recipe(learning_rate=1.7e-3), "json": Recipe(learning_rate=2e-3)}


@dataclass(frozen=True)
class Example:
    """A conversation (or plain text) as token ids; the last `num_answer`, the answer and its end mark, are learned."""

    ids: list[int]
    num_answer: int


def read_examples(name: str, tokenizer) -> list[Example]:
    examples = []
    for line in (DATA / f"{name}_train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "text" in row:
            ids = tokenizer(row["text"]).input_ids
            examples.append(Example(ids, len(ids) - 1))
            continue
        messages = row["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        answer = [*tokenizer(messages[-1]["content"]).input_ids, tokenizer.eos_token_id]
        examples.append(Example(tokenizer(prompt).input_ids + answer, len(answer)))
    return examples


def batches(examples: list[Example], draw: random.Random) -> list[list[Example]]:
    """Examples of like length together, so that little is padded; the batches in random order."""
    draw.shuffle(examples)
    ordered = sorted(examples, key=lambda example: len(example.ids))
    made = [ordered[i : i + BATCH_SIZE] for i in range(0, len(ordered), BATCH_SIZE)]
    draw.shuffle(made)
    return made


def answer_loss(model, batch: list[Example]) -> torch.Tensor:
    """Mean cross entropy over the answers' tokens; only their rows go through the large output layer."""
    width = max(len(example.ids) for example in batch)
    padded = [example.ids + [0] * (width - len(example.ids)) for example in batch]
    ids = torch.tensor(padded, device=model.device)  # (B, width)
    decoder = model.get_base_model()
    hidden = decoder.model(input_ids=ids).last_hidden_state  # (B, width, hidden); causal: padding at the end is unseen
    rows = [(b, t) for b, e in enumerate(batch) for t in range(len(e.ids) - e.num_answer, len(e.ids))]
    row, position = torch.tensor(rows, device=ids.device).unbind(1)
    return cross_entropy(decoder.lm_head(hidden[row, position - 1]), ids[row, position])


def train(name: str, recipe: Recipe, out: Path) -> None:
    torch.manual_seed(0)
    draw = random.Random(0)
    base, tokenizer = load_starter()
    examples = read_examples(name, tokenizer)
    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    steps = -(-len(examples) // BATCH_SIZE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    started = time.monotonic()
    for step, batch in enumerate(batches(examples, draw), start=1):
        loss = answer_loss(model, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"{name} {step}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)
    save(model, config, out / name)


def save(model, config: LoraConfig, folder: Path) -> None:
    """A PEFT folder that any PEFT can read: the fields that matter, no path of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: value.to("cpu", torch.bfloat16).contiguous() for key, value in get_peft_model_state_dict(model).items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    fields = {
        "base_model_name_or_path": "smollm2-135m-instruct",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": LINEARS,
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=RECIPES, help="train one adapter instead of both")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else RECIPES:
        train(name, RECIPES[name], arguments.out)


if __name__ == "__main__":
    main()
