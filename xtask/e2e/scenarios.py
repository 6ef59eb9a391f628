"""Runs scenarios and says how each went: one line `ok NAME` or `failed NAME: WHY`."""

import os
import traceback

BASE = os.environ["KEID_URL"]
RAN = []


def scenario(function):
    """Registers a scenario; its name is the function's."""
    RAN.append(function)
    return function


def run(client):
    """Runs all scenarios with `client`."""
    for function in RAN:
        name = function.__name__.replace("_", " ")
        try:
            function(client)
            print(f"ok {name}", flush=True)
        except Exception as error:  # Each scenario stands alone.
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = " ".join(str(error).split()) or type(error).__name__
            print(f"failed {name}: {why} (line {where.lineno})", flush=True)


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def check(condition, *shown):
    """Fails a scenario."""
    if not condition:
        raise AssertionError(" ".join(repr(value) for value in shown) or "check failed")
