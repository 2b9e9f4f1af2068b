"""vLLM's offline engine behind a pipe, run by a Python that has vllm (see contestants.py); nothing of mp13 is imported.

    python vllm_worker.py MODEL ADAPTER…

One JSON object a line comes in, {"prompts": token ids, "num_new": int, "adapters": a name a prompt}; one line of the
answers' token ids goes out. The first line out says that the engine is ready.
"""

import json
import os
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    model, *adapters = map(Path, sys.argv[1:])
    requests = {path.name: LoRARequest(path.name, number, str(path)) for number, path in enumerate(adapters, 1)}
    llm = LLM(
        str(model), dtype="bfloat16", enable_lora=True, max_loras=len(adapters), max_lora_rank=16, max_num_seqs=16,
        max_model_len=2048,
    )  # fmt: skip
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        params = SamplingParams(temperature=0, max_tokens=asked["num_new"], ignore_eos=True)
        mix = [requests[name] for name in asked["adapters"]]
        outputs = llm.generate(prompts, params, lora_request=mix, use_tqdm=False)
        print(json.dumps([list(output.outputs[0].token_ids) for output in outputs]), file=answers, flush=True)


if __name__ == "__main__":
    main()
