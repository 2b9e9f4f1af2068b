"""Tiny random models and adapters in temporary folders, and the oracle that the engine's answers are held against.

The oracle is eager Transformers in float32, its weights W replaced by W + sum of weight * PEFT's own delta.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

Adapters = Sequence[tuple[Path, float]]  # (PEFT folder, weight)
transformers.utils.logging.disable_progress_bar()
LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HAS_ALORA = "alora_invocation_tokens" in {field.name for field in fields(peft.LoraConfig)}
LOGIT_GAP = 1e-4  # how far apart the reference's own logits may be where two greedy answers part
END_OF_TEXT, IM_START, IM_END = 0, 1, 2
VOCAB_SIZE = 320

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": END_OF_TEXT, "eos_token_id": IM_END, "pad_token_id": END_OF_TEXT, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_ALTERNATING = ["sliding_attention", "full_attention"]

# Family -> (model type, what it sets beside _SHAPE). Windows are small, so that short prompts leave them behind.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama3-rope": ("llama", {"rope_scaling": _LLAMA3_ROPE, "rope_theta": 10000.0}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm": ("llama", {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1,
                         "num_hidden_layers": 4, "tie_word_embeddings": True, "rope_theta": 100000.0}),
    "mistral": ("mistral", {"sliding_window": 12, "head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {"sliding_window": 12, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 24,
                          "layer_types": _ALTERNATING, "tie_word_embeddings": True,
                          "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 24,
                               "layer_types": _ALTERNATING, "tie_word_embeddings": True}),
    "phi3": ("phi3", {"sliding_window": 12}),
    "granite": ("granite", {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.7,
                            "logits_scaling": 2.0}),
    "olmo2": ("olmo2", {}),
    "gpt2": ("gpt2", {}),
    "gpt-neox": ("gpt_neox", {"rotary_pct": 0.25}),
    "qwen2-moe": ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                                "shared_expert_intermediate_size": 32, "sliding_window": 12,
                                "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3-moe": ("qwen3_moe", {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2,
                                "moe_intermediate_size": 32}),
}  # fmt: skip
NATIVE = ("llama", "llama-tied", "llama3-rope", "llama-bias", "smollm", "mistral", "qwen2", "qwen2-window", "qwen3")
BRIDGED = ("gemma2", "gemma3", "phi3", "granite", "olmo2", "gpt2", "gpt-neox", "qwen3-moe")


def tiny_model(folder: Path, family: str = "llama", *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random model of `family` (a key of FAMILIES, else a Transformers model type) with tokenizer and template.

    `overrides` are fields of its Hugging Face configuration. Returns `folder`.
    """
    model_type, fields = FAMILIES.get(family, (family, {}))
    config = AutoConfig.for_model(model_type, **{**_SHAPE, **fields, **overrides})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomize(model, seed)
    model.save_pretrained(folder, safe_serialization=True)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def randomize(model: PreTrainedModel, seed: int) -> None:
    """Weights large enough that every layer, bias and norm moves the logits; Transformers' own leave them flat."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = model.get_input_embeddings().weight
    embedding_size = 0.05 if model.config.model_type.startswith("gemma") else 0.3  # Gemma scales its embeddings up
    tied = model.get_output_embeddings().weight is embeddings
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter is embeddings:
                parameter.copy_(embedding_size * noise)
            elif tied and name == "model.norm.weight":
                parameter.copy_(2 * noise)  # or the likeliest token would always be the one just read
            elif parameter.ndim >= 2:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[-1]))
            else:
                parameter.add_(0.2 * noise)  # biases from 0, norms from 1 (or Gemma's 0)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, so that a text has several spellings; ChatML's markers are special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2
    text = "the quick brown fox jumps over the lazy dog and then the other dogs there hello world user assistant system"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML,
        clean_up_tokenization_spaces=False, additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip


def tiny_adapter(
    folder: Path,
    model_path: Path,
    *,
    rank: int = 4,
    targets: Sequence[str] | str = ("q_proj", "v_proj"),
    seed: int = 1,
    rslora: bool = False,
    alpha: int | None = None,
    **config: Any,
) -> Path:
    """Write a random LoRA (or rsLoRA) for the model, B not 0, as PEFT saves it. `alpha` is 2 * rank when left out.

    `config` are further fields of PEFT's LoraConfig, which make it of other kinds. The change is about as large as the
    weights; of PiSSA and OLoRA it is what training would have made of their start. Returns `folder`.
    """
    lora = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=rslora,
        task_type="CAUSAL_LM",
        **config,
    )
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_path, use_safetensors=True), lora)
    pretend_to_train(model, seed)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def pretend_to_train(model: peft.PeftModel, seed: int) -> None:
    """Give the adapter random weights, or noise upon its start where that is not the base."""
    generator = torch.Generator().manual_seed(seed)
    starts_elsewhere = model.peft_config["default"].init_lora_weights in ("pissa", "olora")
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            noise_a, noise_b = (torch.randn(x.shape, generator=generator) for x in (a, b))
            if starts_elsewhere:
                a.mul_(1 + 0.5 * noise_a)
                b.mul_(1 + 0.5 * noise_b)
            else:
                a.copy_(noise_a / math.sqrt(a.shape[1]))
                b.copy_(noise_b / (abs(module.scaling["default"]) * math.sqrt(a.shape[0])))
            for dora in module.lora_magnitude_vector.values():
                dora.weight.mul_(1 + 0.3 * torch.randn(dora.weight.shape, generator=generator))


def reference_model(model_path: Path, adapters: Adapters = ()) -> PreTrainedModel:
    """Eager Transformers in float32; each adapted W becomes W + sum of weight * delta, the delta computed by PEFT."""
    model = AutoModelForCausalLM.from_pretrained(
        model_path, attn_implementation="eager", use_safetensors=True, **{dtype_argument(): torch.float32}
    ).eval()
    return with_deltas(model, [(peft_deltas(model, path), weight) for path, weight in adapters])


def with_deltas(model: PreTrainedModel, deltas: Sequence[tuple[dict[str, torch.Tensor], float]]) -> PreTrainedModel:
    """The model with each W replaced by W + sum of weight * delta. A head that shares its W with the embeddings gets
    one of its own: adapters of the head leave the embeddings alone."""
    merged = copy.deepcopy(model)
    for by_name, weight in deltas:
        for name, delta in by_name.items():
            module = merged.get_submodule(name)
            module.weight = torch.nn.Parameter(module.weight.detach() + weight * delta)
    return merged


@torch.no_grad()
def peft_deltas(model: PreTrainedModel, path: Path) -> dict[str, torch.Tensor]:
    """What the adapter at full strength adds to each W: PEFT's own layers are asked for every unit vector."""
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model), path)
    deltas = {}
    for name, module in adapted.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            if getattr(adapted.peft_config["default"], "alora_invocation_tokens", None):
                deltas[name] = module.get_delta_weight("default")  # its layers act on some tokens only
                continue
            units = torch.eye(module.in_features)
            deltas[name] = (module(units) - model.get_submodule(name)(units)).T
    return deltas


class Activated:
    """The oracle of an activated LoRA: the base up to `active_from`, and upon its cache the adapted model."""

    def __init__(self, base: PreTrainedModel, adapted: PreTrainedModel, active_from: int) -> None:
        self._base, self._adapted, self._active_from = base, adapted, active_from

    def __call__(self, ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        before, after = ids[:, : self._active_from], ids[:, self._active_from :]
        base = self._base(before, attention_mask=torch.ones_like(before), use_cache=True)
        if not after.numel():
            return SimpleNamespace(logits=base.logits)
        adapted = self._adapted(after, attention_mask=attention_mask, past_key_values=base.past_key_values)
        return SimpleNamespace(logits=torch.cat([base.logits, adapted.logits], 1))


Reference = PreTrainedModel | Activated


def dtype_argument() -> str:
    """What `from_pretrained` calls its dtype: `torch_dtype` until Transformers 4.55."""
    return "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


@torch.no_grad()
def reference_logits(model: Reference, token_ids: Sequence[int]) -> torch.Tensor:
    """(len(token_ids), vocab_size): row i judges token i + 1."""
    ids = torch.tensor([list(token_ids)])
    logits: torch.Tensor = model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0].float()


def greedy_reference(model: Reference, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The reference's own greedy answer of `num_tokens` tokens; EOS does not end it."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(reference_logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


def assert_greedy_matches(model: Reference, prompt: Sequence[int], token_ids: Sequence[int]) -> None:
    """`token_ids` is the reference's greedy answer to `prompt`.

    A first difference passes only where the reference's own logits of the two tokens are at most LOGIT_GAP apart;
    what follows it is another text and is not compared.
    """
    assert token_ids, "an answer without tokens matches anything"
    logits = reference_logits(model, [*prompt, *token_ids[:-1]])[len(prompt) - 1 :]  # (len(token_ids), vocab_size)
    for position, (row, token_id) in enumerate(zip(logits, token_ids, strict=True)):
        best = int(row.argmax())
        if best != token_id:
            gap = float(row[best] - row[token_id])
            assert gap <= LOGIT_GAP, (
                f"token {position} is {token_id}, the reference says {best}; its logit gap is {gap}"
            )
            return
