"""The `anthropic` package against a server."""

import anthropic
from scenarios import BASE, WEATHER, check, run, scenario

MODEL = "keid"
SUM = [{"role": "user", "content": "What is 17 + 25?"}]
TOOL = {"name": "get_weather", "description": "The weather", "input_schema": WEATHER}
OFF = {"type": "disabled"}


@scenario
def message(client):
    answer = client.messages.create(model=MODEL, max_tokens=300, messages=SUM, thinking=OFF)
    check("42" in answer.content[0].text, answer)
    check(answer.stop_reason == "end_turn", answer)


@scenario
def message_thinks(client):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = client.messages.create(model=MODEL, max_tokens=2000, messages=SUM, thinking=thinking)
    check([block.type for block in answer.content] == ["thinking", "text"], answer)
    history = [*SUM, {"role": "assistant", "content": answer.content}]
    history.append({"role": "user", "content": "What is 2 + 2?"})
    again = client.messages.create(model=MODEL, max_tokens=2000, messages=history, thinking=thinking)
    check("4" in again.content[-1].text, again)


@scenario
def message_stream(client):
    with client.messages.stream(model=MODEL, max_tokens=300, messages=SUM) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("42" in text and final.usage.output_tokens > 0, text)


@scenario
def message_tool_loop(client):
    messages = [{"role": "user", "content": "What is the weather in Rome for 2 days?"}]
    ask = lambda choice: client.messages.create(
        model=MODEL, max_tokens=400, messages=messages, tools=[TOOL], tool_choice=choice,
        system=[{"type": "text", "text": "Help.", "cache_control": {"type": "ephemeral"}}],
    )
    answer = ask({"type": "any"})
    check(answer.stop_reason == "tool_use", answer)
    calls = [block for block in answer.content if block.type == "tool_use"]
    check(all(set(call.input) == {"city", "days"} for call in calls), calls)
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "sunny", "is_error": False}
        for call in calls
    ]
    messages.append({"role": "assistant", "content": answer.content})
    messages.append({"role": "user", "content": results})
    final = ask({"type": "none"})
    check(final.stop_reason in ("end_turn", "max_tokens"), final)


@scenario
def message_tool_stream(client):
    with client.messages.stream(
        model=MODEL, max_tokens=400, messages=SUM, tools=[TOOL], thinking=OFF,
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:
        final = stream.get_final_message()
    check(final.content[-1].type == "tool_use" and set(final.content[-1].input) == {"city", "days"})


@scenario
def tokens_are_counted(client):
    counted = client.messages.count_tokens(model=MODEL, messages=SUM)
    answer = client.messages.create(model=MODEL, max_tokens=10, messages=SUM)
    usage = answer.usage
    check(counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, counted, usage)


@scenario
def stop_sequence(client):
    answer = client.messages.create(
        model=MODEL, max_tokens=300, messages=SUM, thinking=OFF, stop_sequences=["42"]
    )
    check(answer.stop_reason == "stop_sequence" and answer.stop_sequence == "42", answer)


@scenario
def unknown_fields_are_refused_by_name(client):
    try:
        client.messages.create(model=MODEL, max_tokens=9, messages=SUM, extra_body={"frob": 1})
    except anthropic.BadRequestError as error:
        check("`frob`" in str(error), error)
    else:
        check(False, "was taken")


run(anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0, timeout=60))
