"""Measures the starter's adapters and writes the numbers into docs/starter.md: `python training/starter/evaluate.py`.
With `--prompts tuning` it prints those that recipes are chosen by.

100 held-out prompts for each adapter, answered greedily; controls that must fail; the perplexity of plain English.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from chat import answers, load_starter
from measure import bullets_passes, json_passes, pirate_passes
from peft import PeftModel
from questions import DATA
from ship import SHIPPED
from torch.nn.functional import cross_entropy

DOCUMENT = Path(__file__).parents[2] / "docs" / "starter.md"
BEGIN, END = "<!-- numbers: begin -->\n", "<!-- numbers: end -->\n"
VOICES = ("base", "pirate", "json", "bullets", "json:0.5+pirate:0.5")
QUESTIONS = {"pirate": pirate_passes, "bullets": bullets_passes}  # adapters that answer the same questions
SHOWN = (
    "What should I cook tonight?",
    "Tell me about the moon.",
    "Give me name and city as JSON: Greta has moved to Prague.",
)
WINDOW = 512  # tokens


def read_rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def load_voices(adapters: Path):
    """The starter with its adapters, and the half and half mix of two, each under its name."""
    base, tokenizer = load_starter()
    model = PeftModel.from_pretrained(base, adapters / "pirate", adapter_name="pirate")
    for name in ("json", "bullets"):
        model.load_adapter(adapters / name, adapter_name=name)
    model.add_weighted_adapter(["pirate", "json"], [0.5, 0.5], "mixed", combination_type="cat")
    return model.eval(), tokenizer


class Voice:
    """`with Voice(model, mix):` lets the model speak under that mix."""

    def __init__(self, model: PeftModel, mix: str) -> None:
        self.model, self.mix = model, mix

    def __enter__(self) -> None:
        if self.mix == "base":
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter("mixed" if "+" in self.mix else self.mix)

    def __exit__(self, *_: object) -> None:
        self.model.base_model.enable_adapter_layers()


@torch.inference_mode()
def perplexity(model, tokenizer, text: str) -> float:
    """exp of the mean negative log likelihood of each token, in windows of 512 that do not overlap."""
    ids = torch.tensor(tokenizer(text).input_ids, device=model.device)
    total, count = 0.0, 0
    for window in ids.split(WINDOW):
        logits = model(input_ids=window[None]).logits[0, :-1]  # (window - 1, vocabulary)
        total += cross_entropy(logits.float(), window[1:], reduction="sum").item()
        count += len(window) - 1
    return math.exp(total / count)


def ask(model, tokenizer, prompts: Sequence[str], max_tokens: int = 80) -> list[str]:
    return answers(model, tokenizer, [[{"role": "user", "content": prompt}] for prompt in prompts], max_tokens)


def evaluate(adapters: Path, part: str) -> tuple[str, dict[str, dict[str, list]]]:
    """The markdown of all numbers, and every answer behind it."""
    model, tokenizer = load_voices(adapters)
    prompts = [row["prompt"] for row in read_rows(f"pirate_{part}.jsonl")]
    tasks = read_rows(f"json_{part}.jsonl")
    plain_text = (DATA / "plain.txt").read_text(encoding="utf-8")
    said: dict[str, dict[str, list]] = {}
    perplexities = {}
    for mix in VOICES:
        with Voice(model, mix):
            said[mix] = {"shown": ask(model, tokenizer, SHOWN)}
            if mix in ("base", *QUESTIONS):
                said[mix]["questions"] = ask(model, tokenizer, prompts)
            if mix in ("base", "json"):
                said[mix]["json"] = ask(model, tokenizer, [task["prompt"] for task in tasks])
            perplexities[mix] = perplexity(model, tokenizer, plain_text)
    kind = part.replace("_", "-")
    lines = [
        f"| 100 {kind} prompts | base | with the adapter | its answers shuffled | one answer for all |",
        "|---|---|---|---|---|",
    ]
    plain = said["base"]["questions"]
    for name, passes in QUESTIONS.items():
        lines.append(row(name, "questions", lambda texts, passes=passes: passes(prompts, texts, plain), said))
    lines.append(
        row("json", "json", lambda texts: [json_passes(t["facts"], a) for t, a in zip(tasks, texts, strict=True)], said)
    )
    lines += ["", "| perplexity of plain English | | growth |", "|---|---|---|"]
    for mix, value in perplexities.items():
        lines.append(f"| {mix} | {value:.2f} | {100 * (value / perplexities['base'] - 1):+.1f}% |")
    for i, prompt in enumerate(SHOWN):
        lines += ["", f"**{prompt}**", ""]
        lines += [f"- {mix}:{shown(said[mix]['shown'][i])}" for mix in VOICES]
    return "\n".join(lines) + "\n", said


def shown(answer: str) -> str:
    """In one line of Markdown; a list becomes one below it."""
    if answer.startswith("- "):
        return "".join(f"\n  {line}" for line in answer.splitlines())
    return " " + answer.replace("\n", " ")


def row(name: str, asked: str, passes, said) -> str:
    """Pass rates of base, adapter, and two controls: each answer moved one prompt on, and the best answer repeated."""
    with_adapter = said[name][asked]
    passed = passes(with_adapter)
    constant = with_adapter[passed.index(True)] if any(passed) else with_adapter[0]
    shuffled = with_adapter[1:] + with_adapter[:1]
    rates = [said["base"][asked], with_adapter, shuffled, [constant] * len(with_adapter)]
    return f"| {name} | " + " | ".join(f"{100 * sum(passes(r)) / len(r):.0f}%" for r in rates) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=Path, default=SHIPPED, help="folder with pirate/, json/ and bullets/")
    parser.add_argument("--prompts", choices=("held_out", "tuning"), default="held_out")
    parser.add_argument("--answers", type=Path, help="also write every answer to this JSON file")
    arguments = parser.parse_args()
    numbers, said = evaluate(arguments.adapters, arguments.prompts)
    print(numbers)
    if arguments.answers:
        arguments.answers.write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
    if arguments.adapters == SHIPPED and arguments.prompts == "held_out":
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + numbers + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
