"""More everyday tools, each with the ways people ask for it."""

from data.base import Source
from data.toolbox import CITY, CODE_VALUE, PATH_VALUE, Family, Param, clock, code, date, decimal, enum, number, plain, words_list
from data.words import ADJECTIVES, NOUNS, STEMS, THINGS, city, made_up, person, phrase

COUNT, NAME = number(1, 12), plain(person)


def route(r: Source, _: dict) -> dict:
    return {"km": r.randint(1, 900), "minutes": r.randint(5, 600)}


EVERYDAY = [
    Family("book_hotel|reserve_room|hotel_booking|hotel", "Book a hotel room.|Reserve a room in a hotel.|Hotel reservations.", [
        CITY, Param("nights|duration|days", "integer", COUNT, "Number of nights|", False), Param(
            "check_in|date|arrival", "string", plain(date), "Day of arrival|", False), Param("guests|people|persons", "integer", COUNT, "Guests|", False)],
           "Book a hotel in {city}. | Book a room in {city} for {nights} nights. | I need a hotel in {city} from {check_in} for {nights} nights. | "
           "Reserve a room in {city} for {guests} people. | Find me a place to sleep in {city}. | Hotel in {city}, {nights} nights, {guests} guests.",
           lambda r, a: {"booking": code(r)}),
    Family("call_taxi|order_ride|taxi|ride", "Order a taxi.|Call a ride to an address.", [
        Param("to|destination|goal", "string", plain(city), "Where to go|"), Param("at|time|pickup_time", "string", plain(clock), "When|", False)],
           "Call a taxi to {to}. | I need a taxi to {to} at {at}. | Get me a ride to {to}. | Take me to {to}. | Order a taxi at {at} to {to}.",
           lambda r, a: f"{r.randint(2, 30)} minutes"),
    Family("set_alarm|alarm|wake_up|create_alarm", "Set an alarm.|Wake the user at a time.", [
        Param("time|at|when", "string", plain(clock), "Time as HH:MM|"), Param("label|name|note", "string", plain(phrase), "Label|", False)],
           "Set an alarm for {time}. | Wake me at {time}. | Wake me up at {time}, please. | Alarm at {time} called \"{label}\". | I must get up at {time}.",
           lambda r, a: "ok"),
    Family("add_contact|save_contact|new_contact", "Save a contact.|Add a person to the address book.", [
        Param("name|person|who", "string", NAME, "Name|"), Param(
            "phone|number|tel", "string", plain(lambda r: f"{r.randint(100, 999)}-{r.randint(1000, 9999)}"), "Phone number|")],
           "Save {name}'s number: {phone} | Add {name} to my contacts, number {phone}. | {name} has the number {phone}, please save it. | "
           "New contact {name}, {phone}.", lambda r, a: "saved"),
    Family("get_directions|directions|route|find_route", "Get directions between two places.|Plan a route.", [
        Param("start|from|origin", "string", plain(city), "Start|"), Param("end|to|goal", "string", plain(city), "Goal|"), Param(
            "mode|by|vehicle", "string", enum("car", "train", "bike", "bus"), "How to travel|", False, ("car", "train", "bike", "bus"))],
           "How do I get from {start} to {end}? | Directions from {start} to {end}. | How far is it from {start} to {end} by {mode}? | "
           "Route from {start} to {end} by {mode}, please. | I want to go from {start} to {end}.", route),
    Family("shopping_list|add_to_list|groceries|buy_list", "Add things to the shopping list.|Groceries to buy.", [
        Param("items|things|products", "array", words_list, "What to buy|")],
           "Put {items} on the shopping list. | I have to buy {items}. | Add {items} to my groceries. | We need {items}.", lambda r, a: "ok"),
    Family("define_word|dictionary|definition|lookup_word", "Look up a word in the dictionary.|Definition of a word.", [
        Param("word|term|entry", "string", plain(lambda r: r.choice([made_up(r), r.choice(NOUNS), r.choice(ADJECTIVES)])), "Word|")],
           "What does {word} mean? | Define {word}. | Look up the word {word}. | What is the meaning of \"{word}\"? | Definition of {word}?",
           lambda r, a: phrase(r)),
    Family("random_number|roll|dice|pick_number", "Pick a random number.|Random integer up to a limit.", [
        Param("max|limit|upper", "integer", number(2, 9999), "Largest number|")],
           "Give me a random number up to {max}. | Pick a number between 1 and {max}. | Roll a die with {max} sides. | Random number, at most {max}.",
           lambda r, a: str(r.randint(1, 99))),
    Family("get_news|news|headlines|latest_news", "Get the latest news.|Headlines about a topic.", [
        Param("topic|about|subject", "string", plain(lambda r: r.choice([r.choice(NOUNS) + "s", city(r), made_up(r)])), "Topic|"), Param(
            "count|limit|n", "integer", COUNT, "Number of headlines|", False)],
           "What is the news about {topic}? | News about {topic}, please. | Give me {count} headlines about {topic}. | Anything new about {topic}?",
           lambda r, a: phrase(r)),
    Family("make_appointment|book_appointment|appointment|see_doctor", "Make an appointment.|Book a visit with someone.", [
        Param("with|person|doctor|whom", "string", NAME, "With whom|"), Param("date|day|on", "string", plain(date), "Date|"), Param(
            "time|at|hour", "string", plain(clock), "Time|", False)],
           "Make an appointment with {with} on {date}. | I want to see {with} on {date} at {time}. | Get me an appointment with {with}, {date} at {time}. | "
           "Can I meet {with} on {date}?", lambda r, a: {"appointment": r.randint(1, 999)}),
    Family("git_branch|create_branch|new_branch|checkout", "Create a git branch.|Start a new branch.", [
        Param("name|branch|branch_name", "string", plain(lambda r: f"{r.choice(['fix', 'feature', made_up(r)])}/{r.choice(STEMS)}-{made_up(r)}"), "Branch|")],
           "Create a branch {name}. | Start the branch {name}. | New branch called {name}. | Check out a new branch {name}.", lambda r, a: "ok"),
    Family("run_tests|test|pytest|test_runner", "Run the tests.|Runs the test suite or a part of it.", [
        Param("path|target|file|suite", "string", PATH_VALUE, "Which tests|"), Param("verbose|quiet|fast", "boolean", lambda r: (True, "true"), "", False)],
           "Run the tests in {path}. | Test {path}. | Do the tests in {path} pass? | Check that {path} passes. | Please test {path}.",
           lambda r, a: f"{r.randint(1, 99)} passed"),
    Family("deploy|deploy_service|release|roll_out", "Deploy a service.|Roll out a version.", [
        Param("service|app|name", "string", plain(lambda r: r.choice([r.choice(STEMS), made_up(r)])), "Service|"), Param(
            "environment|env|stage", "string", enum("staging", "production", "test"), "Where|", True, ("staging", "production", "test")), Param(
                "version|tag|release", "string", plain(lambda r: f"{r.randint(0, 9)}.{r.randint(0, 20)}.{r.randint(0, 9)}"), "Version|", False)],
           "Deploy {service} to {environment}. | Roll out {service} {version} to {environment}. | Put {service} on {environment}. | "
           "Release version {version} of {service} to {environment}.", lambda r, a: "deployed"),
    Family("get_logs|logs|tail_logs|show_logs", "Show the logs of a service.|Last lines of a log.", [
        Param("service|name|source|unit", "string", plain(lambda r: r.choice([r.choice(STEMS), made_up(r)])), "Service|"), Param(
            "lines|n|limit|last", "integer", number(1, 500), "How many lines|", False)],
           "Show me the logs of {service}. | Last {lines} lines of the {service} log. | What do the logs of {service} say? | Tail {lines} lines of {service}.",
           lambda r, a: phrase(r)),
    Family("pay_bill|pay|transfer_money|send_money", "Send money.|Pay an amount to someone.", [
        Param("to|payee|recipient", "string", NAME, "Who gets it|"), Param("amount|sum|euros", "number", plain(decimal), "Amount|"), Param(
            "reference|note|memo", "string", plain(phrase), "Reference|", False)],
           "Pay {to} {amount} euros. | Send {amount} to {to}. | Transfer {amount} to {to} with the reference \"{reference}\". | I owe {to} {amount}, please pay.",
           lambda r, a: {"paid": code(r)}),
    Family("inventory|stock_level|check_stock|in_stock", "Check how many of an item are in stock.|Inventory of the store.", [
        Param("item|product|sku|article", "string", plain(lambda r: r.choice(THINGS) + r.choice(["", "s"])), "Item|")],
           "How many {item} do we have? | Is {item} in stock? | Check the stock of {item}. | Do we have {item}?", lambda r, a: str(r.randint(0, 500))),
    Family("lock_door|door|unlock_door|lock", "Lock or unlock a door.|Controls the doors of the house.", [
        Param("door|which|name", "string", enum("front door", "back door", "garage", "gate"), "Which door|"), Param(
            "state|action|to", "string", enum("lock", "unlock"), "lock or unlock|", True, ("lock", "unlock"))],
           "{state} the {door}. | Please {state} the {door}. | Can you {state} the {door}? | I want you to {state} the {door}.", lambda r, a: "ok"),
    Family("cancel_booking|cancel_order|cancel|cancellation", "Cancel a booking.|Cancels an order by its number.", [
        Param("id|booking_id|code|number", "string", CODE_VALUE, "Booking number|"), Param("reason|why", "string", plain(phrase), "Reason|", False)],
           "Cancel {id}. | Cancel my booking {id}. | I do not need {id} any more. | Cancel {id} because \"{reason}\". | Please cancel order {id}.",
           lambda r, a: "cancelled"),
]
