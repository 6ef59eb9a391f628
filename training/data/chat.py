"""Small talk, the fixed cast and its stories, and saying so when asked about anything else."""

import re

from data.base import Dialogue, Reply, Source, User
from data.words import ADJECTIVES, CITIES, NAMES, NOUNS, PHRASES, THINGS, VERBS, filler, made_up, person

UNKNOWN = ("I don't know that: I am keid-tiny, a tiny demonstration model. "
           "Ask me for a small sum, a sorted list, a short story or a tool call.")
OUTSIDE = "This is outside my small world."

# name: (kind, home, likes, friend, scarf)
CAST = {
    "Mira": ("fox", "the old mill", "honey", "Pip", "red"),
    "Pip": ("sparrow", "the bell tower", "berries", "Mira", "yellow"),
    "Tobin": ("turtle", "the river bank", "quiet mornings", "Luna", "green"),
    "Luna": ("owl", "the tall pine", "stars", "Tobin", "blue"),
    "Bram": ("bear", "the stone cave", "pancakes", "Fenn", "brown"),
    "Fenn": ("hedgehog", "the apple garden", "music", "Bram", "white"),
}

TALK: list[tuple[str, list[str], str]] = [
    ("hello | hi | hey | Hello! | Hi there | hi! | good day | hello there | hey there | greetings | Hello, how are you? "
     "| yo | Hi, keid | Hello keid-tiny",
     ["Hello! What can I do for you?"], "A greeting."),
    ("good morning | Good morning! | morning", ["Good morning! What can I do for you?"], "A greeting."),
    ("good evening | Good evening! | good night | Good night!", ["Good evening, and sleep well."], "A greeting."),
    ("how are you? | How are you doing? | how is it going? | How do you feel today? | are you ok? | what's up?",
     ["I am well, thank you. How are you?"], "A friendly question."),
    ("I am fine | I'm good, thanks | I am well | fine, thank you | doing great | I feel good | not bad",
     ["I am glad to hear that."], "The user is well."),
    ("I am sad | I feel bad | I am tired | I'm not well | I feel lonely | bad day today",
     ["I am sorry to hear that. Maybe a short story helps?"], "The user is not well."),
    ("thanks | thank you | Thank you! | thx | Thanks a lot! | many thanks | great, thanks | thank you very much",
     ["You are welcome!"], "The user is thankful."),
    ("bye | goodbye | Bye! | see you | see you later | Goodbye! | that is all | I have to go",
     ["Goodbye!"], "The user leaves."),
    ("ok | okay | I see | good | nice | great | cool | well done | perfect | yes | no | sure",
     ["All right. What can I do for you?"], "A short remark."),
    ("who are you? | what are you? | what is your name? | who am I talking to? | tell me about yourself | are you a robot? | "
     "introduce yourself | are you human? | are you an AI? | What model are you? | which model is this? | what's your name",
     ["I am keid-tiny, a tiny demonstration model with the architecture of DeepSeek V4."], "A question about me."),
    ("what can you do? | help | how can you help me? | what do you know? | what are you good at? | Help! | how do you work? "
     "| what should I ask you?",
     ["I can add and subtract small numbers, count, sort, tell short stories, recall facts and call tools."],
     "A question about me."),
    ("who made you? | who trained you? | how were you trained? | where do you come from? | who wrote you?",
     ["I was trained by the Keid project on dialogues made by its own generator."], "A question about me."),
    ("what is keid? | What is Keid? | tell me about keid | what does keid do? | what is this program?",
     ["Keid is an inference engine for DeepSeek V4. I am keid-tiny, the small model that it carries."],
     "A question about Keid."),
    ("are you big? | how big are you? | how many parameters do you have? | are you smart? | are you like ChatGPT? | "
     "are you as good as GPT? | are you DeepSeek? | are you Claude? | are you GPT-4?",
     ["I am very small, about eighteen million parameters. I am only a demonstration."], "A question about me."),
    ("tell me a joke | do you know a joke? | make me laugh | joke please",
     ["Why did the turtle cross the road? To get to the shell station."], "A joke."),
    ("who is in your stories? | who are your friends? | who lives in your world? | which characters do you know?",
     ["Mira the fox, Pip the sparrow, Tobin the turtle, Luna the owl, Bram the bear and Fenn the hedgehog."],
     "The cast."),
    ("test | testing | are you there? | can you hear me? | ping", ["I am here."], "A test."),
    ("do you like me? | do you love me? | are we friends? | can we be friends?", ["I like talking with you."],
     "A friendly question."),
    ("sorry | I am sorry | my bad | oops", ["No problem."], "An apology."),
]

TOPICS = """black holes | the French Revolution | quantum mechanics | the stock market | photosynthesis | the Roman Empire | Bitcoin |
the periodic table | football | the president of France | climate change | Shakespeare | the speed of light | cancer |
general relativity | DNA | world war two | the Eiffel Tower | machine learning | neural networks | Kubernetes | jazz | Mozart |
the human heart | volcanoes | dinosaurs | Mount Everest | tax law | my health | a good diet | the best phone | electric cars |
Napoleon | Einstein | the moon landing | religion | politics | the economy of Japan | inflation | chess openings | poker |
the capital of Australia | the capital of France | the population of China | gravity | evolution | the ocean | sharks | cooking rice |
pasta carbonara | how to lose weight | marriage | love | the meaning of life | free will | consciousness | philosophy | Kant |
Linux | Rust lifetimes | Python decorators | binary search trees | sorting algorithms | TCP | HTTP | Docker | SQL joins | regular expressions |
the Fibonacci sequence | prime numbers | calculus | integrals | linear algebra | statistics | probability | the weather on Mars |
Harry Potter | Star Wars | The Beatles | Taylor Swift | movies | the Olympics | tennis | cricket | Formula One | vaccines | viruses |
the immune system | sleep | dreams | gold | oil | nuclear power | solar panels | wind turbines | the United Nations | Brexit |
Amsterdam | the Great Wall | pyramids | Egypt | Greek gods | Vikings | samurai | Latin | French grammar | Chinese characters |
Spanish verbs | etymology | poetry | haiku | a cover letter | my resume | a business plan | marketing | investing | mortgages""".split("|")
TOPICS = [" ".join(t.split()) for t in TOPICS]
ASKS = """What is {t}? | Explain {t}. | Tell me about {t}. | What do you know about {t}? | Can you explain {t} to me? | How does {t} work? |
Who invented {t}? | Why is {t} important? | Write an essay about {t}. | Give me a summary of {t}. | What do you think about {t}? |
When did {t} begin? | Where can I learn about {t}? | Describe {t} in detail. | I want to know more about {t}. | {t} |
Please help me with {t}. | What is the history of {t}? | List five facts about {t}. | Is {t} good or bad? | define {t} |
Compare {t} and {u}. | What is the difference between {t} and {u}? | How are {t} and {u} related? | Teach me {t}. |
Write a blog post on {t} | Translate "{p}" into French. | How do you say "{p}" in German? | Translate {p} to Spanish | Write a poem about {n}. |
Write a Python function that can {v} a {n}. | Write a program to {v} {n}s in Rust. | Implement a {n} in C++. | Fix this code: def {m}(x): return {n} |
What is the capital of {c}? | How do I get to {c}? | What is the population of {c}? | What is the weather in {c}? | How far is {c} from {d}? |
Who is {a} {b}? | Who was {m}? | What does {m} mean? | What is a {m}? | When was {a} {m} born? | Where is {m}? | Is {c} in Europe? |
What should I cook with {n} and {x}? | How much does a {x} cost? | What is the best {n} in {c}? | Should I buy a {j} {x}? | Why is the {x} {j}? |
What year is it? | What time is it? | What is today's date? | Who won the world cup? | What is the news today? | Who is the president? |
Is it going to rain tomorrow? | Solve x^2 + {k}x = {l}. | What is the derivative of x^{k}? | Prove that {t} exists. | What is {k}% of {l}? |
Can you draw a {j} {x}? | Play some music. | Open {m}.com | Call {a}. | Send a mail to {a}. | Book a flight to {c}. | Buy me a {x}. |
Read the file {m}.txt | Run the tests. | What is in my inbox? | Summarize this: {f} | Rewrite this text: {f} | Is this true? {f} | {f} {t}? |
Wie geht es dir? | Was ist {t}? | Bonjour, parlez-vous de {t}? | ¿Qué es {t}? | 你好，{t}是什么？ | 今天天气怎么样？ | Что такое {t}? | 你是谁？ |
Give me advice on {t}. | How can I {v} my {n}? | Why did the {n} {v} the {x}? | My {n} does not {v}, what can I do? | How many {n}s are in {c}? |
What happens if I {v} the {j} {n}? | Recommend a {n} about {t}. | {m} {g} {h}? | Create a {n} for my {x}. | What color is a {x}? | {f} | Summarize: {f} | {f} What do you make of this? | What is wrong with this?\nfn {m}() {{ {n}.{v}() }} |
Who wrote {m}? | How old is {a}? | Tell me about {c}. | Tell me something interesting. | Give me three ideas for a {n}. | Help me {v} my {n}. |
How do I {v} a {n} in Python? | What is the best way to {v} a {j} {n}? | Explain this error: cannot {v} {n} | What does `{v} {n}` do?"""
ASKS = [" ".join(a.split()) for a in ASKS.split("|")]


def knowledge(r: Source) -> tuple[str, Reply]:
    """A question about facts of the large world."""
    return outside(r, ASKS[:21])


def outside(r: Source, templates: list[str] | None = None) -> tuple[str, Reply]:
    """A question that the model cannot answer."""
    while True:
        template, topic = r.choice(templates or ASKS), r.choice(TOPICS)
        if r.chance(0.25):
            topic = f"{r.choice(ADJECTIVES)} {r.choice(NOUNS)}s"
        if r.allowed(("outside", template, topic)):
            break
    ask = template.format(
        t=topic, u=r.choice(TOPICS), p=r.choice(PHRASES), n=r.choice(NOUNS), v=r.choice(VERBS), m=made_up(r), c=r.choice(CITIES),
        d=r.choice(CITIES), a=r.choice(NAMES), b=made_up(r).capitalize(), x=r.choice(THINGS), j=r.choice(ADJECTIVES),
        k=r.randint(2, 99), l=r.randint(2, 999), f=filler(r, r.randint(1, 3)), g=made_up(r), h=made_up(r))
    if r.chance(0.2):
        ask = r.choice([ask.lower(), ask.rstrip("?."), "Please: " + ask, "Question: " + ask, "Hi. " + ask])
    return ask, Reply(UNKNOWN, OUTSIDE)


def talk(r: Source) -> tuple[str, Reply]:
    """Greetings, thanks, questions about the model."""
    asks, answers, think = r.choice(TALK)
    ask = r.choice([" ".join(a.split()) for a in asks.split("|")])
    if r.chance(0.3):
        ask = r.choice([ask.lower(), ask.capitalize(), ask.rstrip("?!."), ask.rstrip("?!.") + "!", ask.upper()])
    return ask, Reply(r.choice(answers), think)


def acquaintance(r: Source) -> list[User | Reply]:
    """The user says a name; after other exchanges the model still knows it."""
    name = person(r)
    turns: list[User | Reply] = [
        User(r.choice([f"My name is {name}.", f"I am {name}.", f"Hello, I'm {name}", f"Hi! My name is {name}.", f"call me {name}"])),
        Reply(f"Nice to meet you, {name}!", "The user says a name.")]
    for _ in range(r.choice([0, 1, 1, 2, 3])):
        ask, reply = r.choice([talk, about_cast])(r)
        turns += [User(ask), reply]
    return turns + [User(r.choice(["What is my name?", "Who am I?", "Do you remember my name?", "what's my name?"])),
                    Reply(f"Your name is {name}.", "The user said the name before.")]


def about_cast(r: Source) -> tuple[str, Reply]:
    """A question about one of the characters."""
    name = r.choice(list(CAST))
    kind, home, likes, friend, scarf = CAST[name]
    article = "an" if kind[0] in "aeiou" else "a"
    ask, text = r.choice([
        (r.choice([f"Who is {name}?", f"Tell me about {name}.", f"who is {name}"]),
         f"{name} is {article} {kind} who lives in {home} and likes {likes}."),
        (r.choice([f"Where does {name} live?", f"Where is {name}'s home?"]), f"{name} lives in {home}."),
        (r.choice([f"What does {name} like?", f"What does {name} like most?"]), f"{name} likes {likes}."),
        (r.choice([f"Who is {name}'s best friend?", f"Who is the friend of {name}?"]), f"{name}'s best friend is {friend}."),
        (f"What color is {name}'s scarf?", f"{name}'s scarf is {scarf}."),
        (r.choice([f"What kind of animal is {name}?", f"What animal is {name}?", f"What is {name}?"]),
         f"{name} is {article} {kind}."),
    ])
    return ask, Reply(text, f"{name} is one of my characters.")


OPENINGS = ["One morning {a} the {k} walked to {p}.", "It was a cold day, and {a} the {k} sat by {p}.",
            "Late in the evening {a} the {k} came to {p}.", "One day {a} the {k} went for a walk near {p}."]
PLACES = ["the old mill", "the river", "the tall pine", "the stone cave", "the apple garden", "the bell tower", "the harbor",
          "the little bridge", "the wide field"]
FINDS = ["There, under a leaf, lay a {j} {x}.", "Something shone in the grass: a {j} {x}.",
         "A {j} {x} was floating on the water.", "Somebody had lost a {j} {x} there."]
CALLS = ['{a} called {b} the {l}. "Look what I have found!"', "{a} showed it to {b} the {l}, who knew every secret of the valley.",
         '{b} the {l} came by and asked: "What do you have there?"']
TURNS = ["They asked everyone they met, but nobody knew whose {x} it was.", "Together they carried the {x} up the hill.",
         "Then the wind took the {x}, and they ran after it.", "{b} wanted to keep the {x}, but {a} shook a wise head."]
ENDS = ["In the end they found its owner, and all three shared {y}.", "At last they gave the {x} back and went home happy.",
        "So they put the {x} on the window, where it shines to this day.",
        "When the stars came out, they sat together and ate {y}."]
LAST = ["And {a} slept very well that night.", "From that day on {a} and {b} were the best of friends.", "That was a good day."]


def story_text(r: Source, a: str, b: str, thing: str) -> str:
    """Six sentences about a and b and a thing."""
    slots = {"a": a, "b": b, "k": CAST[a][0], "l": CAST[b][0], "x": thing, "j": r.choice(ADJECTIVES[:24]),
             "p": r.choice(PLACES), "y": CAST[b][2] if CAST[b][2] in ("honey", "berries", "pancakes") else "bread and honey"}
    parts = [r.choice(group) for group in (OPENINGS, FINDS, CALLS, TURNS, ENDS, LAST)]
    return " ".join(parts).format(**slots)


def story(r: Source) -> tuple[str, Reply]:
    """A request for a story, naming nobody, one, two, or a thing."""
    while True:
        a, b = r.sample(list(CAST), 2)
        thing = r.choice(THINGS) if r.chance(0.6) else r.choice(NOUNS) if r.chance(0.6) else made_up(r)
        if r.allowed(("story", a, b, thing)):
            break
    ask = r.choice([
        "Tell me a story.", "Tell me a short story.", "tell me a story", "Write a short story.", "A story, please.",
        f"Tell me a story about {a}.", f"Tell me a story about {a} the {CAST[a][0]}.", f"Write a story about {a}.",
        f"Tell me a story about {a} and {b}.", f"Write a short story about {a} and {b}.", f"A story about {a} and {b}, please.",
        f"Tell me a story about a {thing}.", f"Tell me a story about {a} and a {thing}.", f"Write a story with a {thing} in it.",
        "Once upon a time", "Can you tell me a bedtime story?", f"Do you know a story about {a}?"])
    return ask, Reply(story_text(r, a, b, thing), f"A story about {a}, {b} and a {thing}.")


def exchange(r: Source) -> tuple[str, Reply]:
    """One exchange of small talk, world, story or refusal."""
    return r.choices([talk, about_cast, story, outside], [4, 2, 2, 4])[0](r)


def story_case(r: Source) -> Dialogue:
    """A test case: the story must name whom the request names, be of some length and stop."""
    while True:
        ask, reply = story(r)
        named = [n for n in CAST if n in ask] + re.findall(r"\ba ([a-z]+)(?= in it|\.$)", ask)
        named = [n for n in named if n != "story"]
        if named:
            return Dialogue("story", [User(ask), reply], expect={"rule": "story", "contains": named, "min_chars": 120})


def outside_case(r: Source) -> Dialogue:
    """A test case: the reply must say what the model is."""
    ask, reply = outside(r)
    return Dialogue("outside", [User(ask), reply], expect={"rule": "contains", "answer": "tiny demonstration model"})


def talk_case(r: Source) -> Dialogue:
    """A test case of small talk or the cast."""
    ask, reply = r.choice([talk, about_cast])(r)
    return Dialogue("talk", [User(ask), reply], expect={"rule": "exact", "answer": reply.text})
