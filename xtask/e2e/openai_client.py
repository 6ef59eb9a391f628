"""The `openai` package against a server."""

import json
import time

import openai
from scenarios import BASE, PERSON, WEATHER, check, run, scenario

MODEL = "keid"
QUIET = {"thinking": {"type": "disabled"}}
SUM = [{"role": "user", "content": "What is 17 + 25?"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}


@scenario
def chat(client):
    answer = client.chat.completions.create(model=MODEL, messages=SUM)
    check("42" in answer.choices[0].message.content, answer)
    check(answer.choices[0].message.reasoning_content, answer)
    check(answer.usage.completion_tokens_details.reasoning_tokens > 0, answer.usage)


@scenario
def chat_stream(client):
    stream = client.chat.completions.create(
        model=MODEL, messages=SUM, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    check("42" in text, text)
    check(usage and usage.total_tokens > usage.prompt_tokens, usage)


@scenario
def chat_twice_reuses_the_prompt(client):
    ask = lambda: client.chat.completions.create(model=MODEL, messages=SUM, extra_body=QUIET)
    ask()
    answer = ask()
    check(answer.usage.prompt_tokens_details.cached_tokens >= answer.usage.prompt_tokens - 1)


@scenario
def chat_tool_loop(client):
    messages = [{"role": "user", "content": "What is the weather in Rome for 2 days?"}]
    ask = lambda choice: client.chat.completions.create(
        model=MODEL, messages=messages, tools=[TOOL], tool_choice=choice, max_tokens=400
    )
    answer = ask("required").choices[0]
    check(answer.finish_reason == "tool_calls", answer)
    messages.append(answer.message.model_dump(exclude_none=True))
    for call in answer.message.tool_calls:
        arguments = json.loads(call.function.arguments)
        check(isinstance(arguments["city"], str) and isinstance(arguments["days"], int), arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    final = ask("none").choices[0]
    check(final.finish_reason in ("stop", "length") and final.message.content, final)


@scenario
def chat_tool_stream(client):
    stream = client.chat.completions.create(
        model=MODEL, messages=SUM, tools=[TOOL], stream=True, max_tokens=400,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    arguments = ""
    for chunk in stream:
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                arguments += call.function.arguments or ""
    check(set(json.loads(arguments)) == {"city", "days"}, arguments)


@scenario
def chat_structured_output(client):
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    answer = client.chat.completions.create(
        model=MODEL, messages=SUM, response_format=schema, max_tokens=200
    )
    found = json.loads(answer.choices[0].message.content)
    check(set(found) == {"name", "age"} and isinstance(found["age"], int), found)


@scenario
def chat_log_probabilities(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=SUM, logprobs=True, top_logprobs=3, max_tokens=4, extra_body=QUIET
    )
    told = answer.choices[0].logprobs.content
    check(told and all(len(token.top_logprobs) == 3 for token in told), told)


@scenario
def chat_several_choices_and_a_seed(client):
    ask = lambda: client.chat.completions.create(
        model=MODEL, messages=SUM, n=2, seed=7, temperature=0.8, extra_body=QUIET
    )
    texts = lambda answer: [choice.message.content for choice in answer.choices]
    first = texts(ask())
    check(len(first) == 2 and first == texts(ask()), first)


@scenario
def chat_cancelled(client):
    story = [{"role": "user", "content": "Tell me a story about a fox."}]
    stream = client.chat.completions.create(model=MODEL, messages=story, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.time() + 5
    while True:
        text = client.with_options(timeout=5)._client.get(f"{BASE}/metrics").text
        running = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
        if running and float(running[0].split()[-1]) == 0:
            return
        check(time.time() < deadline, running)


@scenario
def completion(client):
    answer = client.completions.create(model=MODEL, prompt="One", max_tokens=3, echo=True, logprobs=1)
    choice = answer.choices[0]
    check(choice.text.startswith("One"), choice)
    check(len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs), choice)


@scenario
def completion_stream(client):
    stream = client.completions.create(model=MODEL, prompt="One", max_tokens=8, stream=True)
    check(sum(len(chunk.choices) for chunk in stream) > 1)


@scenario
def response(client):
    answer = client.responses.create(model=MODEL, input="What is 17 + 25?")
    check("42" in answer.output_text, answer)
    follow = client.responses.create(
        model=MODEL, input="What is 2 + 2?", previous_response_id=answer.id
    )
    check("4" in follow.output_text, follow)
    check(client.responses.retrieve(answer.id).id == answer.id)


@scenario
def response_stream(client):
    with client.responses.stream(model=MODEL, input="What is 17 + 25?") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    check(kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds)
    check("42" in final.output_text, final)


@scenario
def response_tool_loop(client):
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
    items = [{"role": "user", "content": "What is the weather in Rome for 2 days?"}]
    answer = client.responses.create(
        model=MODEL, input=items, tools=[tool], tool_choice="required",
        reasoning={"effort": "none"}, max_output_tokens=400,
    )
    call = next(item for item in answer.output if item.type == "function_call")
    check(set(json.loads(call.arguments)) == {"city", "days"}, call)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    final = client.responses.create(
        model=MODEL, input=[result], previous_response_id=answer.id, tools=[tool],
        tool_choice="none", max_output_tokens=200,
    )
    check(final.status in ("completed", "incomplete"), final)


@scenario
def response_structured_output(client):
    form = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    answer = client.responses.create(
        model=MODEL, input="Who are you?", text={"format": form}, max_output_tokens=200
    )
    check(set(json.loads(answer.output_text)) == {"name", "age"}, answer.output_text)


@scenario
def unknown_fields_are_refused_by_name(client):
    try:
        client.chat.completions.create(model=MODEL, messages=SUM, extra_body={"frobnicate": 1})
    except openai.BadRequestError as error:
        check(error.param == "frobnicate", error.param)
    else:
        check(False, "was taken")


@scenario
def models(client):
    ids = [model.id for model in client.models.list()]
    check(len(ids) == 1 and client.models.retrieve(ids[0]).id == ids[0], ids)


run(openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=60))
