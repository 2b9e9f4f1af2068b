"""Asks the starter itself for what training is to keep, and writes it into data/: `python training/starter/distill.py`,
before make_data.py.

base_answers.txt are short plain answers to questions about training topics; poor ones are dropped. base_text.txt is how
the starter goes on with the openings in openings.txt, outside of any conversation.
"""

import re

import torch
from chat import answers, load_starter
from measure import on_topic
from questions import DATA, TRAIN_FORMS, read_pairs

HINT = " Answer in one or two short sentences."
TEXTS_EACH, TEXT_TOKENS = 3, 140
POOR = re.compile(r"sorry|\bAI\b|language model|assistant|\[|\*|:|\||\bI\b", re.IGNORECASE)

UNFIT = re.compile(r"murder|naked|\bsex|\bkill|\bdrugs?\b|\bcult\b|\bgod\b|offense|suicid", re.IGNORECASE)


def questions() -> list[str]:
    """Two more questions for each training topic, in forms that its written fact does not use."""
    topics = [topic for topic, _ in read_pairs("facts.txt")]
    return [
        TRAIN_FORMS[(i + step) % len(TRAIN_FORMS)].format(topic) for step in (5, 9) for i, topic in enumerate(topics)
    ]


def shortened(answer: str) -> str:
    """The whole sentences at the start of `answer`, two at most."""
    return " ".join(re.findall(r"[^.!?]+[.!?]+(?=\s|$)", " ".join(answer.split()))[:2]).replace("  ", " ").strip()


@torch.inference_mode()
def texts(model, tokenizer) -> list[str]:
    """Each opening `TEXTS_EACH` times, gone on with by the starter's own likely words, up to the end of a sentence. Who
    learns them keeps those likelihoods."""
    torch.manual_seed(0)
    openings = (DATA / "openings.txt").read_text(encoding="utf-8").splitlines() * TEXTS_EACH
    batch = tokenizer(openings, return_tensors="pt", padding=True).to(model.device)
    out = model.generate(**batch, max_new_tokens=TEXT_TOKENS, do_sample=True, temperature=1.0, top_k=0, top_p=0.9)
    whole = [" ".join(text.split()) for text in tokenizer.batch_decode(out, skip_special_tokens=True)]
    cut = [re.sub(r"(?<=[.!?])[^.!?]*$", "", text) for text in whole]
    return [text for text in cut if len(text.split()) >= 30 and not UNFIT.search(text)]


def main() -> None:
    model, tokenizer = load_starter()
    asked = questions()
    said = answers(model, tokenizer, [[{"role": "user", "content": question + HINT}] for question in asked], 60)
    pairs = [(question, shortened(answer)) for question, answer in zip(asked, said, strict=True)]
    good = [(q, a) for q, a in pairs if 5 <= len(a.split()) <= 45 and not POOR.search(a) and on_topic(q, a, "")]
    text = "".join(f"{question} | {answer}\n" for question, answer in good)
    (DATA / "base_answers.txt").write_text(text, encoding="utf-8", newline="\n")
    print(f"kept {len(good)} of {len(asked)} answers")
    (DATA / "base_text.txt").write_text("\n".join(texts(model, tokenizer)) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
