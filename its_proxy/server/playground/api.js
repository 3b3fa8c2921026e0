/** The server's routes as this page asks them. The key lives in this object and nowhere else. */

/** What went wrong, in one line, and what to do about it in another. */
export class Trouble extends Error {
  constructor(line, advice = "", { status = 0, param = null } = {}) {
    super(line);
    this.advice = advice;
    this.status = status;
    this.param = param;
  }
}

export class Api {
  key = "";

  async models() {
    const response = await this.#send("v1/models");
    return (await response.json()).data;
  }

  /** One plain request: a chat completion, or the plan for one. */
  async complete(body, signal) {
    const response = await this.#send("v1/chat/completions", body, signal);
    return response.json();
  }

  /** The JSON events of a streamed one, as they come. */
  async *stream(body, signal) {
    const response = await this.#send("v1/chat/completions", { ...body, stream: true }, signal);
    for await (const line of lines(response.body)) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw refusal(502, event.error, null);
      yield event;
    }
    throw new Trouble("The stream ended in the middle.", "Is the server still there? Ask again.");
  }

  async #send(path, body, signal) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const init = { headers, signal, cache: "no-store" };
    if (body) {
      headers["Content-Type"] = "application/json";
      Object.assign(init, { method: "POST", body: JSON.stringify(body) });
    }
    const response = await fetch(path, init).catch((error) => {
      throw error.name === "AbortError" ? error : gone();
    });
    if (response.ok) return response;
    const { error = {} } = await response.json().catch(() => ({}));
    throw refusal(response.status, error, response.headers.get("Retry-After"));
  }
}

const gone = () =>
  new Trouble(`The server at ${location.host} cannot be reached.`, "Start its-proxy again, then ask again: this page can stay open.");

function refusal(status, error, retryAfter) {
  const line = error.message ?? `The server answered ${status}.`;
  return new Trouble(line, advice(status, error, retryAfter), { status, param: error.param });
}

function advice(status, error, retryAfter) {
  if (status === 401) return "Enter the key above, then ask again.";
  if (status === 403) return "This key may not do that: choose “as recorded”, or use a key that has the right.";
  if (error.code === "model_pending") return `It is still being checked: ask again in ${retryAfter ?? 1} s, or choose another model.`;
  if (status === 503 || status === 429) return `Ask again${retryAfter ? ` in ${retryAfter} s` : ""}, or choose another model.`;
  if (status >= 500) return "The server behind its-proxy failed: its own log has the reason.";
  return "";
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      const parts = (rest + (value ?? "")).split(/\r\n|\n|\r/);
      rest = parts.pop();
      yield* parts;
      if (done) break;
    }
    if (rest) yield rest;
  } catch (error) {
    throw error.name === "AbortError" ? error : gone();
  } finally {
    reader.cancel().catch(() => {});
  }
}
