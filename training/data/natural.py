"""Tools that people ask for in plain words: a verb, a noun and arguments in the roles they usually play.

Where a made-up tool's request spells its parameters out, here "for Oslo on 2024-05-01" must be read as a place and a day, whatever
the declaration calls them.
"""

from dataclasses import dataclass

from data.base import Source, held_out
from data.toolbox import (
    CITY_VALUE, CODE_VALUE, PATH_VALUE, Family, Maker, Param, clock, date, decimal, email, enum, glob, mapping, number, numbers_list, plain,
    query, url, words_list,
)
from data.words import ADJECTIVES, NOUNS, VERBS, any_word, folder, made_up, person, phrase, plural


@dataclass
class Role:
    """What an argument is for: names of the parameter, its type, and how a request says it (`{}` the value, `<>` the parameter)."""

    names: str
    kind: str
    make: Maker
    said: str
    options: tuple[str, ...] = ()


def role_enum(names: str, said: str, *values: str) -> Role:
    """A choice that the declaration spells out."""
    return Role(names, "string", enum(*values), said, values)


NAME_VALUE, QUOTE_VALUE, FLAG_VALUE = plain(person), plain(phrase), lambda r: r.choice([(True, "true"), (False, "false")])
ROLES = [
    Role("city|location|place|town|where|destination|region", "string", CITY_VALUE, "in {} | near {} | for {} | around {} | to {}"),
    Role("origin|from|start|departure|source_city", "string", CITY_VALUE, "from {} | starting in {} | leaving {}"),
    Role("date|day|on|when|due|due_date|start_date", "string", plain(date), "on {} | for {} | by {} | dated {}"),
    Role("time|at|hour|start_time|clock", "string", plain(clock), "at {} | starting at {} | from {}"),
    Role("person|name|owner|user|customer|who|guest|assignee", "string", NAME_VALUE, "for {} | of {} | by {} | belonging to {} | with {}"),
    Role("to|recipient|receiver|target", "string", NAME_VALUE, "to {} | for {}"),
    Role("title|name|label|heading|summary|topic", "string", QUOTE_VALUE,
         'called "{}" | titled "{}" | named "{}" | with the title "{}" | : {} | "{}"'),
    Role("text|message|content|body|description|details", "string", QUOTE_VALUE,
         'saying "{}" | with the text "{}" | that says "{}" | : {} | with the message "{}" | "{}"'),
    Role("reason|comment|why|remark|explanation", "string", QUOTE_VALUE, 'because "{}" | with the reason "{}" | , reason: {}'),
    Role("query|q|search|keyword|term|what", "string", plain(query), 'for {} | about {} | matching "{}" | on {} | with "{}"'),
    Role("path|file|file_path|filename|source|input", "string", PATH_VALUE, "in {} | from {} | in the file {} | of {} | {}"),
    Role("output|out|target_file|save_as|destination", "string", PATH_VALUE, "to {} | into {} | and save it as {}"),
    Role("folder|directory|dir|root|workspace", "string", plain(folder), "in the folder {} | under {} | inside {} | in {}"),
    Role("pattern|glob|include|mask", "string", plain(glob), "matching {} | for {} files | with the pattern {}"),
    Role("id|code|number|reference|key|ref|identifier", "string", CODE_VALUE, "{} | number {} | with the id {} | with the code {} | : {}"),
    Role("id|number|index|no|row", "integer", number(1, 99999), "{} | number {} | #{} | with the id {}"),
    Role("people|guests|seats|persons|party_size", "integer", number(1, 20), "for {} people | for {} persons | with {} people"),
    Role("count|limit|max|top|n|max_results", "integer", number(1, 50), ", at most {} | limited to {} | , {} results | , only {}"),
    Role("quantity|amount|units|pieces", "integer", number(1, 99), ", {} of them | , {} pieces | , quantity {} | {} times"),
    Role("minutes|duration|length|mins", "integer", number(1, 240), "for {} minutes | lasting {} minutes | , {} minutes long"),
    Role("days|nights|weeks|period", "integer", number(1, 30), "for {} <> | over {} <> | for the next {} <>"),
    Role("percent|level|volume|strength|opacity", "integer", number(0, 100), "to {} percent | to {}% | at {} percent"),
    Role("price|max_price|budget|cost|limit", "number", plain(decimal), "under {} dollars | for {} dollars | up to {} | below {}"),
    Role("value|factor|rate|score|weight", "number", plain(decimal), "to {} | of {} | with {} | by {}"),
    Role("tags|labels|keywords|categories|topics", "array", words_list, "with the <> {} | with <> {} | , <>: {} | tagged {}"),
    Role("items|names|parts|entries|elements|products", "array", words_list, "with {} | containing {} | : {} | of {} | with the <> {}"),
    Role("numbers|values|ids|rows|points|data", "array", numbers_list, "for {} | with the <> {} | of {} | : {}"),
    Role("email|to|address|mail|account", "string", plain(email), "to {} | for {} | of {} | with the address {}"),
    Role("url|link|page|website|uri", "string", plain(url), "from {} | at {} | on {} | of {}"),
    Role("options|settings|fields|filter|config|properties", "object", mapping, "with {} | where {} | with the <> {} | using {} | , <> {}"),
    Role("force|all|recursive|urgent|public|verbose|dry_run|notify", "boolean", FLAG_VALUE, "with <> {} | , <> {} | , <>={} | with <> set to {}"),
    role_enum("color|colour|tint", "in {} | that is {} | , <> {}", "red", "blue", "green", "yellow", "black", "white"),
    role_enum("language|lang|locale", "in {} | into {} | to {}", "French", "German", "Spanish", "Italian", "Dutch", "Greek", "Polish"),
    role_enum("priority|severity|importance|urgency", "with {} <> | with <> {} | , <> {}", "low", "medium", "high", "urgent"),
    role_enum("format|type|kind|as", "as {} | in {} <> | in the <> {}", "json", "csv", "pdf", "text", "html", "xml"),
    role_enum("size|width|scale", "in <> {} | , <> {} | , {}", "small", "medium", "large"),
    role_enum("room|where|area|zone", "in the {} | for the {}", "kitchen", "bedroom", "bathroom", "hall", "garage", "garden", "office"),
    role_enum("status|state|mode", "with <> {} | to {} | that are {} | , <> {}", "open", "closed", "active", "pending", "done"),
    role_enum("unit|currency|measure", "in {}", "celsius", "euros", "dollars", "meters", "miles", "kilograms", "liters"),
]

# Verbs that ask for one thing; a declaration, its description and a request each take one of a group.
GROUPS = [group.split() for group in (
    "get find fetch look_up search query retrieve", "get check show read view inspect", "list show get enumerate", "create add make new register open",
    "delete remove erase drop clear", "update set change edit modify adjust", "send post submit deliver", "book reserve order schedule arrange",
    "start run launch begin trigger", "stop cancel end close abort", "copy duplicate clone", "move transfer relocate", "convert turn_into transform",
    "count measure tally", "play start resume", "save store keep write", "buy order purchase", "describe explain summarize", "print export render",
)]
QUESTIONS = ["What is the {n}", "What's the {n}", "Where is the {n}", "Show me the {n}", "Tell me the {n}", "How is the {n}", "Is there a {n}",
             "Do you know the {n}", "I need the {n}", "Can you see the {n}", "Which {n} is there", "{n}", "Give me the {n}", "I am looking for a {n}"]
REQUESTS = ["{v} a {n}", "{v} the {n}", "{v} the {n}", "{v} {s}", "{v} my {n}", "please {v} the {n}", "please {v} a {n}", "can you {v} a {n}",
            "can you {v} the {n}", "I want to {v} a {n}", "I need you to {v} the {n}", "{v} {n}", "could you {v} the {n}", "I would like to {v} a {n}"]
NAMES = ["{v}_{n}", "{v}_{n}", "{v}_{n}", "{n}_{v}", "{n}", "{v}_{s}", "{n}_tool", "{n}_service", "do_{v}_{n}"]
ABOUTS = ["{V} a {n}.", "{V} the {n}.", "{V} {s}.", "{T} a {n}.", "{T} the {n}.", "Tool to {v} a {n}.", "Use this to {v} {s}.", "{V} a {n} for the user."]


def third(verb: str) -> str:
    """The verb with its ending, `look up` -> `looks up`."""
    head, *tail = verb.split()
    return " ".join([head + ("es" if head.endswith(("sh", "ch", "x", "s")) else "s"), *tail])


def words(r: Source) -> tuple[list[str], str]:
    """(verbs of one meaning, noun) on this side of the split."""
    while True:
        group = r.choice(GROUPS) if r.chance(0.75) else [r.choice(VERBS) if r.chance(0.6) else any_word(r)]
        noun = r.choice(NOUNS) if r.chance(0.55) else any_word(r)
        if held_out(("tool", group[0], noun)) == r.test:
            break
    if r.chance(0.15):
        noun = f"{r.choice(ADJECTIVES) if r.chance(0.5) else any_word(r)}_{noun}"
    return group, noun


def asked(r: Source, verbs: list[str], noun: str) -> str:
    """The head of a request, without its arguments."""
    said, verb = noun.replace("_", " "), r.choice(verbs).replace("_", " ")
    looks = verbs[0] in ("get", "list")
    text = r.choice(QUESTIONS if looks and r.chance(0.5) else REQUESTS).format(v=verb, n=said, s=plural(said))
    return text[0].upper() + text[1:] if r.chance(0.85) else text


def drawn_roles(r: Source) -> list[tuple[Role, str]]:
    """One to three roles, each with the parameter's name."""
    found: list[tuple[Role, str]] = []
    for role in r.sample(ROLES, r.choice([1, 1, 2, 2, 3])):
        name = r.choice(role.names.split("|"))
        if all(name != other for _, other in found):
            found.append((role, name))
    return found


def natural_family(r: Source) -> Family:
    """A tool with a purpose, and several ways to ask for it."""
    verbs, noun = words(r)
    said = noun.replace("_", " ")
    verb = r.choice(verbs)
    forms = {"v": verb, "n": noun, "s": plural(noun)}
    names = "|".join(dict.fromkeys(form.format(**forms) for form in r.sample(NAMES, 2)))
    spoken = r.choice(verbs).replace("_", " ")
    forms = {"v": spoken, "V": spoken.capitalize(), "T": third(spoken).capitalize(), "n": said, "s": plural(said)}
    about = "|".join(form.format(**forms) for form in r.sample(ABOUTS, 2))
    params = []
    for i, (role, name) in enumerate(drawn_roles(r)):
        shown = name.replace("_", " ")
        told = r.choice(["", "", shown.capitalize(), f"The {shown}", f"{shown.capitalize()} of the {said}", f"Which {shown} to use",
                         f"{role.names.split('|')[0].replace('_', ' ').capitalize()}"])
        params.append((Param(name, role.kind, role.make, told + "|", i == 0 or r.chance(0.6), role.options), role))
    asks = [one_ask(r, verbs, noun, params) for _ in range(3)]
    return Family(names, about, [p for p, _ in params], "|".join(asks))


def one_ask(r: Source, verbs: list[str], noun: str, params: list[tuple[Param, Role]]) -> str:
    """A request that gives every required argument and some of the others."""
    text = asked(r, verbs, noun)
    chosen = [(p, role) for p, role in params if p.required or r.chance(0.5)]
    if len(chosen) > 1 and r.chance(0.3):
        chosen.reverse()
    for param, role in chosen:
        ways = [part.strip() for part in role.said.split("|")]
        # A colon opens what runs to the end.
        said = r.choice(ways if param is chosen[-1][0] else [way for way in ways if way[0] != ":"])
        said = said.replace("<>", param.names.replace("_", " ")).replace("{}", "{" + param.names + "}")
        text += said if said[0] in ",:" else " " + said
    if text.split()[0] in ("What", "What's", "Where", "How", "Is", "Do", "Can", "can", "could", "Could", "Which"):
        return text + r.choice(["?", "?", "?", ""])
    return text + r.choice([".", ".", "", ", please.", "!"])
