"""Dialogues with declared tools: choosing, calling, reading results, or not needing a tool at all."""

from typing import Any

from data import chat, numbers, recall
from data.base import Call, Dialogue, Reply, Source, User, dumps
from data.everyday import EVERYDAY
from data.natural import natural_family
from data.toolbox import AGENT, FAMILIES, HELD_OUT_FAMILIES, Bound, bind, made_up_family
from data.words import THINGS, city, filler, made_up, phrase

KNOWN = [*FAMILIES, *EVERYDAY]
NO_TOOL = "I have no tool for that."
SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant with access to tools.", "You are an assistant.", "",
           "You are Keid, a helpful assistant.", "Be brief.", "Answer in one sentence.", "You are a coding assistant.",
           "Use the tools when they help.", "You are a careful assistant. Think before you act.", "Today is Monday."]


def system_text(r: Source) -> str:
    """Empty, short, or long with sentences that do not matter."""
    if r.chance(0.45):
        return ""
    text = r.choice(SYSTEMS)
    if r.chance(0.25):
        text += "\n\n" + filler(r, r.randint(1, 8) if r.chance(0.7) else r.randint(8, 30))
    return text


def toolbox(r: Source, count: int, unseen: bool = False) -> list[Bound]:
    """Declared tools with distinct names; `unseen` boxes hold only tools that no training dialogue declares."""
    box: list[Bound] = []
    style = r.random()
    while len(box) < count:
        if unseen:
            family = r.choice(HELD_OUT_FAMILIES) if r.chance(0.5) else made_up_family(r)
        elif style < 0.22:
            family = r.choice(KNOWN)
        elif style < 0.3:
            family = r.choice(AGENT)
        elif style < 0.5:
            family = made_up_family(r)
        elif style < 0.75:
            family = natural_family(r)
        else:
            family = r.choice([r.choice(KNOWN), r.choice(AGENT), made_up_family(r), natural_family(r)])
        bound = bind(r, family)
        if all(bound.name != other.name and bound.family is not other.family for other in box):
            box.append(bound)
        elif style < 0.3 and r.chance(0.2):
            style = 0.9
    return box


def result_text(r: Source, bound: Bound, drawn: dict[str, Any]) -> tuple[str, str]:
    """What the tool returns and what the assistant then says."""
    made = bound.family.result
    if made is None or r.chance(0.15):
        made = r.choice([
            lambda r, a: "ok", lambda r, a: phrase(r), lambda r, a: str(r.randint(0, 9999)), lambda r, a: {"status": "ok"},
            lambda r, a: {r.choice(["id", "value", "count", "total"]): r.randint(0, 9999)},
            lambda r, a: {"name": made_up(r), r.choice(["level", "size", "city"]): r.choice([city(r), r.randint(0, 99)])},
            lambda r, a: f"{made_up(r)} {r.choice(THINGS)} {r.randint(0, 99)}", lambda r, a: "Error: " + phrase(r),
            lambda r, a: "Error: not found"])
    value = made(r, drawn)
    written = value if isinstance(value, str) else dumps(value)
    return written, spoken(value)


def spoken(value: Any) -> str:
    """A result in words."""
    if isinstance(value, dict):
        if value == {"status": "ok"}:
            return "done"
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if value in ("ok", "success"):
        return "done"
    return str(value)


def final(words: list[str]) -> Reply:
    """The reply after the results."""
    if all(w == "done" for w in words):
        return Reply("Done.", "The tool has finished.")
    if len(words) == 1:
        if words[0].startswith("Error: "):
            return Reply(f"The tool failed: {words[0][len('Error: '):]}", "The tool returned an error.")
        return Reply(f"Here is the result: {words[0]}", "The tool has answered.")
    return Reply("Here are the results: " + "; ".join(words), "The tools have answered.")


def thought(calls: list[Call]) -> str:
    """Reasoning before a call. In quotes a name has the tokens that it has in its declaration and in the call."""
    return "I should call " + " and ".join(f'"{c.name}"' for c in calls) + "."


def ask_once(r: Source, box: list[Bound]) -> tuple[str, list[Call], list[tuple[Bound, dict]]]:
    """A request for one call, sometimes for two."""
    bound = r.choice(box)
    if r.chance(0.12) and (each := bound.request_each(r)):
        return each[0], each[1], [(bound, drawn) for drawn in each[2]]
    text, call, drawn = bound.request(r)
    if not r.chance(0.2 if r.test else 0.3):
        return text, [call], [(bound, drawn)]
    for _ in range(5):
        other = bound if r.chance(0.5) else r.choice(box)
        more, second, drawn2 = other.request(r)
        if second.arguments != call.arguments or second.name != call.name:
            joint = r.choice([" And: ", " Also: ", "\n", " Then: "])
            return text + joint + more, [call, second], [(bound, drawn), (other, drawn2)]
    return text, [call], [(bound, drawn)]


def no_tool_exchange(r: Source) -> tuple[str, Reply]:
    """Something that needs no tool although some are declared."""
    makers = [numbers.exchange, chat.talk, chat.about_cast, recall.copy, chat.story, chat.knowledge]
    return r.choices(makers, [4, 4, 1, 1, 0.5, 1])[0](r)


def missing(r: Source, box: list[Bound]) -> tuple[str, Reply] | None:
    """A request for a tool that is not declared. Its kind says nothing: known, natural and made-up tools are missed alike."""
    have = {word for b in box for name in b.family.names.split("|") for word in name.split("_")}
    family = r.choice([r.choice(KNOWN), natural_family(r), made_up_family(r)])
    if have & {word for name in family.names.split("|") for word in name.split("_")} or any(b.family.fixed for b in box):
        return None
    return bind(r, family).request(r)[0], Reply(NO_TOOL, "None of the tools fits.")


def dialogue(r: Source, turns: int, tools: int) -> Dialogue:
    """Several requests over one set of tools, whose order says nothing about which is asked for."""
    box = toolbox(r, tools)
    exchange: list[User | Reply] = []
    for i in range(turns):
        kind = r.random()
        if kind < 0.10:
            text, reply = no_tool_exchange(r)
            exchange += [User(text), reply]
            continue
        if kind < 0.125 and (gap := missing(r, box)):
            exchange += [User(gap[0]), gap[1]]
            continue
        text, calls, bound = ask_once(r, box)
        exchange += [User(text), Reply("", thought(calls), calls)]
        if i == turns - 1 and r.chance(0.2):
            break
        answers = [result_text(r, b, drawn) for b, drawn in bound]
        exchange += [User("", [a for a, _ in answers]), final([w for _, w in answers])]
    return Dialogue("tools", exchange, tools=[b.schema for b in box], system=system_text(r), weight=1.5)


WHICH = ["Which tool? {t}", "Which tool is for this? {t}", "Name the tool: {t}", "Tool for this: {t}", "What would you call? {t}",
         "Only name the tool: {t}", "Which tool would you call for this: {t}", "Do not call it, name it: {t}"]


def naming(r: Source, turns: int, tools: int, brief: bool, quoting: float) -> Dialogue:
    """Requests whose tool is only named; `brief` declarations have no parameters.

    Choosing is what is hard in a call, and the rest of the call takes ten times the tokens. A share `quoting` of the requests says
    what the declaration says: the way from a description to its name is found sooner when the description is easy to find.
    """
    box = toolbox(r, tools)
    exchange: list[User | Reply] = []
    for _ in range(turns):
        if r.chance(0.03) and (gap := missing(r, box)):
            text, reply = gap
        else:
            text, calls = quoted(r, box) if r.chance(quoting) else ask_once(r, box)[:2]
            reply = Reply(thought(calls), thought(calls))
        exchange += [User(r.choice(WHICH).format(t=text)), reply]
    schemas = [{**b.schema, "parameters": {"type": "object", "properties": {}}} if brief else b.schema for b in box]
    return Dialogue("naming", exchange, tools=schemas, system=system_text(r), weight=1.5)


def quoted(r: Source, box: list[Bound]) -> tuple[str, list[Call]]:
    """The first line of a tool's description, as a request for it."""
    bound = r.choice(box)
    return bound.schema["description"].split("\n")[0], [Call(bound.name, {})]


def case(r: Source, unseen: bool = False) -> Dialogue:
    """A test case: one request; the calls must match."""
    box = toolbox(r, r.randint(1, 5), unseen)
    text, calls, _ = ask_once(r, box)
    expected = [{"name": c.name, "arguments": c.arguments} for c in calls]
    return Dialogue("tools", [User(text), Reply("", thought(calls), calls)], tools=[b.schema for b in box],
                    system=r.choice(SYSTEMS), expect={"rule": "calls", "calls": expected})


def result_case(r: Source) -> Dialogue:
    """A test case: the call has been made, the reply must report the result."""
    box = toolbox(r, r.randint(1, 3))
    bound = r.choice(box)
    text, call, drawn = bound.request(r)
    result, words = result_text(r, bound, drawn)
    reply = final([words])
    return Dialogue("results", [User(text), Reply("", thought([call]), [call]), User("", [result]), reply],
                    tools=[b.schema for b in box], expect={"rule": "exact", "answer": reply.text})
