"""Facts spread over a long text, then questions; and copying."""

from data.base import Dialogue, Reply, Source, User
from data.words import ADJECTIVES, NAMES, NOUNS, THINGS, city, filler, made_up, path, phrase

ASK = ["What is {k}?", "{k}=?", "What is the number of {k}?", "What number belongs to {k}?", "And {k}?",
       "Tell me the value of {k}.", "Which value has {k}?", "Recall {k}.", "What is the value of {k}?", "{k}?",
       "What was {k}'s number?", "Give me {k}'s number.", "Look up {k}."]
NOTED = "Noted."


def key(r: Source) -> str:
    """The name of a fact."""
    kind = r.random()
    if kind < 0.4:
        return r.choice(NAMES)
    if kind < 0.75:
        return made_up(r).capitalize()
    if kind < 0.85:
        return f"{r.choice(ADJECTIVES)}_{r.choice(THINGS)}"
    if kind < 0.93:
        return f"{r.choice(NOUNS)}{r.randint(1, 99)}"
    return made_up(r)


def value(r: Source) -> str:
    """Mostly numbers of one to four digits."""
    kind = r.random()
    if kind < 0.9:
        return str(r.randint(0, 10 ** r.choice([2, 3, 3, 4, 4]) - 1))
    return city(r) if kind < 0.95 else made_up(r)


def facts(r: Source, count: int) -> dict[str, str]:
    """Distinct keys with values from this side of the split."""
    found: dict[str, str] = {}
    while len(found) < count:
        k, v = key(r), value(r)
        if k not in found and r.allowed(("fact", k, v)):
            found[k] = v
    return found


def body(r: Source, table: dict[str, str], sentences: int) -> str:
    """The facts in order, with `sentences` of filler spread between them."""
    joint = r.choice(["=", "=", "=", "=", " = ", ": "])
    lines = [f"{k}{joint}{v}" for k, v in table.items()]
    style = r.random()
    if sentences == 0:
        return r.choice(["\n", "\n", ", ", "; "]).join(lines)
    gaps = [0] * (len(lines) + 1)
    for _ in range(sentences):
        gaps[r.randrange(len(gaps))] += 1
    parts = []
    for i, gap in enumerate(gaps):
        if gap:
            parts.append(filler(r, gap))
        if i < len(lines):
            parts.append(lines[i] if style < 0.6 else lines[i] + ".")
    return ("\n" if r.chance(0.7) else " ").join(parts)


def dialogue(r: Source, length: int, questions: int) -> Dialogue:
    """About `length` tokens of context, then `questions` turns."""
    dense = r.random()
    count = max(2, min(int(length / (12 if dense < 0.3 else 40 if dense < 0.7 else 120)), 200))
    table = facts(r, count)
    sentences = max(0, (length - 9 * count) // 15)
    text = body(r, table, sentences)
    intro = r.choice(["Remember these facts.\n", "Here are some facts:\n", "", "Read this carefully.\n",
                      "Remember:\n", "Facts:\n"])
    asked = r.sample(list(table), min(questions, count))
    exchanges: list[User | Reply] = []
    system = ""
    first, rest = asked[0], asked[1:]
    where = r.random()
    if where < 0.2:
        system = intro + text
        rest = asked
    elif where < 0.5:
        exchanges = [User(intro + text), Reply(NOTED, "I will remember the facts.")]
        rest = asked
    else:
        exchanges = [User(f"{intro}{text}\n\n{r.choice(ASK).format(k=first)}"), answer(first, table[first])]
    for k in rest:
        exchanges += [User(r.choice(ASK).format(k=k)), answer(k, table[k])]
    return Dialogue("recall", exchanges, system=system, weight=3.0)


def answer(k: str, v: str) -> Reply:
    """The reply names the key first, so that looking up its value is a plain induction step."""
    return Reply(f"{k}={v}", f"Look for {k}.")


def case(r: Source, length: int) -> Dialogue:
    """A test case: `Name=number` lines over `length` tokens, one question."""
    count = max(2, length // 60)
    table = {k: v for k, v in facts(r, count * 2).items() if v.isdigit()}
    table = dict(list(table.items())[:count])
    text = body(r, table, max(0, (length - 9 * len(table)) // 15))
    k = r.choice(list(table))
    ask = r.choice(ASK[:4]).format(k=k)
    return Dialogue("recall", [User(f"Remember these facts.\n{text}\n\n{ask}"), answer(k, table[k])],
                    expect={"rule": "contains", "answer": f"{table[k]}"})


COPY = ["Repeat after me: {t}", "Copy this exactly: {t}", "Say: {t}", "Repeat this: {t}", "Echo: {t}", "Write exactly: {t}",
        "Please repeat the following text.\n{t}", "Repeat: {t}"]


def copy_text(r: Source) -> str:
    """Something to repeat."""
    kind = r.random()
    if kind < 0.5:
        return phrase(r)
    if kind < 0.6:
        return path(r)
    if kind < 0.7:
        return filler(r, 1)
    if kind < 0.85:
        return " ".join(made_up(r) for _ in range(r.randint(1, 7)))
    return " ".join(str(r.randint(0, 999)) for _ in range(r.randint(1, 6)))


def copy(r: Source) -> tuple[str, Reply]:
    """One copying exchange."""
    while True:
        text = copy_text(r)
        if r.allowed(("copy", text)):
            break
    return r.choice(COPY).format(t=text), Reply(text, "Repeat the text.", repeats=True)


def copy_case(r: Source) -> Dialogue:
    """A test case of copying."""
    ask, reply = copy(r)
    return Dialogue("copy", [User(ask), reply], expect={"rule": "exact", "answer": reply.text})
