"""vLLM in its own process and environment, for `bench_adapters.py --vllm PYTHON`. Needs vLLM alone, nothing of ours.

Called with the model's folder and those of the adapters, in that order. Reads one JSON object a line, {"prompts": lists
of token ids, "new": how many tokens to make, "adapters": a folder or null for each prompt}, and answers each with one:
{"seconds": of the whole call, "token_ids": lists}. The first line it writes, {"versions": …}, says that it is ready.
"""

import json
import os
import sys
import time


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # vLLM prints to stdout, and so do its children
    os.dup2(2, 1)
    import torch
    import vllm
    from vllm.lora.request import LoRARequest

    model, *adapters = sys.argv[1:]
    options = {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": 16} if adapters else {}
    llm = vllm.LLM(model, dtype="bfloat16", max_model_len=1024, max_num_seqs=8, enable_prefix_caching=False, **options)
    loras = {path: LoRARequest(path, number, path) for number, path in enumerate(adapters, 1)}

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    answer(versions=f"vLLM {vllm.__version__} (torch {torch.__version__})")
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
        params = vllm.SamplingParams(temperature=0, max_tokens=job["new"], ignore_eos=True, detokenize=False)
        lora = [loras.get(path) for path in job["adapters"]] if adapters else None
        started = time.perf_counter()
        outputs = llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
        seconds = time.perf_counter() - started
        answer(seconds=seconds, token_ids=[list(output.outputs[0].token_ids) for output in outputs])


if __name__ == "__main__":
    main()
