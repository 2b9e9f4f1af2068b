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

TUNING_TOPICS = """
the sky|fog|tornadoes|swamps|lakes|squirrels|bats|lions|crabs|swans|camels|oranges|onions|noodles|yogurt|pepper
baseball|skating|climbing|judo|the trumpet|the harp|folk music|cartoons|balloons|escalators|compasses|water wheels
maps|pressure|heat|the stomach|skin|hair|Austria|Chile|Morocco|Finland|Lisbon|Vienna|Claude Monet
Alexander Graham Bell|Bach|Joan of Arc|loans|budgets|trust|envy|curiosity|weaving|juggling|stamp collecting
fire stations|butchers|politics|psychology|Saturn|the sunset|copper|silk
"""

TUNING_FORMS = (
    "What can you tell me about {}?", "Why are people fond of {}?", "Say something about {}, please.",
    "How do I begin to understand {}?", "What is the most important thing about {}?", "A few words on {}?",
)  # fmt: skip

TUNING_EVERYDAY = """
What should I drink tonight?|Good day to you!|Do you have a minute?|How is your evening going?
Tell me something surprising.|What is the capital of Portugal?|How many minutes are in an hour?
What is ten minus four?|Who wrote Faust?
What is the deepest ocean?|How do I cook rice?|Suggest a drink for a hot day.|Suggest a game for two players.
What should I bring to a party?|How can I learn to juggle?|How can I speak more clearly?|How can I keep my desk tidy?
How do I write a postcard?|Help me name my new boat.|Help me prepare for a long flight.|Why do ducks have webbed feet?
Why do we laugh?|Why is grass green?|Where can I learn to sail?|Which is better, summer or winter?|Is honey healthy?
Can dogs see colors?|Should I learn to cook?|My bicycle has a flat tire. What now?|My bread is too hard. What can I do?
My sister is moving away.|I forgot my umbrella.|I want to build a shelf.|I am meeting my new boss today.
It is snowing outside.|I finished my first book!|Give me two ideas for a birthday present.|Name three farm animals.
What is the opposite of loud?|Describe an old harbor.
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
    return _asked(HELD_OUT_TOPICS, HELD_OUT_FORMS) + split(HELD_OUT_EVERYDAY)


def tuning_questions() -> list[str]:
    """100 others of the same kind, to choose recipes by."""
    return _asked(TUNING_TOPICS, TUNING_FORMS) + split(TUNING_EVERYDAY)


def _asked(topics: str, forms: tuple[str, ...]) -> list[str]:
    return [forms[i % len(forms)].format(topic) for i, topic in enumerate(split(topics))]
