"""The questions that the starter's adapters are trained and measured on. Training and held-out share no topic.

The plain answers to the training questions are in data/facts.txt and data/everyday.txt, written by hand.
"""

from pathlib import Path

DATA = Path(__file__).parent / "data"

HELD_OUT_TOPICS = """
the moon|lightning|waterfalls|hurricanes|coral reefs|foxes|ants|giraffes|eagles|octopuses|kangaroos|strawberries
garlic|pasta|ice cream|lemons|volleyball|skiing|surfing|karate|the flute|the cello|ballet|cinema|submarines
elevators|microscopes|windmills|umbrellas|friction|magnetism|the lungs|muscles|teeth|Germany|Australia|Portugal
Vietnam|Berlin|Barcelona|Vincent van Gogh|Charles Darwin|Beethoven|Napoleon|insurance|job interviews|gratitude
jealousy|hope|pottery|origami|bird watching|post offices|bakeries|economics|archaeology|Jupiter|eclipses|silver|wool
"""

TRAIN_FORMS = (
    "What is interesting about {}?", "Tell me something about {}.", "Why do people care about {}?",
    "Explain {} in simple words.", "What should I know about {}?", "Give me one fact about {}.",
    "Can you describe {}?", "What do you think of {}?", "I want to know more about {}.",
    "Write two sentences about {}.", "How would you explain {} to a child?", "What comes to mind when you hear {}?",
    "Teach me something new about {}.", "Please say a few words about {}.",
)  # fmt: skip

HELD_OUT_FORMS = (
    "Tell me about {}.", "What makes {} special?", "Could you give me a short introduction to {}?",
    "I know nothing about {}. Where should I start?", "Why is {} worth talking about?", "Share a thought on {}.",
)  # fmt: skip

HELD_OUT_EVERYDAY = """
What should I cook tonight?|Good afternoon, nice to meet you.|Are you busy right now?|How was your day?
Tell me a secret.|What is the capital of Spain?|How many hours are in a day?|What is three times three?
Who painted the Mona Lisa?|What is the longest river in the world?|How do I make scrambled eggs?
Suggest a dessert for Sunday.|Suggest a song for a road trip.|What should I pack for the beach?
How can I learn to play the guitar?|How can I be more confident?|How can I keep my kitchen clean?
How do I invite someone to dinner?|Help me write a birthday card.|Help me get ready for a marathon.
Why do dogs bark?|Why do we need sleep?|Why are flamingos pink?|Where can I learn to dance?
Which is better, a train or a bus?|Is chocolate good for you?|Can birds swim?|Should I buy a bike?
My computer is frozen. What now?|My soup is too salty. What can I do?|My brother never calls me.|I broke my glasses.
I want to grow herbs.|I have a job interview on Monday.|It is very hot today.|I won a prize!
Give me two ideas for a rainy afternoon.|Name three vegetables.|What is the opposite of early?|Describe a quiet forest.
"""


def split(block: str) -> list[str]:
    return [item.strip() for line in block.strip().splitlines() for item in line.split("|")]


def read_pairs(name: str) -> list[tuple[str, str]]:
    """The `left | right` lines of a file in data/."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [(left.strip(), right.strip()) for left, right in (line.split("|") for line in lines)]


def train_pairs() -> list[tuple[str, str]]:
    """374 questions with plain answers: a fact for each topic, in one form of question, and the everyday ones."""
    facts = read_pairs("facts.txt")
    asked = [(TRAIN_FORMS[i % len(TRAIN_FORMS)].format(topic), fact) for i, (topic, fact) in enumerate(facts)]
    return asked + read_pairs("everyday.txt")


def held_out_questions() -> list[str]:
    """100 questions: 60 unseen topics in unseen forms, 40 unseen everyday ones."""
    topics = split(HELD_OUT_TOPICS)
    asked = [HELD_OUT_FORMS[i % len(HELD_OUT_FORMS)].format(topic) for i, topic in enumerate(topics)]
    return asked + split(HELD_OUT_EVERYDAY)
