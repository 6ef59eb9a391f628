"""Small arithmetic: sums, differences, products to ten, counting, sorting, comparing."""

from data.base import Dialogue, Reply, Source, User
from data.words import NAMES, THINGS

TOO_BIG = "That is too big for me: I am keid-tiny, a tiny demonstration model, and I only know small numbers."


def _sum(r: Source) -> tuple[str, Reply]:
    while True:
        a, b = r.randint(0, 99), r.randint(0, 99)
        if r.allowed(("sum", min(a, b), max(a, b))):
            break
    n, x = r.choice(NAMES), r.choice(THINGS)
    ask = r.choice([
        f"What is {a} + {b}?", f"{a}+{b}", f"{a} + {b} =", f"{a}+{b}=?", f"Add {a} and {b}.", f"What is {a} plus {b}?",
        f"Compute {a} + {b}.", f"calculate {a} + {b}", f"What's {a} + {b}?", f"How much is {a} + {b}?", f"{a} + {b}",
        f"Please add {b} to {a}." if a == b else f"What do you get when you add {a} and {b}?",
        f"I have {a} {x}s and get {b} more. How many do I have now?",
        f"{n} has {a} {x}s and finds {b} more. How many {x}s does {n} have?", f"What is the sum of {a} and {b}?",
    ])
    ones, tens = a % 10 + b % 10, a // 10 * 10 + b // 10 * 10
    think = f"{a} + {b}: {a % 10} + {b % 10} = {ones}, {a // 10 * 10} + {b // 10 * 10} = {tens}, {tens} + {ones} = {a + b}."
    return ask, Reply(f"{a} + {b} = {a + b}", think)


def _difference(r: Source) -> tuple[str, Reply]:
    while True:
        a, b = sorted((r.randint(0, 99), r.randint(0, 99)), reverse=True)
        if r.allowed(("difference", a, b)):
            break
    n, x = r.choice(NAMES), r.choice(THINGS)
    ask = r.choice([
        f"What is {a} - {b}?", f"{a}-{b}", f"{a} - {b} =", f"{a}-{b}=?", f"Subtract {b} from {a}.", f"{a} - {b}",
        f"What is {a} minus {b}?", f"Compute {a} - {b}.", f"calculate {a} - {b}", f"How much is {a} - {b}?",
        f"I have {a} {x}s and lose {b}. How many do I have now?", f"What's {a} minus {b}?",
        f"{n} has {a} {x}s and gives away {b}. How many {x}s are left?", f"Take {b} away from {a}.",
    ])
    tens = b // 10 * 10
    think = f"{a} - {b}: {a} - {tens} = {a - tens}, {a - tens} - {b % 10} = {a - b}."
    return ask, Reply(f"{a} - {b} = {a - b}", think)


def _three(r: Source) -> tuple[str, Reply]:
    a, b, c = (r.randint(0, 30) for _ in range(3))
    ask = r.choice([f"What is {a} + {b} + {c}?", f"{a}+{b}+{c}", f"Add {a}, {b} and {c}.", f"{a} + {b} + {c} ="])
    return ask, Reply(f"{a} + {b} + {c} = {a + b + c}", f"{a} + {b} = {a + b}, {a + b} + {c} = {a + b + c}.")


def _below_zero(r: Source) -> tuple[str, Reply]:
    a, b = sorted((r.randint(0, 30), r.randint(0, 30)))
    ask = r.choice([f"What is {a} - {b}?", f"{a}-{b}", f"{a} - {b} =", f"What is {a} minus {b}?"])
    return ask, Reply(f"{a} - {b} = {a - b}", f"{b} - {a} = {b - a}, so {a} - {b} = {a - b}.")


def _product(r: Source) -> tuple[str, Reply]:
    a, b = r.randint(0, 10), r.randint(0, 10)
    ask = r.choice([f"What is {a} * {b}?", f"{a}*{b}", f"What is {a} times {b}?", f"Multiply {a} by {b}.", f"{a} x {b} =",
                    f"{a} * {b} = ?", f"{a} × {b}"])
    return ask, Reply(f"{a} * {b} = {a * b}", f"{a} times {b} is {a * b}.")


def _sort(r: Source) -> tuple[str, Reply]:
    while True:
        items = [r.randint(0, 99) for _ in range(r.randint(2, 8))]
        if r.allowed(("sort", tuple(items))):
            break
    down = r.chance(0.3)
    text = r.choice([", ", ", ", " "]).join(map(str, items))
    if down:
        ask = r.choice([f"Sort {text} from largest to smallest.", f"Sort in descending order: {text}",
                        f"Sort these numbers, biggest first: {text}"])
    else:
        ask = r.choice([f"Sort {text}.", f"Sort these numbers: {text}", f"sort {text}", f"Put {text} in order.",
                        f"Sort {text} from smallest to largest.", f"Sort in ascending order: {text}",
                        f"Please sort the numbers {text}.", f"Order these from low to high: {text}"])
    done = sorted(items, reverse=down)
    think = ("Largest" if down else "Smallest") + " first: " + ", then ".join(map(str, done)) + "."
    return ask, Reply(", ".join(map(str, done)), think)


def _extreme(r: Source) -> tuple[str, Reply]:
    while True:
        items = r.sample(range(100), r.randint(2, 6))
        if r.allowed(("extreme", tuple(items))):
            break
    text, big = ", ".join(map(str, items)), r.chance(0.5)
    if len(items) == 2:
        a, b = items
        ask = (r.choice([f"Which is bigger, {a} or {b}?", f"Which number is larger: {a} or {b}?"]) if big
               else r.choice([f"Which is smaller, {a} or {b}?", f"Is {a} or {b} the smaller number?"]))
    else:
        word = r.choice(["largest", "biggest", "highest"] if big else ["smallest", "lowest"])
        ask = r.choice([f"What is the {word} of {text}?", f"Find the {word} number: {text}",
                        f"Which of these is the {word}? {text}"])
    pick = max(items) if big else min(items)
    return ask, Reply(f"{pick}", f"Sorted: {', '.join(map(str, sorted(items)))}. So {pick}.")


def _count_items(r: Source) -> tuple[str, Reply]:
    while True:
        items = [r.choice(THINGS) for _ in range(r.randint(1, 10))]
        if r.allowed(("count", tuple(items))):
            break
    text = ", ".join(items)
    ask = r.choice([f"How many words are in this list: {text}", f"Count the items: {text}",
                    f"How many items are there: {text}?", f"Count these: {text}."])
    steps = ", ".join(f"{i} {x}" for i, x in enumerate(items, 1))
    return ask, Reply(f"{len(items)}", f"{steps}. So {len(items)}.")


def _count_range(r: Source) -> tuple[str, Reply]:
    low = r.randint(0, 40)
    high = low + r.randint(1, 10)
    if r.chance(0.3):
        row, ask = range(high, low - 1, -1), r.choice([f"Count down from {high} to {low}.", f"Count from {high} to {low}."])
    else:
        row, ask = range(low, high + 1), r.choice([f"Count from {low} to {high}.", f"count from {low} to {high}",
                                                   f"List the numbers from {low} to {high}."])
    return ask, Reply(", ".join(map(str, row)), f"From {row[0]} to {row[-1]}.")


def _occurrences(r: Source) -> tuple[str, Reply]:
    while True:
        kinds = r.sample(THINGS, r.randint(2, 3))
        items = [r.choice(kinds) for _ in range(r.randint(3, 9))]
        target = r.choice(kinds)
        if r.allowed(("occurrences", tuple(items), target)):
            break
    ask = r.choice([f"How many times does {target} appear: {' '.join(items)}", f"Count the {target}s: {' '.join(items)}",
                    f"How often does the word {target} occur in: {' '.join(items)}?"])
    n = items.count(target)
    # A number beside each hit alone: what to write next depends on this word, the wanted one and the last number.
    marks = ", ".join(f"{x} {items[: i + 1].count(target)}" if x == target else x for i, x in enumerate(items))
    return ask, Reply(f"{n}", f"{target}: {marks}. So {n}.", shows_steps=True)


def _neighbour(r: Source) -> tuple[str, Reply]:
    n = r.randint(1, 98)
    kind = r.randrange(3)
    if kind == 0:
        return r.choice([f"What comes after {n}?", f"Which number follows {n}?"]), Reply(f"{n + 1}", f"{n} + 1 = {n + 1}.")
    if kind == 1:
        return f"What comes before {n}?", Reply(f"{n - 1}", f"{n} - 1 = {n - 1}.")
    word = "even" if n % 2 == 0 else "odd"
    return f"Is {n} even or odd?", Reply(f"{n} is {word}.", f"The last digit is {n % 10}, so {n} is {word}.")


def too_big(r: Source) -> tuple[str, Reply]:
    """Arithmetic outside the model's range; it says so."""
    a, b = r.randint(100, 10 ** r.randint(3, 6)), r.randint(10, 10 ** r.randint(2, 5))
    ask = r.choice([f"What is {a} * {b}?", f"{a}*{b}", f"What is {a} + {b}?", f"Divide {a} by {b}.", f"{a} / {b} = ?",
                    f"What is the square root of {a}?", f"{a} - {b}", f"Compute {a} to the power of {b}.", f"{a}+{b}"])
    return ask, Reply(TOO_BIG, "These numbers are too big for me.")


KINDS = {_sum: 7, _difference: 7, _product: 1, _sort: 4, _extreme: 1.5, _count_items: 2.5, _count_range: 1.5,
         _occurrences: 4, _neighbour: 1, too_big: 1, _three: 1, _below_zero: 0.7}


def exchange(r: Source) -> tuple[str, Reply]:
    """One question and its reply."""
    return r.choices(list(KINDS), list(KINDS.values()))[0](r)


def case(r: Source) -> Dialogue:
    """A test case: one arithmetic question; the reply must match exactly."""
    ask, reply = r.choice([_sum, _sum, _difference, _difference, _sort, _count_items, _extreme])(r)
    return Dialogue("arithmetic", [User(ask), reply], expect={"rule": "exact", "answer": reply.text})


def occurrences_case(r: Source) -> Dialogue:
    """A test case of the hardest kind of counting: how often a word occurs."""
    ask, reply = _occurrences(r)
    return Dialogue("occurrences", [User(ask), reply])
