// Asks the server at BASE_URL, as the bearer API_KEY, all that a program does with the official SDK, and prints what
// the SDK made of the answers as one JSON object.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hello there" }];
const tools = [
  {
    type: "function",
    function: {
      name: "look_up",
      strict: true,
      parameters: {
        type: "object",
        properties: { city: { type: "string" } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];
const response_format = {
  type: "json_schema",
  json_schema: { name: "city", schema: { type: "object", properties: { city: { type: "string" } } } },
};

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

async function failure(work) {
  try {
    await work();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, type: error.type };
  }
  throw new Error("this was to fail");
}

const asked = {
  chat: () => client.chat.completions.create({ model: "m", messages }),
  tools: () => client.chat.completions.create({ model: "m", messages, tools }),
  structured: async () => {
    const answer = await client.chat.completions.create({ model: "m", messages, response_format });
    return JSON.parse(answer.choices[0].message.content);
  },
  stream: () => all(client.chat.completions.create({ model: "m", messages, stream: true })),
  streamWithUsage: () =>
    all(client.chat.completions.create({ model: "m", messages, stream: true, stream_options: { include_usage: true } })),
  streamedTools: async () => {
    const stream = client.chat.completions.stream({ model: "m", messages, tools });
    return (await stream.finalChatCompletion()).choices[0].message;
  },
  completion: () => client.completions.create({ model: "m", prompt: ["a", "b"], max_tokens: 5 }),
  streamedCompletion: () => all(client.completions.create({ model: "m", prompt: "once", stream: true })),
  embedding: () => client.embeddings.create({ model: "m", input: "hello" }),
  embeddingsOfTokens: () => client.embeddings.create({ model: "m", input: [[1, 2], [3]], encoding_format: "float" }),
  models: async () => (await all(client.models.list())).map((model) => model.id),
  model: async () => (await client.models.retrieve("m")).id,
  unknownModel: () => failure(() => client.models.retrieve("nope/nope")),
  badRequest: () => failure(() => client.chat.completions.create({ model: "bad-request", messages })),
  badStream: () => failure(() => client.chat.completions.create({ model: "too-long", messages, stream: true })),
  notFound: () => failure(() => client.chat.completions.create({ model: "no-such-model", messages })),
  wrongKey: async () => {
    const { name, status, code } = await failure(() =>
      client.withOptions({ apiKey: "sk-wrong" }).chat.completions.create({ model: "m", messages }),
    );
    return { name, status, code };
  },
  limited: async () => {
    const { name, status } = await failure(() => client.chat.completions.create({ model: "limited", messages }));
    return { name, status };
  },
};

const results = {};
for (const [name, ask] of Object.entries(asked)) results[name] = await ask();
console.log(JSON.stringify(results));
