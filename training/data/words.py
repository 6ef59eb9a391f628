"""Word lists and small random texts."""

import json
import re
from pathlib import Path

from data.base import Source

NAMES = """Alice Bob Carol David Emma Frank Grace Henry Irene Jack Karen Liam Maria Nina Oscar Paula Quinn Rosa Sam Tina
Uma Victor Wendy Xavier Yara Zoe Anna Ben Clara Daniel Eva Felix Gina Hugo Iris Jonas Kira Leo Mona Nils Olga Peter
Ravi Sara Tom Ursula Vera Will Yusuf Zara Amir Bella Chen Diego Elif Farah Goran Hana Ivan Jade Kofi Lena Marco Nora
Omar Priya Rita Stefan Tara Ulf Wanda Yuki Ada Alan Edsger Donald Barbara Ken Dennis Linus Margaret Katherine""".split()

CITIES = """Paris Rome Berlin Madrid Lisbon Vienna Prague Oslo Dublin Athens Cairo Tokyo Kyoto Seoul Delhi Mumbai Lagos
Nairobi Lima Quito Bogota Boston Chicago Denver Austin Seattle Miami Toronto Montreal Vancouver Sydney Melbourne Perth
Auckland Zurich Geneva Munich Hamburg Cologne Milan Turin Naples Venice Warsaw Krakow Budapest Helsinki Stockholm
Copenhagen Brussels Amsterdam Rotterdam London Leeds Bristol Glasgow Edinburgh Singapore Bangkok Hanoi Manila Jakarta
Dubai Doha Istanbul Ankara Tunis Dakar Accra Havana Caracas Santiago""".split() + [
    "New York", "San Francisco", "Los Angeles", "Mexico City", "Buenos Aires", "Cape Town", "Hong Kong", "Tel Aviv",
    "Rio de Janeiro", "St. Gallen", "São Paulo", "Kuala Lumpur"]

THINGS = """apple pear plum lemon book key lamp chair table stone shell coin map rope boat kite ball drum flute bell clock
mirror candle basket bottle button ribbon feather leaf flower seed acorn berry cake bread cheese honey soup tea cup
spoon fork plate bowl hat scarf glove boot coat sock wagon wheel ladder hammer nail brush bucket pencil paper letter
stamp window door garden bridge tower river hill forest island cloud star moon""".split()

NOUNS = """user account invoice order customer ticket report file folder document record entry task job build release
branch commit deployment server container cluster node pod service endpoint route token session cache queue topic
message channel thread comment post article page image video track playlist album photo frame camera sensor device
light lamp door lock window heater fan alarm meter timer event meeting calendar reminder contact group team project
issue bug label milestone sprint note bookmark tag category product item price discount coupon cart payment refund
shipment vehicle trip flight hotel room table seat booking recipe ingredient meal workout goal step habit
budget expense transaction balance loan stock bond portfolio trade wallet quiz lesson course student grade exam
patient visit dose plant species star planet map region city weather forecast tide station schedule chart dataset
model metric log trace dashboard query schema column row index backup snapshot volume bucket key secret certificate
domain email template form survey answer rating review widget config setting profile theme font color""".split()

VERBS = """get find fetch list search create add make update set change edit rename move copy delete remove archive restore
start stop pause resume restart run open close lock unlock enable disable send post publish share export import upload
download read write append check verify validate test count measure convert translate compare merge split sort filter
book cancel schedule assign approve reject sync backup scan resize rotate play mute record print""".split()

ADJECTIVES = """red blue green yellow black white small large old new quick slow warm cold quiet loud bright dark soft hard
round flat sweet sour clean dusty empty full heavy light open secret golden silver wooden broken tiny brave calm lazy
main local remote public private daily weekly draft final internal external shared""".split()

FOLDERS = """src lib app core docs tests data config scripts tools assets static public server client api utils models views
routes handlers services build dist examples notes logs home tmp var etc bin web ui common internal pkg cmd
include plugins modules migrations fixtures""".split()
STEMS = """main app index utils config settings readme notes todo parser lexer server client router handler model schema
database cache queue worker test helper types errors logger metrics auth login user account order invoice report
summary draft plan budget recipe letter poem data results table list items constants version setup build deploy
docker makefile license changelog query engine kernel tensor sampler hello example demo""".split()
EXTENSIONS = """py rs js ts go c h cpp java rb md txt json toml yaml yml html css sh sql csv cfg ini lock log""".split()

PHRASES = """running late | see you at six | the meeting is moved to noon | please call me back | lunch is ready
dinner at eight | the build is green | the server is down | happy birthday | buy milk and eggs | water the plants
the report is done | thank you for your help | bring the keys | the parcel arrived | check the logs | deploy at midnight
all tests pass | the door is open | do not forget the tickets | good luck tomorrow | the train leaves at nine
review my changes | the invoice is paid | stay at home today | fix the login page | update the readme | hello world
clean up old files | back up the database | the cat is on the roof | take an umbrella | turn off the lights
a quiet evening by the sea | three cups of tea | call the bank | pick up the kids | pay the rent | order more coffee"""
PHRASES = [p.strip() for line in PHRASES.splitlines() for p in line.split("|")]

FILLER = """The harbor was quiet and the boats did not move. | A warm wind came from the hills. | Someone had left a lamp in the
window. | The path goes down to the water and back again. | Nobody knew who had painted the door green. | The
service starts before the queue is read. | Every request is logged with a time and an id. | The old map showed three
islands, but there were four. | Rain fell on the roof all night. | The market opens early on most days. | Use the
local cache when the network is slow. | A small dog slept beside the stairs. | The clock in the tower was always
wrong. | Bread was cheap that year, and so was salt. | Two children counted shells on the beach. | The config is
loaded once and kept in memory. | Leaves covered the garden and the bench. | They talked about the weather and the
price of rope. | The second train was late again. | Please keep the door closed when it snows. | The tests run on every
change and take a minute. | A letter came without a stamp. | The river was low, so the bridge looked taller. | Nothing
else happened that day. | The cook made soup with beans and lemon. | The worker retries three times and then gives
up. | On the hill stood a house with a red roof. | The moon was bright enough to read by. | Errors are written to a
file beside the data. | The ferry carried more goats than people. | It was the best honey in the valley. | The index is
rebuilt when the table changes. | All the shutters were blue except one. | The guide spoke softly and walked fast."""
FILLER = [" ".join(p.split()) for p in FILLER.split("|")]

SYLLABLES = """ba be bi bo bu da de di do du fa fe fi fo ga ge go ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no nu pa pe
pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we za ze zi zo bar bel bor dan den dor fin gal gar hal
han jor kal kan kel lan lor mar mel mor nal nor pel per ral ran rel ser sol tal tan tor val van vel ven wen win zan
zor""".split()


def pieces() -> list[str]:
    """Runs of small letters in the tokenizer's vocabulary, without words that held-out tools are made of."""
    stored = json.loads(Path(__file__).parents[1].joinpath("vocab.json").read_text())["tokens"]
    found = {token.removeprefix("Ġ") for token in stored}
    return sorted(p for p in found if re.fullmatch("[a-z]{2,12}", p) and p not in HELD_OUT_WORDS)


HELD_OUT_WORDS = {"after", "before", "patch", "terminal", "show", "food", "rest", "parcel", "commit"}
PIECES = pieces()


def made_up(r: Source) -> str:
    """A word nobody has seen: syllables, or pieces of the vocabulary, so that a copy cannot lean on known neighbours."""
    if r.chance(0.5):
        return "".join(r.choice(SYLLABLES) for _ in range(r.randint(2, 3)))
    return "".join(r.choice(PIECES) for _ in range(r.choice([1, 2, 2, 3])))


def any_word(r: Source) -> str:
    """A lower-case word for a name that only copying can get right."""
    return made_up(r) if r.chance(0.55) else r.choice(r.choice([VERBS, NOUNS, THINGS, ADJECTIVES, STEMS, FOLDERS]))


def plural(noun: str) -> str:
    """More than one of it."""
    return noun if noun.endswith("s") else noun + "s"


def person(r: Source) -> str:
    """A first name, known or made up."""
    return r.choice(NAMES) if r.chance(0.6) else made_up(r).capitalize()


def city(r: Source) -> str:
    """A city, known or made up."""
    return r.choice(CITIES) if r.chance(0.7) else made_up(r).capitalize()


def path(r: Source) -> str:
    """A relative or absolute file path."""
    stem = r.choice(STEMS) if r.chance(0.7) else made_up(r)
    if r.chance(0.2):
        stem += r.choice(["_", "-"]) + (r.choice(STEMS) if r.chance(0.6) else str(r.randint(1, 99)))
    parts = [r.choice(FOLDERS) if r.chance(0.8) else made_up(r) for _ in range(r.choice([0, 0, 1, 1, 1, 2, 2, 3]))]
    head = r.choice(["/", "./", ""]) if parts and r.chance(0.3) else ""
    name = f"{stem}.{r.choice(EXTENSIONS)}"
    return head + "/".join([*parts, name.capitalize() if r.chance(0.05) else name])


def folder(r: Source) -> str:
    """A folder path."""
    parts = [r.choice(FOLDERS) if r.chance(0.75) else made_up(r) for _ in range(r.randint(1, 3))]
    return r.choice(["", "", "/", "./"]) + "/".join(parts)


def phrase(r: Source) -> str:
    """A short free text, sometimes with quotes, names or numbers in it."""
    kind = r.random()
    if kind < 0.35:
        return r.choice(PHRASES)
    if kind < 0.45:
        return " ".join(r.choice(PIECES) for _ in range(r.randint(2, 6)))
    if kind < 0.6:
        return f"{r.choice(ADJECTIVES)} {r.choice(THINGS)} for {person(r)}"
    if kind < 0.7:
        return f'{person(r)} said "{r.choice(PHRASES)}"'
    if kind < 0.8:
        return f"{r.choice(PHRASES)}, {r.choice(PHRASES)}"
    if kind < 0.9:
        return " ".join(made_up(r) for _ in range(r.randint(1, 4)))
    return f"{r.choice(THINGS)} {r.randint(1, 99)} {r.choice(ADJECTIVES)} {made_up(r)}"


def sentence(r: Source) -> str:
    """A sentence that says nothing anyone asks about."""
    if r.chance(0.6):
        return r.choice(FILLER)
    a, b = r.sample(NOUNS, 2)
    j, k = r.sample(ADJECTIVES, 2)
    v, x, w = r.choice(VERBS), r.choice(THINGS), made_up(r)
    return r.choice([
        f"The {j} {a} is next to the {k} {b}.", f"You should {v} every {a} before the {b} is {j}.", f"Never {v} a {j} {x}.",
        f"{w.capitalize()} and {made_up(r)} are the names of two {a}s.", f"If the {a} is {j}, {v} the {b}; otherwise wait.",
        f"When you {v} the {a}, keep the {b} {k}.", f"Each {a} has a {j} {b} and {r.randint(2, 40)} {x}s.",
        f"- {v.capitalize()} the {a} ({j}, {k}).", f"Note: `{a}_{b}` must stay {j}.", f"There is one {x} in {r.choice(CITIES)}."])


def filler(r: Source, sentences: int) -> str:
    """Several such sentences."""
    return " ".join(sentence(r) for _ in range(sentences))


def lines(r: Source) -> str:
    """A few lines of a small program or note."""
    made = [r.choice([
        f"{r.choice(STEMS)} = {r.randint(0, 999)}", f"print(\"{r.choice(PHRASES)}\")", f"def {r.choice(VERBS)}_{r.choice(NOUNS)}():",
        f"    return {r.randint(0, 99)}", f"# {r.choice(ADJECTIVES)} {r.choice(NOUNS)}", f"import {r.choice(STEMS)}",
        f"- {r.choice(PHRASES)}", f"let {made_up(r)} = {r.randint(0, 99)};", f"{made_up(r)}: {made_up(r)}", r.choice(PHRASES)])
        for _ in range(r.randint(2, 4))]
    return "\n".join(made)
