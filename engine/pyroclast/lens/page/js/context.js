// What an open part is handed (parts.js says what each field is for).

import { body } from "./state.js";
import * as charts from "./charts.js";
import * as colours from "./colours.js";
import * as text from "./text.js";
import { d3 } from "./drawing.js";

export class Context {
  #app;
  #running = new Map(); // name -> AbortController of the last request of that name
  charts = charts;
  colours = colours;
  text = text;

  // app: {api, meta, state, change(patch), notice(text), announce(text), saved}
  constructor(app) {
    this.#app = app;
  }

  get api() { return this.#app.api; }
  get meta() { return this.#app.meta; }
  get state() { return this.#app.state; }
  get saved() { return this.#app.saved; }
  get d3() { return d3(); }

  onChange(patch) { this.#app.change(patch); }
  notice(text) { this.#app.notice(text); }
  announce(text) { this.#app.announce(text); }

  async ask(name, more = {}, { context = true, as = name } = {}) {
    const control = this.#begin(as);
    try {
      const asked = context ? { ...body(this.state), ...more } : this.#named(more);
      const answer = await this.api.post(name, asked, control.signal, as);
      if (control.signal.aborted) return undefined;
      this.notice("");
      return answer;
    } catch (error) {
      if (control.signal.aborted) return undefined;
      throw context ? this.#inWords(error) : error;
    }
  }

  async *stream(name, more = {}, { context = true, as = name } = {}) {
    const control = this.#begin(as);
    try {
      const asked = context ? { ...body(this.state), ...more } : this.#named(more);
      for await (const event of this.api.events(name, asked, control.signal)) {
        if (control.signal.aborted) return;
        yield event;
      }
    } catch (error) {
      if (!control.signal.aborted) throw context ? this.#inWords(error) : error;
    } finally {
      control.abort();
    }
  }

  cancel(name) {
    this.#running.get(name)?.abort();
  }

  // Ends all requests: another part opens.
  close() {
    for (const control of this.#running.values()) control.abort();
  }

  // The server speaks of contexts and tokens; whoever has emptied the text needs other words.
  #inWords(error) {
    const { text, messages, token_ids } = this.state;
    if (error.status === 400 && text === "" && !messages && !token_ids)
      error.message = "Write a few words above: the model needs something to go on from.";
    return error;
  }

  #named(more) {
    return this.state.model ? { model: this.state.model, ...more } : more;
  }

  #begin(name) {
    this.cancel(name);
    const control = new AbortController();
    this.#running.set(name, control);
    return control;
  }
}
