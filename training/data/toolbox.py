"""Tool declarations with the requests that need them: everyday families, agent-style ones, and made-up ones.

A family yields a `Bound`: one concrete declaration (name, description and schema drawn from variants) that can
produce requests together with the arguments they imply. Some families exist only in the test split.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Callable

from data.base import Call, Source, dumps, held_out
from data.words import (
    ADJECTIVES, FILLER, NOUNS, STEMS, THINGS, VERBS, any_word, city, folder, lines, made_up, path, person, phrase, plural,
)

Maker = Callable[[Source], tuple[Any, str]]


def plain(make: Callable[[Source], Any]) -> Maker:
    """A value that is written in the request as it is."""

    def draw(r: Source) -> tuple[Any, str]:
        value = make(r)
        return value, str(value)

    return draw


def words_list(r: Source) -> tuple[list[str], str]:
    """An array of words, listed in prose or as JSON."""
    pool = r.choice([THINGS, ADJECTIVES, STEMS, NOUNS])
    items = [r.choice(pool) if r.chance(0.7) else made_up(r) for _ in range(r.randint(2, 4))]
    items = list(dict.fromkeys(items))
    if len(items) > 1 and r.chance(0.6):
        return items, ", ".join(items[:-1]) + " and " + items[-1]
    if r.chance(0.5):
        return items, ", ".join(items)
    return items, "[" + ", ".join(f'"{i}"' for i in items) + "]"


def mapping(r: Source) -> tuple[dict[str, Any], str]:
    """A small JSON object, written as JSON in the request too."""
    keys = r.sample(FIELDS, r.randint(1, 3))
    value = {k: r.choice([r.randint(0, 999), made_up(r), r.choice(THINGS), r.choice([True, False])]) for k in keys}
    return value, dumps(value)


def written(r: Source) -> tuple[str, str]:
    """Content of a file: a phrase or several lines."""
    text = lines(r) if r.chance(0.35) else phrase(r)
    return text, text


def numbers_list(r: Source) -> tuple[list[int], str]:
    """An array of small integers."""
    items = [r.randint(0, 99) for _ in range(r.randint(2, 5))]
    if r.chance(0.5):
        return items, ", ".join(map(str, items))
    return items, "[" + ", ".join(map(str, items)) + "]"


def code(r: Source) -> str:
    """An identifier such as A-1042."""
    return r.choice(["{}{}", "{}-{}", "{}_{}"]).format(
        r.choice([made_up(r), made_up(r).upper(), r.choice("ABCDEFGHKMPRSTX"), r.choice(STEMS)]), r.randint(1, 9999))


def date(r: Source) -> str:
    return f"{r.randint(2019, 2029)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"


def clock(r: Source) -> str:
    return f"{r.randint(0, 23):02d}:{r.choice([0, 5, 10, 15, 20, 30, 40, 45, 50]):02d}"


def email(r: Source) -> str:
    return f"{person(r).lower()}@{r.choice(['example', 'mail', made_up(r)])}.{r.choice(['com', 'org', 'net', 'io'])}"


def url(r: Source) -> str:
    host = r.choice(["example", "docs", made_up(r)]) + r.choice([".com", ".org", ".io", ".dev"])
    tail = "/" + "/".join(r.choice(STEMS) for _ in range(r.randint(1, 2))) if r.chance(0.6) else ""
    return f"https://{host}{tail}"


def command(r: Source) -> str:
    """A shell command."""
    return r.choice([
        "ls -la", "git status", "git diff", "cargo test", "cargo build --release", "npm test", "npm run build", "make", "make test",
        "pytest -q", "python main.py", "pwd", "whoami", "df -h", "uname -a", "git log --oneline", f"cat {path(r)}", f"ls {folder(r)}",
        f"python {path(r)}", f"wc -l {path(r)}", f"mkdir -p {folder(r)}", f"head -n {r.randint(1, 50)} {path(r)}", f"rm {path(r)}",
        f"grep -rn {made_up(r)} {folder(r)}", f"git checkout -b {made_up(r)}", f"echo {made_up(r)}", f"cp {path(r)} {path(r)}",
        f"cargo test -p {made_up(r)}", f"git commit -m \"{r.choice(ADJECTIVES)} {r.choice(STEMS)}\"", f"touch {path(r)}",
        f"find {folder(r)} -name '*.{r.choice(['py', 'rs', 'md'])}'", f"docker run {made_up(r)}", f"pip install {made_up(r)}"])


def pattern(r: Source) -> str:
    return r.choice([made_up(r), r.choice(STEMS).upper(), f"fn {r.choice(STEMS)}", f"def {r.choice(STEMS)}", "TODO",
                     f"{r.choice(STEMS)}_{r.choice(STEMS)}", f"class {made_up(r).capitalize()}", f"{r.choice(NOUNS)}.*{r.choice(NOUNS)}"])


def glob(r: Source) -> str:
    return r.choice(["*.{}", "**/*.{}", "src/**/*.{}", "tests/*.{}"]).format(r.choice(["py", "rs", "js", "md", "toml", "json"]))


def query(r: Source) -> str:
    return r.choice([f"{r.choice(ADJECTIVES)} {r.choice(THINGS)}", f"{r.choice(NOUNS)} {r.choice(NOUNS)}", made_up(r),
                     f"best {r.choice(THINGS)} in {city(r)}", f"how to {r.choice(VERBS)} a {r.choice(NOUNS)}", phrase(r)])


def enum(*values: str) -> Maker:
    return plain(lambda r: r.choice(values))


def number(low: int, high: int) -> Maker:
    return plain(lambda r: r.randint(low, high))


def decimal(r: Source) -> float:
    return round(r.uniform(0.1, 99), r.choice([1, 2]))


@dataclass
class Param:
    """One parameter: name and description variants separated by '|', JSON type, and how values are drawn."""

    names: str
    kind: str
    make: Maker
    about: str = ""
    required: bool = True
    options: tuple[str, ...] = ()


@dataclass
class Family:
    """Variants of one tool. Requests name parameters by the first of their names, in braces."""

    names: str
    about: str
    params: list[Param]
    asks: str
    result: Callable[[Source, dict], Any] | None = None
    fixed: bool = False  # Names as they are, no change of style.


@dataclass
class Bound:
    """A family with its variants drawn: the declaration in a prompt."""

    family: Family
    name: str
    keys: dict[str, str] = field(default_factory=dict)
    schema: dict = field(default_factory=dict)

    def request(self, r: Source) -> tuple[str, Call, dict]:
        """Request text, the call it needs, and the drawn values by first name."""
        ask = r.choice(split(self.family.asks))
        drawn: dict[str, tuple[Any, str]] = {p.names.split("|")[0]: p.make(r) for p in self.family.params}
        named = set(re.findall(r"\{(\w+)\}", ask))
        if "{rest}" in ask:
            optional = [p.names.split("|")[0] for p in self.family.params if not p.required]
            chosen = [k for k in optional if k not in named and r.chance(0.4)]
            joint = "".join(r.choice([", {k} {v}", " with {k} {v}", ", {k}={v}", ", {k}: {v}"]).format(
                k=self.keys[k], v=drawn[k][1]) for k in chosen)
            ask, named = ask.replace("{rest}", joint), named | set(chosen)
        text = ask.replace("@", "\n").format(**{k: v[1] for k, v in drawn.items()})
        arguments = {self.keys[k]: v[0] for k, v in drawn.items() if k in named}
        return text, Call(self.name, arguments), {k: v[0] for k, v in drawn.items() if k in named}


    def request_each(self, r: Source) -> tuple[str, list[Call], list[dict]] | None:
        """A request that names two or three values for one string parameter, and so needs as many calls."""
        by_name = {p.names.split("|")[0]: p for p in self.family.params}
        fitting = []
        for ask in split(self.family.asks):
            slots = re.findall(r"\{(\w+)\}", ask)
            if len(slots) == 1 and slots[0] != "rest" and by_name[slots[0]].make in SHORT_VALUES and '"' not in ask:
                fitting.append((ask, slots[0]))
        if not fitting:
            return None
        ask, slot = r.choice(fitting)
        values = list(dict.fromkeys(by_name[slot].make(r)[0] for _ in range(r.choice([2, 2, 3]))))
        if len(values) < 2:
            return None
        joint = ", ".join(values[:-1]) + " and " + values[-1]
        calls = [Call(self.name, {self.keys[slot]: v}) for v in values]
        return ask.format(**{slot: joint}), calls, [{slot: v} for v in values]


def split(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("|")]


CITY_VALUE, PATH_VALUE, CODE_VALUE = plain(city), plain(path), plain(code)
SHORT_VALUES = (CITY_VALUE, PATH_VALUE, CODE_VALUE)
CITY = Param("city|location|place|town", "string", CITY_VALUE, "City name|The city, for example Paris|Location to look up|")
PATH = Param("path|file_path|file|filename|filepath", "string", PATH_VALUE, "Path of the file|The file path|Absolute or relative path|")
TEXT = Param("text|message|body|content|msg", "string", plain(phrase), "The text|Text to send|Message body|What to say|")

FAMILIES = [
    Family("get_weather|weather|current_weather|fetch_weather|weather_lookup", "Get the current weather for a city.|Weather|Returns the "
           "weather conditions at a location.|Get current temperature for a given location.", [CITY, Param(
               "days|num_days|forecast_days", "integer", number(1, 14), "Number of days|How many days ahead|", False), Param(
               "unit|units", "string", enum("celsius", "fahrenheit"), "Temperature unit|", False, ("celsius", "fahrenheit"))],
           "What is the weather in {city}? | What's the weather like in {city}? | weather in {city} | How is the weather in {city} "
           "today? | Is it raining in {city}? | Tell me the weather in {city}. | Give me the {days} day forecast for {city}. | "
           "What will the weather be in {city} for the next {days} days? | Weather in {city} in {unit}, please. | "
           "How warm is it in {city}? | What's the temperature in {city} in {unit}? | Check the weather for {city}.",
           lambda r, a: r.choice([{"temperature": r.randint(-9, 39), "condition": r.choice(["sunny", "rainy", "cloudy", "windy"])},
                                  f"{r.randint(-9, 39)} degrees, {r.choice(['sunny', 'rainy', 'cloudy', 'snow'])}"])),
    Family("get_time|current_time|time_in|world_clock", "Get the current time in a city.|Local time of a place.", [CITY],
           "What time is it in {city}? | Current time in {city}? | Tell me the time in {city}. | What's the local time in {city}?",
           lambda r, a: clock(r)),
    Family("read_file|read|open_file|view_file|cat_file|ReadFile", "Read a file.|Read the contents of a file.|Returns a file's text.",
           [PATH], "Read {path}. | Read the file {path}. | Show me {path}. | What is in {path}? | Open {path} | Print the contents of "
           "{path}. | Please read {path}. | cat {path} | Can you show me the file {path}?",
           lambda r, a: r.choice([phrase(r), f"{r.choice(STEMS)} = {r.randint(1, 99)}", r.choice(FILLER)])),
    Family("write_file|write|save_file|create_file|WriteFile", "Write text to a file.|Create or overwrite a file.|Save content to disk.",
           [PATH, Param("content|text|data|contents", "string", written, "What to write|File content|")],
           "Write \"{content}\" to {path}. | Create {path} with the content: {content} | Save \"{content}\" in {path}. | Write {path} "
           "with the text: {content} | Put \"{content}\" into the file {path}. | Make a file {path} containing: {content} | "
           "Create {path} with this content:@{content} | Write to {path}:@{content}",
           lambda r, a: r.choice(["ok", "written", {"bytes": r.randint(5, 99)}])),
    Family("list_files|list_dir|ls|list_directory|dir", "List files in a folder.|List the entries of a directory.", [Param(
        "path|folder|directory|dir", "string", plain(folder), "Folder|Directory to list|"), Param(
            "recursive|all", "boolean", lambda r: (True, "true"), "Whether to descend|", False)],
           "List the files in {path}. | What files are in {path}? | Show the folder {path}. | ls {path} | List {path}. | "
           "What is inside the directory {path}?", lambda r, a: "\n".join(path(r).split("/")[-1] for _ in range(r.randint(1, 4)))),
    Family("search_files|grep|search_code|find_text|code_search", "Search for a pattern in files.|Find text in the code base.|Search file "
           "contents.", [Param("pattern|query|regex|text", "string", plain(pattern), "What to look for|Search pattern|"), Param(
               "path|folder|directory", "string", plain(folder), "Where to search|", False)],
           "Search for {pattern} in {path}. | Find \"{pattern}\" in {path}. | grep {pattern} {path} | Search the code for {pattern}. | "
           "Where is \"{pattern}\" used? | Look for {pattern} in {path}. | Find all uses of {pattern}.",
           lambda r, a: r.choice([f"{path(r)}:{r.randint(1, 300)}", "no matches", f"{path(r)}:{r.randint(1, 99)}: {phrase(r)}"])),
    Family("run_command|bash|shell|execute|exec_command|run|terminal", "Run a shell command.|Execute a command and return its output.|Runs "
           "bash commands.", [Param("command|cmd|script", "string", plain(command), "The command|Command line to run|")],
           "Run {command} | Run `{command}`. | Execute {command} | Please run the command {command} | Run this: {command} | "
           "Can you run `{command}` for me? | execute `{command}`",
           lambda r, a: r.choice(["ok", f"{r.randint(1, 99)} passed", phrase(r), f"error: {phrase(r)}"])),
    Family("web_search|search|search_web|google|internet_search", "Search the web.|Search the internet for information.", [Param(
        "query|q|search_query|terms", "string", plain(query), "The search query|Search terms|"), Param(
            "limit|max_results|count|top_k", "integer", number(1, 20), "Maximum number of results|", False)],
           "Search the web for {query}. | Search for {query}. | Look up {query} online. | Find {limit} results for {query}. | google "
           "{query} | Search the internet for \"{query}\". | Do a web search for {query}.", lambda r, a: f"{phrase(r)} ({url(r)})"),
    Family("send_message|message|text_person|send_text|notify", "Send a message to a person.|Send a text message.|Notifies a contact.",
           [Param("to|recipient|person|name|contact", "string", plain(person), "Who receives it|Recipient name|"), TEXT],
           "Send \"{text}\" to {to}. | Tell {to}: {text} | Send {to} the message: {text} | Message {to}: {text} | Text {to} \"{text}\" | "
           "Let {to} know: {text} | Send a message to {to} saying \"{text}\".", lambda r, a: r.choice(["sent", "ok", {"id": code(r)}])),
    Family("send_email|email|mail|compose_email", "Send an email.|Sends an email to an address.", [Param(
        "to|address|recipient|to_address", "string", plain(email), "Email address|"), Param(
            "subject|title|topic", "string", plain(phrase), "Subject line|"), Param(
                "body|text|content|message", "string", plain(phrase), "Email text|", False)],
           "Email {to} with the subject \"{subject}\". | Send an email to {to} with subject \"{subject}\" and body \"{body}\". | Write to "
           "{to}, subject: {subject} | Mail {to} about \"{subject}\" saying \"{body}\".", lambda r, a: r.choice(["sent", "ok"])),
    Family("create_event|add_event|schedule_meeting|calendar_add|new_event", "Create a calendar event.|Add an event to the calendar.",
           [Param("title|name|summary|event", "string", plain(phrase), "Event title|"), Param(
               "date|day|on", "string", plain(date), "Date as YYYY-MM-DD|"), Param(
                   "time|start|at|start_time", "string", plain(clock), "Start time HH:MM|", False)],
           "Create an event \"{title}\" on {date}. | Schedule \"{title}\" for {date} at {time}. | Put \"{title}\" in my calendar on {date} "
           "at {time}. | Add \"{title}\" on {date} to the calendar.", lambda r, a: r.choice(["created", {"event_id": code(r)}])),
    Family("set_reminder|remind|create_reminder|reminder", "Set a reminder.|Remind the user of something later.", [Param(
        "text|what|task|note", "string", plain(phrase), "What to remember|"), Param(
            "minutes|in_minutes|delay", "integer", number(1, 180), "Minutes from now|")],
           "Remind me in {minutes} minutes: {text} | Set a reminder in {minutes} minutes: {text} | In {minutes} minutes remind me "
           "\"{text}\".", lambda r, a: "ok"),
    Family("calculator|calculate|compute|math|evaluate", "Evaluate an arithmetic expression.|Calculates the value of an expression.",
           [Param("expression|expr|formula|input", "string", plain(lambda r: f"{r.randint(100, 9999)} {r.choice('+-*/')} "
                                                                             f"{r.randint(100, 9999)}"), "Expression|")],
           "What is {expression}? | Calculate {expression}. | Compute {expression} | {expression} = ? | Use the calculator for "
           "{expression}.", lambda r, a: str(r.randint(10, 99999))),
    Family("translate|translate_text|translator", "Translate text into another language.|Translates text.", [Param(
        "text|input|source_text", "string", plain(phrase), "Text to translate|"), Param(
            "language|target|target_language|to", "string", enum("French", "German", "Spanish", "Italian", "Dutch", "Polish", "Greek"),
            "Target language|")],
           "Translate \"{text}\" to {language}. | Translate into {language}: {text} | How do you say \"{text}\" in {language}? | "
           "What is \"{text}\" in {language}?", lambda r, a: " ".join(made_up(r) for _ in range(r.randint(1, 4)))),
    Family("get_stock_price|stock_price|quote|stock", "Get the price of a stock.|Latest share price for a ticker symbol.", [Param(
        "symbol|ticker|stock", "string", plain(lambda r: "".join(r.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(r.randint(3, 4)))),
        "Ticker symbol|")],
           "What is the price of {symbol}? | Stock price of {symbol}? | How much is {symbol} trading at? | Get the quote for {symbol}.",
           lambda r, a: {"price": decimal(r)}),
    Family("convert_currency|currency|exchange", "Convert money between currencies.|Currency conversion.", [Param(
        "amount|value|sum", "number", number(1, 999), "Amount|"), Param(
            "source|from|from_currency", "string", enum("USD", "EUR", "GBP", "JPY", "CHF"), "Currency code|"), Param(
                "target|to|to_currency", "string", enum("SEK", "PLN", "INR", "CAD", "AUD"), "Currency code|")],
           "Convert {amount} {source} to {target}. | How much is {amount} {source} in {target}? | What are {amount} {source} in {target}? | "
           "{amount} {source} to {target}", lambda r, a: {"result": decimal(r)}),
    Family("set_light|control_light|light|lamp", "Control a light.|Turn a lamp on or off.", [Param(
        "room|where|area", "string", enum("kitchen", "bedroom", "bathroom", "hall", "garage", "garden", "office"), "Which room|"), Param(
            "brightness|level|percent", "integer", number(0, 100), "Brightness in percent|")],
           "Set the {room} light to {brightness}. | Dim the {room} to {brightness} percent. | Light in the {room} at {brightness}%, please. | "
           "Set the lamp in the {room} to {brightness} percent.", lambda r, a: "ok"),
    Family("play_music|play|music|start_playback", "Play music.|Play a song or an artist.", [Param(
        "query|song|track|what", "string", plain(lambda r: r.choice([phrase(r), person(r), made_up(r)])), "What to play|"), Param(
            "shuffle|random", "boolean", lambda r: (True, "true"), "Shuffle|", False)],
           "Play {query}. | Play \"{query}\". | Put on {query}. | I want to hear {query}. | Please play {query}.", lambda r, a: "playing"),
    Family("set_timer|timer|start_timer|countdown", "Start a timer.|Set a countdown timer.", [Param(
        "minutes|duration|mins", "integer", number(1, 120), "Duration in minutes|"), Param(
            "label|name|title", "string", plain(lambda r: r.choice(THINGS)), "Timer label|", False)],
           "Set a timer for {minutes} minutes. | Start a {minutes} minute timer. | Timer for {minutes} minutes called {label}. | "
           "{minutes} minute timer", lambda r, a: "started"),
    Family("query_database|sql|run_query|db_query", "Run an SQL query.|Query the database.", [Param(
        "query|sql|statement", "string", plain(lambda r: f"SELECT {r.choice(['*', 'id', 'name'])} FROM {r.choice(NOUNS)}s" + r.choice(
            ["", f" WHERE id = {r.randint(1, 999)}", f" LIMIT {r.randint(1, 50)}"])), "SQL text|")],
           "Run the query {query} | Execute this SQL: {query} | Query the database: {query} | Run `{query}`.",
           lambda r, a: r.choice([{"rows": r.randint(0, 99)}, phrase(r)])),
    Family("fetch_url|http_get|web_fetch|get_page|browse", "Fetch a web page.|Download a URL.|HTTP GET request.", [Param(
        "url|link|address|uri", "string", plain(url), "The URL|")],
           "Fetch {url} | Open {url} | Get the page {url} | What does {url} say? | Download {url}. | Read the page at {url}",
           lambda r, a: phrase(r)),
    Family("delete_file|remove_file|rm|unlink", "Delete a file.|Remove a file from disk.", [PATH],
           "Delete {path}. | Remove the file {path}. | rm {path} | Please delete {path}.", lambda r, a: "deleted"),
    Family("move_file|rename_file|mv|rename", "Move or rename a file.|Renames a file.", [Param(
        "source|from|src|old_path", "string", plain(path), "Old path|"), Param(
            "destination|to|dst|new_path", "string", plain(path), "New path|")],
           "Move {source} to {destination}. | Rename {source} to {destination}. | mv {source} {destination}", lambda r, a: "ok"),
    Family("create_issue|open_issue|new_ticket|report_bug", "Create an issue in the tracker.|Opens a ticket.", [Param(
        "title|summary|name", "string", plain(phrase), "Title|"), Param(
            "labels|tags", "array", words_list, "Labels|", False), Param(
                "priority|severity", "string", enum("low", "medium", "high"), "Priority|", False, ("low", "medium", "high"))],
           "Open an issue: {title} | Create an issue titled \"{title}\" with the labels {labels}. | File a {priority} priority bug: "
           "{title} | New ticket \"{title}\", labels {labels}, priority {priority}.", lambda r, a: {"issue": r.randint(1, 999)}),
    Family("add_tags|tag|set_tags|label_item", "Add tags to an item.|Tag something.", [Param(
        "item|id|name|target", "string", plain(code), "Item id|"), Param("tags|labels|keywords", "array", words_list, "List of tags|")],
           "Tag {item} with {tags}. | Add the tags {tags} to {item}. | Label {item}: {tags}", lambda r, a: "ok"),
    Family("sum_numbers|add_numbers|total|sum", "Add up a list of numbers.|Returns the sum of numbers.", [Param(
        "numbers|values|items|list", "array", numbers_list, "Numbers to add|")],
           "Add up {numbers} with the tool. | Sum the numbers {numbers}. | Total of {numbers}? | Use the tool to sum {numbers}.",
           lambda r, a: str(r.randint(1, 400))),
    Family("get_user|lookup_user|find_user|user_info", "Look up a user.|Get user details by id.", [Param(
        "user_id|id|uid|number", "integer", number(1, 99999), "User id|")],
           "Look up user {user_id}. | Who is user {user_id}? | Get the details of user {user_id}. | Show user number {user_id}.",
           lambda r, a: {"name": person(r), "city": city(r)}),
    Family("book_flight|flight|reserve_flight", "Book a flight.|Reserve a plane ticket.", [Param(
        "origin|from|from_city|departure", "string", plain(city), "From|"), Param(
            "destination|to|to_city|arrival", "string", plain(city), "To|"), Param(
                "date|day|when", "string", plain(date), "Date|", False)],
           "Book a flight from {origin} to {destination}. | Book me a flight from {origin} to {destination} on {date}. | Fly me from "
           "{origin} to {destination}, {date}.", lambda r, a: {"booking": code(r)}),
    Family("get_order|order_status|track_order|lookup_order", "Get the status of an order.|Track an order.", [Param(
        "order_id|id|order|number", "string", CODE_VALUE, "Order number|")],
           "Where is my order {order_id}? | What is the status of order {order_id}? | Track order {order_id}. | Check order {order_id}.",
           lambda r, a: r.choice(["shipped", "delivered", {"status": "on its way", "days": r.randint(1, 9)}])),
]

AGENT = [
    Family("Read|read|read_file", "Reads a file from the local filesystem. You can access any file directly by using this tool.|Read a file.",
           [Param("file_path|path", "string", PATH_VALUE, "The absolute path to the file to read|Path|"), Param(
               "offset|start_line", "number", number(1, 500), "The line number to start reading from|", False), Param(
                   "limit|max_lines", "number", number(1, 500), "The number of lines to read|", False)],
           "Read {file_path}. | Show me {file_path}{rest}. | What does {file_path} contain? | Read {limit} lines of {file_path}. | Read "
           "{file_path} from line {offset}. | Look at {file_path}.", lambda r, a: f"{r.choice(STEMS)} = {r.randint(1, 99)}", True),
    Family("Bash|bash|shell|exec", "Executes a given bash command in a persistent shell session.|Run a command.|Execute shell commands.",
           [Param("command|cmd", "string", plain(command), "The command to execute|"), Param(
               "timeout|timeout_ms", "number", number(1, 600), "Optional timeout|", False)],
           "Run {command} | Run `{command}` | Execute `{command}` with a timeout of {timeout}. | Please run: {command}",
           lambda r, a: r.choice(["ok", f"{r.randint(1, 99)} passed", phrase(r)]), True),
    Family("Grep|grep|search", "A powerful search tool built on ripgrep.|Search file contents with a regular expression.", [Param(
        "pattern|regex", "string", plain(pattern), "The regular expression pattern to search for in file contents|"), Param(
            "path|dir", "string", plain(folder), "File or directory to search in|", False), Param(
                "glob|include", "string", plain(glob), "Glob pattern to filter files|", False)],
           "Find {pattern} in {path}. | Search for {pattern}. | grep for \"{pattern}\" in {glob} files. | Where does {pattern} occur in "
           "{path}?", lambda r, a: f"{path(r)}:{r.randint(1, 99)}", True),
    Family("Glob|glob|find_files", "Fast file pattern matching tool that works with any codebase size.|Find files by name pattern.", [Param(
        "pattern|glob", "string", plain(glob), "The glob pattern to match files against|"), Param(
            "path|dir", "string", plain(folder), "The directory to search in|", False)],
           "Find files matching {pattern}. | Which files match {pattern} in {path}? | Glob {pattern} | List all {pattern} files.",
           lambda r, a: "\n".join(path(r) for _ in range(r.randint(1, 3))), True),
    Family("Write|write|write_file", "Writes a file to the local filesystem.|Create a file.", [Param(
        "file_path|path", "string", plain(path), "The absolute path to the file to write|"), Param(
            "content|text", "string", written, "The content to write to the file|")],
           "Write this to {file_path}:@{content} | Write \"{content}\" to {file_path}. | Create {file_path} with: {content} | Make {file_path} say \"{content}\".",
           lambda r, a: "ok", True),
    Family("WebFetch|web_fetch|fetch", "Fetches content from a specified URL.|Fetch a page.", [Param(
        "url|link", "string", plain(url), "The URL to fetch content from|"), Param(
            "prompt|question", "string", plain(phrase), "The prompt to run on the fetched content|", False)],
           "Fetch {url} | Open {url} and tell me: {prompt} | Get {url}", lambda r, a: phrase(r), True),
    Family("TodoWrite|update_plan|set_todos", "Create and manage a structured task list.|Update the plan.", [Param(
        "todos|plan|items", "array", words_list, "The updated todo list|")],
           "Plan these steps: {todos} | Set the todo list to {todos}. | Make a todo list with {todos}.", lambda r, a: "ok", True),
    Family("list_dir|LS|ls", "Lists files and directories in a given path.|List a folder.", [Param(
        "path|dir_path", "string", plain(folder), "The absolute path to the directory to list|")],
           "List {path}. | What is in {path}? | Show the files in {path}.", lambda r, a: path(r), True),
]

HELD_OUT_FAMILIES = [
    Family("find_restaurant|restaurant_search|restaurants", "Find restaurants in a city.|Restaurant search.", [CITY, Param(
        "cuisine|food|kind", "string", enum("Thai", "Greek", "Mexican", "Korean", "Turkish"), "Kind of food|", False)],
           "Find a restaurant in {city}. | Find a {cuisine} restaurant in {city}. | Where can I eat {cuisine} food in {city}?",
           lambda r, a: person(r) + "'s Kitchen"),
    Family("set_thermostat|thermostat|heating", "Set the temperature of a room.|Control the heating.", [Param(
        "degrees|temperature|target", "integer", number(12, 28), "Degrees|"), Param(
            "room|zone", "string", enum("kitchen", "bedroom", "attic", "cellar"), "Room|", False)],
           "Set the thermostat to {degrees}. | Heat the {room} to {degrees} degrees. | Make it {degrees} degrees in the {room}.",
           lambda r, a: "ok"),
    Family("create_note|new_note|add_note|save_note", "Create a note.|Save a note for later.", [Param(
        "title|name|heading", "string", plain(phrase), "Title|"), Param("tags|labels", "array", words_list, "Tags|", False)],
           "Create a note called \"{title}\". | Make a note \"{title}\" with the tags {tags}. | Save a note: {title}",
           lambda r, a: {"note": r.randint(1, 99)}),
    Family("get_exchange_rate|fx_rate|rate", "Get the exchange rate between two currencies.", [Param(
        "base|from", "string", enum("USD", "EUR", "GBP"), "Currency|"), Param("quote|to", "string", enum("SEK", "PLN", "INR"), "Currency|")],
           "What is the exchange rate from {base} to {quote}? | Rate of {base} to {quote}?", lambda r, a: {"rate": decimal(r)}),
    Family("track_package|package_status|parcel", "Track a package.|Parcel tracking.", [Param(
        "tracking_number|code|tracking_id", "string", CODE_VALUE, "Tracking number|")],
           "Where is package {tracking_number}? | Track the package {tracking_number}. | Status of parcel {tracking_number}?",
           lambda r, a: "in transit"),
    Family("git_commit|commit_changes|commit", "Commit the staged changes.", [Param(
        "message|msg|text", "string", plain(phrase), "Commit message|")],
           "Commit with the message \"{message}\". | Make a commit: {message}", lambda r, a: code(r)),
]


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def restyle(r: Source, name: str) -> str:
    """The same words in another naming style, sometimes with a prefix."""
    style = r.random()
    if style < 0.7:
        return name
    if style < 0.8:
        return camel(name)
    if style < 0.87:
        return camel(name)[0].upper() + camel(name)[1:]
    if style < 0.92:
        return name.replace("_", "-")
    return r.choice(["mcp__", "api_", "my_", "server_", f"{made_up(r)}_"]) + name


def bind(r: Source, family: Family) -> Bound:
    """Draw one declaration of a family."""
    name = r.choice(family.names.split("|"))
    # In training more names say nothing than in the test split, so that purposes are read in the descriptions.
    if r.chance(0.2 if r.test else 0.4):
        name = r.choice(["{}", "{}_{}", "{}_{}", "{}-{}", "{}{}"]).format(any_word(r), any_word(r))
    bound = Bound(family, name if family.fixed else restyle(r, name))
    alone = sum(p.required for p in family.params) == 1
    properties, required = {}, []
    for p in family.params:
        names = p.names.split("|")
        key = names[0] if r.chance(0.5) else r.choice(names)
        if alone and p.required and r.chance(0.2):
            key = any_word(r) if r.chance(0.6) else f"{any_word(r)}_{any_word(r)}"
        while key in properties:
            key = names[0] if names[0] not in properties else key + "2"
        bound.keys[names[0]] = key
        about = r.choice(split(p.about)) if p.about else ""
        spec: dict[str, Any] = {"type": p.kind}
        if p.kind == "array":
            spec["items"] = {"type": "number" if p.make is numbers_list else "string"}
        if p.options:
            spec["enum"] = list(p.options)
        if about:
            spec = {**spec, "description": about} if r.chance(0.8) else {"description": about, **spec}
        properties[key] = spec
        if p.required:
            required.append(key)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required and r.chance(0.95):
        parameters["required"] = required
    if r.chance(0.2):
        parameters["additionalProperties"] = False
    bound.schema = {"name": bound.name, "description": describe(r, r.choice(split(family.about))), "parameters": parameters}
    return bound


def describe(r: Source, about: str) -> str:
    """Sometimes with more sentences, as real declarations have."""
    more = r.random()
    if more < 0.75:
        return about
    sentences = r.randint(1, 2) if more < 0.92 else r.randint(3, 8)
    extra = [r.choice(ADVICE) for _ in range(sentences)]
    return about + r.choice([" ", "\n", "\n\nUsage:\n- "]) + r.choice([" ", "\n- "]).join(extra)


ADVICE = """Results are returned as text. | Use this tool only when it is needed. | Prefer absolute paths. | The default is fine in most
cases. | Do not call this more than once for the same input. | This may take a few seconds. | Returns an error if nothing was found. |
You must read a file before you change it. | Output is cut after 30000 characters. | Never guess a value that the user did not give. |
Optional fields may be left out. | Dates are in ISO format. | Numbers are integers unless stated otherwise. | Use it whenever the user
asks for it. | The call fails when the service is down. | It is safe to call it in parallel with other tools. | Ask the user first when in
doubt. | Supports regular expressions. | Works with any encoding. | The result contains one line for each match.""".split("|")
ADVICE = [" ".join(a.split()) for a in ADVICE]

MADE_UP_KINDS: list[tuple[str, Maker]] = [
    ("string", plain(made_up)), ("string", plain(person)), ("string", plain(city)), ("string", plain(path)), ("string", plain(code)),
    ("string", plain(phrase)), ("string", plain(phrase)), ("string", plain(email)), ("string", plain(date)), ("string", plain(url)),
    ("string", lambda r: (lambda n: (n, n))(str(r.randint(0, 9999)))), ("integer", number(0, 9)), ("integer", number(0, 99)), ("integer", number(0, 9999)), ("number", plain(decimal)),
    ("boolean", lambda r: r.choice([(True, "true"), (False, "false"), (True, "on"), (False, "off")])), ("array", words_list),
    ("array", numbers_list), ("object", mapping), ("string", plain(folder)), ("string", plain(clock)),
]
FIELDS = """name title id key text note mode level size color owner target source value count limit amount index status kind group path
label query email date user city priority message tags items comment reason format language prefix suffix width height speed
weight category region version branch channel room subject details position angle factor offset page code""".split()


def made_up_family(r: Source) -> Family:
    """A tool from a verb and a noun nobody has combined before, with one to four parameters of any kind."""
    while True:
        verb = r.choice(VERBS) if r.chance(0.6) else any_word(r)
        noun = r.choice(NOUNS) if r.chance(0.5) else any_word(r)
        if held_out(("tool", verb, noun)) == r.test:
            break
    if r.chance(0.12):
        noun = f"{r.choice(ADJECTIVES)}_{noun}"
    spoken = noun.replace("_", " ")
    names, params = [], []
    for name in r.sample(FIELDS, r.choice([1, 1, 2, 2, 3, 4])):
        name = name if r.chance(0.55) else any_word(r)
        if r.chance(0.25):
            name = f"{noun}_{name}" if r.chance(0.5) else f"{name}_{r.choice(['id', 'name', 'value', 'list'])}"
        kind, make = r.choice(MADE_UP_KINDS)
        about = r.choice(["", f"The {name.replace('_', ' ')}", f"{name.replace('_', ' ').capitalize()} of the {spoken}"])
        params.append(Param(name, kind, make, about + "|", r.chance(0.7)))
        names.append(name)
    asked = [p for p in params if p.required or r.chance(0.5)] or params[:1]
    for p in asked:
        p.required = p.required or p is params[0]
    third = verb + ("es" if verb.endswith(("sh", "ch", "x", "s")) else "s")
    abouts = [f"{verb.capitalize()} a {spoken}.", f"{third.capitalize()} the {spoken}.", f"{verb.capitalize()} {plural(spoken)}."]
    return Family(f"{verb}_{noun}", "|".join(abouts), params, made_up_asks(r, verb, spoken, [p.names for p in asked]))


def made_up_asks(r: Source, verb: str, noun: str, names: list[str]) -> str:
    """One way of asking for a made-up tool, with every wanted parameter spelled out."""
    style = r.randrange(6)

    def one(name: str) -> str:
        said = name.replace("_", " ")
        return r.choice(["{s} {{{n}}}", "{s} = {{{n}}}", "{s}: {{{n}}}", "the {s} {{{n}}}", "{n}={{{n}}}", "{s} set to {{{n}}}",
                         "{s} \"{{{n}}}\""]).format(s=said, n=name) if style < 5 else f"{name}={{{name}}}"

    parts = [one(n) for n in names]
    joined = ", ".join(parts) if r.chance(0.5) else " and ".join(parts)
    return r.choice([f"{verb.capitalize()} the {noun} with {joined}.", f"Please {verb} a {noun}: {joined}",
                     f"{verb.capitalize()} {noun}, {joined}", f"I want to {verb} the {noun} with {joined}.",
                     f"Can you {verb} the {noun}? {joined}", f"{verb} {noun} {joined}"]).replace("|", "/")
