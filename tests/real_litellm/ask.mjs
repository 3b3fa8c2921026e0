// Asks once with OpenAI's own client and prints what came, as one JSON object.
// stdin: {url, key, path, body, headers, abortMs}; NPM is the folder that holds node_modules.
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const { OpenAI, APIError, APIUserAbortError } = createRequire(`${process.env.NPM}/`)("openai");
const { url, key, path, body, headers, abortMs } = JSON.parse(await text(process.stdin));
const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
const create = {
  "chat/completions": (body, options) => client.chat.completions.create(body, options),
  responses: (body, options) => client.responses.create(body, options),
  messages: (body, options) => client.post("/messages", { body, ...options }),
}[path];
const controller = new AbortController();
if (abortMs) setTimeout(() => controller.abort(), abortMs);

try {
  const { data, response } = await create(body, { headers, signal: controller.signal }).withResponse();
  const told = { status: response.status, headers: Object.fromEntries(response.headers) };
  if (body.stream) {
    told.chunks = [];
    for await (const chunk of data) told.chunks.push(chunk);
  } else {
    told.body = data;
  }
  console.log(JSON.stringify(told));
} catch (error) {
  if (error instanceof APIUserAbortError) console.log(JSON.stringify({ status: 0, error: "aborted" }));
  else if (error instanceof APIError)
    console.log(JSON.stringify({ status: error.status, error: error.constructor.name, message: error.message }));
  else throw error;
}
