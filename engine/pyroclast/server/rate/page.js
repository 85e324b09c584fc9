// Shows a pair of answers, sends which one is better, and shows the next pair.

const CHOICE_OF = { 1: "a", ArrowLeft: "a", 2: "b", ArrowRight: "b", 0: "skip" };
const at = (id) => document.getElementById(id);
let pair = null;
let busy = false;

function showPrompt(prompt) {
  const messages = typeof prompt === "string" ? [{ role: "", content: prompt }] : prompt;
  at("prompt").replaceChildren(
    ...messages.flatMap(({ role, content }) => {
      const who = document.createElement("small");
      const what = document.createElement("p");
      who.textContent = role;
      what.textContent = content;
      return role ? [who, what] : [what];
    }),
  );
}

function show(state) {
  pair = state.pair;
  at("progress").textContent = pair
    ? `${state.done} of ${state.wanted} rated`
    : `All ${state.wanted} pairs are rated. Thank you.`;
  at("bar").max = state.wanted;
  at("bar").value = state.done;
  showPrompt(pair ? pair.prompt : "");
  at("answers").hidden = at("prompt").hidden = !pair;
  for (const side of ["a", "b"]) {
    at(side).querySelector(".text").textContent = pair ? pair[side] || "(empty)" : "";
  }
  for (const id of ["a", "b", "skip"]) at(id).disabled = !pair;
}

async function ask(path, body) {
  if (busy) return;
  busy = true;
  at("error").textContent = "";
  const headers = { "content-type": "application/json" };
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : {};
  try {
    const reply = await fetch(path, options);
    const state = await reply.json();
    if (!reply.ok) throw new Error(state.error);
    show(state);
  } catch (error) {
    at("error").textContent = `${error.message}. Reload the page to go on.`;
  } finally {
    busy = false;
  }
}

const rate = (choice) => pair && ask("api/rating", { id: pair.id, choice });
const undo = () => ask("api/undo", {});

for (const id of ["a", "b", "skip"]) at(id).addEventListener("click", () => rate(id));
at("undo").addEventListener("click", undo);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key.toLowerCase() === "u") undo();
  else if (event.key in CHOICE_OF) rate(CHOICE_OF[event.key]);
});
ask("api/pair");
