// OpenAI's own package for JavaScript. An ask a line on stdin, what came of it a line on stdout, both as JSON objects.
// NPM is the folder that holds node_modules.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { OpenAI } = createRequire(`${process.env.NPM}/`)("openai");
const schema = {
  type: "object",
  properties: { answer: { type: "integer" } },
  required: ["answer"],
  additionalProperties: false,
};
const numbers = { a: { type: "integer" }, b: { type: "integer" } };
const tool = {
  type: "function",
  function: { name: "add", parameters: { type: "object", properties: numbers, required: ["a", "b"] } },
};
const responseFormat = { type: "json_schema", json_schema: { name: "sum", strict: true, schema } };

const client = (ask) => new OpenAI({ baseURL: ask.url, apiKey: ask.key, maxRetries: 0 });
const chat = (ask) => ({ model: ask.model, messages: [{ role: "user", content: ask.query }] });
const callOf = (call) => ({ id: call.id, name: call.function.name, arguments: call.function.arguments });
const messageOf = ({ content, tool_calls }) => ({ text: content, calls: (tool_calls ?? []).map(callOf) });

const kinds = {
  async text(ask) {
    const completion = await client(ask).chat.completions.create({ ...chat(ask), ...ask.extra_body });
    const [choice] = completion.choices;
    return {
      text: choice.message.content,
      finish_reason: choice.finish_reason,
      n_choices: completion.choices.length,
      total_tokens: completion.usage.total_tokens,
      request_id: completion._request_id,
      its: completion.its,
    };
  },
  async stream(ask) {
    const options = { stream: true, stream_options: { include_usage: true } };
    const told = { text: "", n_pieces: 0 };
    for await (const chunk of await client(ask).chat.completions.create({ ...chat(ask), ...options })) {
      if (chunk.choices.length) told.n_pieces += 1;
      told.text += chunk.choices[0]?.delta.content ?? "";
      told.its = chunk.its ?? told.its;
      told.total_tokens = chunk.usage?.total_tokens ?? told.total_tokens;
    }
    return told;
  },
  async stream_helper(ask) {
    const events = client(ask).chat.completions.stream(chat(ask));
    const seen = new Set();
    events.on("content.delta", () => seen.add("content.delta")).on("content.done", () => seen.add("content.done"));
    const { message } = (await events.finalChatCompletion()).choices[0];
    return { ...messageOf(message), events: [...seen] };
  },
  async tools(ask) {
    const completion = await client(ask).chat.completions.create({ ...chat(ask), tools: [tool] });
    return messageOf(completion.choices[0].message);
  },
  async tools_stream(ask) {
    const events = client(ask).chat.completions.stream({ ...chat(ask), tools: [tool] });
    return messageOf((await events.finalChatCompletion()).choices[0].message);
  },
  async schema(ask) {
    const completion = await client(ask).chat.completions.create({ ...chat(ask), response_format: responseFormat });
    return messageOf(completion.choices[0].message);
  },
  async parse(ask) {
    const completion = await client(ask).chat.completions.parse({ ...chat(ask), response_format: responseFormat });
    return { answer: JSON.parse(completion.choices[0].message.content).answer };
  },
  async raw(ask) {
    const { data, response } = await client(ask).chat.completions.create(chat(ask)).withResponse();
    return { text: data.choices[0].message.content, headers: Object.fromEntries(response.headers) };
  },
  async responses(ask) {
    const response = await client(ask).responses.create({ model: ask.model, input: ask.query });
    return { text: response.output_text, status: response.status, total_tokens: response.usage.total_tokens };
  },
  async responses_stream(ask) {
    const events = client(ask).responses.stream({ model: ask.model, input: ask.query });
    const seen = [];
    for await (const event of events) seen.push(event.type);
    return { text: (await events.finalResponse()).output_text, events: seen };
  },
  async responses_parse(ask) {
    const format = { type: "json_schema", ...responseFormat.json_schema };
    const response = await client(ask).responses.parse({ model: ask.model, input: ask.query, text: { format } });
    return { answer: JSON.parse(response.output_text).answer };
  },
  async embeddings(ask) {
    const told = await client(ask).embeddings.create({ model: ask.model, input: ask.query });
    return { embedding: told.data[0].embedding };
  },
  async models(ask) {
    const names = [];
    for await (const card of client(ask).models.list()) names.push(card.id);
    return { names, its: (await client(ask).models.retrieve(ask.model)).its };
  },
  async completion(ask) {
    const told = await client(ask).completions.create({ model: ask.model, prompt: ask.query });
    return { text: told.choices[0].text, finish_reason: told.choices[0].finish_reason };
  },
  async completion_stream(ask) {
    const told = { text: "", n_pieces: 0 };
    const body = { model: ask.model, prompt: ask.query, stream: true };
    for await (const chunk of await client(ask).completions.create(body)) {
      told.text += chunk.choices[0].text;
      told.n_pieces += 1;
    }
    return told;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  const told = await kinds[ask.kind](ask).catch((error) => ({ raised: error.constructor.name, message: error.message }));
  console.log(JSON.stringify(told));
}
