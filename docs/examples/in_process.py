"""The engine in this very process, to be stepped through with a debugger: one question, the base, then an adapter."""

from mp13 import LLM, SamplingParams
from mp13.library.paths import adapters_dir
from mp13.library.starter import install_starter


def main() -> None:
    folder = install_starter()  # downloads and converts it the first time
    llm = LLM(folder, dtype="float32", max_model_len=1024)
    llm.load_adapter(adapters_dir() / "pirate")
    question = [{"role": "user", "content": "What do you like about the sea?"}]
    params = SamplingParams(temperature=0, max_tokens=48)
    answers = llm.chat([question, question], params, adapters=["base", "pirate"])  # both in one packed batch
    for answer in answers:
        print(f"{answer.adapters:>8}: {answer.text}")


if __name__ == "__main__":
    main()
