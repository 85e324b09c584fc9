// Opens the page: reads the link, asks the server what it has, and shows one part at a time.

import { Api } from "./api.js";
import { askKey } from "./key.js";
import { chatOf, changes, defaults, format, parse } from "./state.js";
import { Context } from "./context.js";
import { counted, integer } from "./format.js";
import { el, replace } from "./dom.js";
import { PARTS } from "./parts.js";
import { load } from "./drawing.js";
import { save, savedPage } from "./export.js";
import { startTheme } from "./theme.js";

const TYPING_MS = 60; // a pause between letters
const LINK_MS = 250; // browsers refuse more than a few hundred new links in half a minute
const COSTLY = ["text", "messages", "token_ids", "model"]; // what makes the model read again
const at = (id) => document.getElementById(id);

class App {
  #context = null;
  #part = null;
  #pending = new Set();
  #timer = 0;
  #linkTimer = 0;
  #opened = 0;

  constructor() {
    const page = savedPage();
    this.isSaved = page !== null;
    this.saved = page?.data ?? null;
    this.state = page ? { ...defaults(), ...page.state } : parse(location.hash);
    this.meta = page?.meta ?? null;
    this.api = new Api(askKey, page?.answers ?? null);
  }

  async start() {
    const asked = this.meta ? null : this.api.get("meta").catch((error) => error);
    startTheme(at("theme"));
    this.#listParts();
    this.#listen();
    this.#show();
    await load();
    const found = await asked; // the server answers while the frame is drawn
    if (found instanceof Error) {
      this.notice(found.message);
      return;
    }
    this.meta ??= found;
    this.#listModels();
    await this.#open();
    document.documentElement.dataset.ready = "yes";
  }

  // Changes the state and the link.  The open part hears of it with the next frame; of a change
  // that makes the model read again, after a short pause.
  change(patch) {
    const before = this.state;
    this.state = { ...before, ...patch };
    const changed = changes(before, this.state);
    if (changed.size === 0) return;
    this.#link();
    this.#show();
    if (changed.has("part")) {
      this.#open();
      return;
    }
    changed.forEach((name) => this.#pending.add(name));
    clearTimeout(this.#timer);
    const isCostly = COSTLY.some((name) => this.#pending.has(name));
    this.#timer = setTimeout(() => this.#update(), isCostly ? TYPING_MS : 0);
  }

  #link() {
    if (this.isSaved) return;
    clearTimeout(this.#linkTimer);
    this.#linkTimer = setTimeout(() => history.replaceState(null, "", format(this.state)), LINK_MS);
  }

  notice(text) {
    at("notice").textContent = text;
    at("notice").hidden = text === "";
  }

  announce(text) {
    at("announce").textContent = text;
  }

  async #update() {
    const change = this.#pending;
    this.#pending = new Set();
    if (!this.#part && change.has("model")) { // the one before was none of the server's
      await this.#open();
      return;
    }
    await this.#guarded(async () => {
      await this.#learn();
      await this.#part?.update(change);
    });
  }

  // The facts of the model that the state names, where they are those of another.
  async #learn() {
    const model = this.state.model ?? this.meta.models[0];
    if (this.isSaved || model === this.meta.model) return;
    const meta = await this.api.post("meta", { model });
    if (model !== (this.state.model ?? this.meta.models[0])) return;
    this.meta = meta;
    this.#listModels();
  }

  // Runs a part's code; what goes wrong is said above the view.
  async #guarded(work) {
    try {
      await work();
    } catch (error) {
      this.notice(error.message);
      if (error.status === undefined) console.error(error);
    }
  }

  async #open() {
    const turn = ++this.#opened;
    const listed = PARTS.find((each) => each.id === this.state.part) ?? PARTS[0];
    this.state = { ...this.state, part: listed.id };
    this.#show();
    clearTimeout(this.#timer);
    this.#pending = new Set();
    this.#context?.close();
    this.#part?.close();
    this.#part = null;
    this.notice("");
    this.api.forget();
    at("part-title").textContent = listed.title;
    document.title = `${listed.title} · Pyroclast`;
    const { part } = await listed.load();
    if (turn !== this.#opened) return;
    document.querySelector(".given").hidden = part.ownText === true;
    at("part-explain").textContent = part.explain.join(" ");
    replace(at("part-code"), "Computed by ", this.#codeLink(part.code));
    this.#context = new Context(this);
    const root = el("div", { class: "part", "data-part": part.id });
    replace(at("part-root"), root);
    await this.#guarded(async () => {
      await this.#learn();
      if (turn !== this.#opened) return;
      this.#part = part;
      await part.open(root, this.#context);
    });
    root.dataset.open = "yes";
    this.#center();
  }

  // On a narrow screen the list of parts is one line: the open part stands in its middle.
  #center() {
    const [nav, link] = [at("parts").parentElement, at("parts").querySelector("[aria-current]")];
    if (link) nav.scrollLeft = link.offsetLeft - (nav.clientWidth - link.offsetWidth) / 2;
  }

  #codeLink(path) {
    if (this.isSaved) return el("code", {}, path);
    return el("a", { href: `code/${path}`, target: "_blank", rel: "noopener" }, el("code", {}, path));
  }

  #listParts() {
    const listed = this.isSaved ? PARTS.filter((p) => p.id === this.state.part) : PARTS;
    replace(at("parts"), listed.map((part, i) => el("li", {},
      el("a", { href: `#part=${part.id}`, "data-part": part.id, onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.change({ part: part.id });
      } }, el("span", { class: "part-number", "aria-hidden": true }, i + 1), part.title))));
  }

  #listModels() {
    const names = this.meta.models;
    const model = at("model");
    replace(model, names.map((name) => el("option", { value: name }, name)));
    model.value = this.state.model ?? names[0];
    // A link may name a model that this server lacks: then there is a choice of one.
    model.hidden = names.length < 2 && (this.state.model ?? names[0]) === names[0];
    at("model-name").hidden = !model.hidden;
    at("model-name").textContent = names[0] ?? "";
    const chat = document.querySelector("#reading [value=chat]");
    chat.disabled = !this.meta.has_template;
    chat.parentElement.title = chat.disabled ? "This model has no chat template." : "";
  }

  #listen() {
    const text = at("text");
    text.addEventListener("input", () => this.change(this.#contextOf(text.value)));
    at("reading").addEventListener("change", () => this.change(this.#contextOf(text.value)));
    at("model").addEventListener("change", () => this.change({ model: at("model").value }));
    at("export").addEventListener("click", () => this.#guarded(() => save(this.#savable())));
    at("skip").addEventListener("click", (event) => {
      event.preventDefault();
      at("main").focus();
    });
    window.addEventListener("resize", () => this.#center());
    window.addEventListener("hashchange", () => this.change(parse(location.hash)));
    text.readOnly = this.isSaved;
    at("export").hidden = at("reading").hidden = this.isSaved;
  }

  #contextOf(text) {
    const isChat = document.querySelector("#reading [value=chat]").checked;
    return { text, messages: isChat ? chatOf(text) : null, token_ids: null, position: null };
  }

  #savable() {
    return {
      state: this.state, meta: this.meta, answers: this.api.record,
      data: this.#part?.data() ?? null,
    };
  }

  // The controls of the frame follow the state.
  #show() {
    const { state } = this;
    if (at("text").value !== state.text) at("text").value = state.text;
    const reading = state.messages ? "chat" : "text";
    document.querySelector(`#reading [value=${reading}]`).checked = true;
    if (state.model) at("model").value = state.model;
    const n = state.text.length;
    at("count").textContent = state.token_ids
      ? `continued to ${counted(state.token_ids.length, "token")}` : `${integer(n)} characters`;
    for (const link of at("parts").querySelectorAll("a")) {
      const isOpen = link.dataset.part === state.part;
      if (isOpen) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      link.href = format({ ...state, part: link.dataset.part });
    }
  }
}

new App().start();
