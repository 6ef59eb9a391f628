// The Vercel AI SDK against a server: one line `ok NAME` or `failed NAME: WHY` a scenario.

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';

const url = process.env.KEID_URL;
const providers = {
  'openai-compatible': createOpenAICompatible({
    name: 'keid', baseURL: `${url}/v1`, apiKey: 'none', supportsStructuredOutputs: true,
  })('keid'),
  anthropic: createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none' })('keid'),
  'openai responses': createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' }).responses('keid'),
};
const question = 'What is 17 + 25?';
const common = { maxRetries: 0, maxOutputTokens: 600 };

const weather = tool({
  description: 'The weather',
  inputSchema: jsonSchema({
    type: 'object',
    properties: { city: { type: 'string' }, days: { type: 'integer' } },
    required: ['city', 'days'],
    additionalProperties: false,
  }),
  execute: async () => 'sunny',
});
const person = jsonSchema({
  type: 'object',
  properties: { name: { type: 'string', maxLength: 12 }, age: { type: 'integer' } },
  required: ['name', 'age'],
  additionalProperties: false,
});

function check(condition, shown) {
  if (!condition) throw new Error(JSON.stringify(shown) ?? 'check failed');
}

const scenarios = {
  async text(model) {
    const { text } = await generateText({ model, prompt: question, ...common });
    check(text.includes('42'), text);
  },
  async stream(model) {
    const { textStream, usage } = streamText({ model, prompt: question, ...common });
    let text = '';
    for await (const part of textStream) text += part;
    check(text.includes('42'), text);
    check((await usage).outputTokens > 0, await usage);
  },
  async 'tool loop'(model) {
    const { steps } = await generateText({
      model,
      prompt: 'What is the weather in Rome for 2 days?',
      tools: { weather },
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
      ...common,
    });
    const call = steps[0].toolCalls[0];
    check(typeof call.input.city === 'string' && Number.isInteger(call.input.days), call);
    check(steps.length === 2 && steps[1].toolCalls.length === 0, steps.length);
  },
  async object(model) {
    const { object } = await generateObject({ model, schema: person, prompt: 'Who?', ...common });
    check(typeof object.name === 'string' && Number.isInteger(object.age), object);
  },
  async cancellation(model) {
    const abort = new AbortController();
    const { fullStream } = streamText({
      model, prompt: 'Tell me a story about a fox.', abortSignal: abort.signal, ...common,
      onError() {},
    });
    for await (const part of fullStream) {
      if (part.type.endsWith('delta')) abort.abort();
    }
    for (let tries = 0; tries < 100; tries++) {
      const metrics = await (await fetch(`${url}/metrics`)).text();
      if (/^vllm:num_requests_running\{.*\} 0/m.test(metrics)) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    check(false, 'still running');
  },
};

for (const [provider, model] of Object.entries(providers)) {
  for (const [name, run] of Object.entries(scenarios)) {
    try {
      await run(model);
      console.log(`ok ${provider}: ${name}`);
    } catch (error) {
      const why = String(error.responseBody ?? error.message).split('\n')[0];
      console.log(`failed ${provider}: ${name}: ${why}`);
    }
  }
}
