// Requests to /look/api/, and their record: what was asked for the view on the page is what Export
// saves, and a saved page answers from it without a server.

export const NO_SERVER = 0; // the status of what a saved page does not hold

class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Api {
  #key = "";
  #askKey;
  #record = [];
  #saved;

  // askKey: async () -> a key, when the server wants one.  saved: the record of a saved page.
  constructor(askKey, saved = null) {
    this.#askKey = askKey;
    this.#saved = saved;
  }

  // What was answered since the last `forget`: [{name, slot, body, answer}].
  get record() {
    return this.#record;
  }

  forget() {
    this.#record = [];
  }

  async get(name, signal) {
    return this.#answered(name, null, signal, "GET");
  }

  // The JSON answer; ApiError with the server's own words if it refuses.  slot: the record keeps
  // the last answer of each, so that it stays as small as the view; texts of tokens add up.
  async post(name, body, signal, slot = name) {
    return this.#answered(name, body, signal, "POST", slot);
  }

  // The JSON values of server-sent events, as they come.
  async *events(name, body, signal) {
    if (this.#saved) throw noServer();
    const response = await this.#fetch(name, body, signal, "POST");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const found = dataOf(event);
        if (found === null) continue;
        if (found.error) throw new ApiError(found.error.message, response.status);
        yield found;
      }
    }
  }

  async #answered(name, body, signal, method, slot = name) {
    if (this.#saved) return this.#find(name, body);
    const response = await this.#fetch(name, body, signal, method);
    const answer = await response.json();
    this.#keep(name, body, answer, slot);
    return answer;
  }

  async #fetch(name, body, signal, method) {
    for (;;) {
      const headers = { accept: "application/json, text/event-stream" };
      if (this.#key) headers.authorization = `Bearer ${this.#key}`;
      if (body) headers["content-type"] = "application/json";
      const sent = body ? JSON.stringify(body) : undefined;
      const response = await fetch(`api/${name}`, { method, headers, body: sent, signal })
        .catch(unreachable);
      if (response.ok) return response;
      if (response.status !== 401) throw await refusal(response);
      this.#key = await this.#askKey();
    }
  }

  #keep(name, body, answer, slot) {
    if (name !== "pieces") this.#record = this.#record.filter((each) => each.slot !== slot);
    this.#record.push({ name, slot, body, answer });
  }

  // A record without a body, which Python writes, answers every question of its name.
  #find(name, body) {
    const asked = JSON.stringify(body);
    const found = this.#saved.find(
      (each) => each.name === name && (!each.body || JSON.stringify(each.body) === asked),
    );
    if (!found) throw noServer();
    return found.answer;
  }
}

// fetch rejects with a TypeError where there is no answer at all.
function unreachable(error) {
  if (!(error instanceof TypeError)) throw error;
  throw new ApiError("The server does not answer. Is it still running?", NO_SERVER);
}

function noServer() {
  return new ApiError("This is a saved page: it holds one view, and a model is needed for others. "
    + "`pyroclast look` opens the live page.", NO_SERVER);
}

function dataOf(event) {
  const lines = event.split("\n").filter((line) => line.startsWith("data:"));
  const text = lines.map((line) => line.slice(5).trim()).join("\n");
  return text === "" || text === "[DONE]" ? null : JSON.parse(text);
}

async function refusal(response) {
  const text = await response.text();
  try {
    return new ApiError(JSON.parse(text).error.message, response.status);
  } catch {
    return new ApiError(`the server answered ${response.status}`, response.status);
  }
}

const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

// float32, little endian, from base64.  Loops: a call for each byte would take longer than the rest
// of a view.
export function floats(base64) {
  const text = atob(base64);
  const raw = new Uint8Array(text.length);
  for (let i = 0; i < raw.length; i++) raw[i] = text.charCodeAt(i);
  if (IS_LITTLE_ENDIAN) return new Float32Array(raw.buffer);
  const view = new DataView(raw.buffer);
  return Float32Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
