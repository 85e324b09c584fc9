// The parts of the page, in order.  Each module exports `part`:
//   id, title         as here
//   explain           two or three sentences for someone who has read a popular explanation
//   code              the file that computes it, by its path in the repository
//   ownText           true where the part has texts of its own, and the frame's is hidden
//   open(root, context)   fills an empty element; awaited
//   update(change)    the state changed; `change` is a Set of its keys ("text", "params", ...)
//   close()           leaves nothing running
//   data()            JSON of the view beyond the state and the answers; back as context.saved
// context:
//   api, meta         api.js, and the answer to GET meta
//   state             the current state (state.js); a new object after each change
//   onChange(patch)   changes the state and the link, then calls update of the open part
//   ask(name, more, {context, as})  POST of the context and `more`; undefined if a later ask of that
//                     name, or another part, has overtaken it.  context: false leaves it out; as:
//                     another name, for two asks of one endpoint that do not overtake each other
//   stream(name, more, {context, as})  the same for events: an async iterator that ends when it is overtaken
//   cancel(name)      ends a stream
//   notice(text)      a message above the view; "" removes it
//   announce(text)    says it to screen readers
//   text, colours, charts, d3   dom.js and format.js, colours.js, charts.js, the library or null
//   saved             what data() gave, on a saved page; else null

export const PARTS = [
  { id: "words", title: "Words in numbers", load: () => import("./part_words.js") },
  { id: "meaning", title: "Meaning as place", load: () => import("./part_meaning.js") },
  { id: "attention", title: "Where it looks", load: () => import("./part_attention.js") },
  { id: "layers", title: "Layer by layer", load: () => import("./part_layers.js") },
  { id: "next", title: "P(next | context)", load: () => import("./part_next.js") },
  { id: "temperature", title: "Temperature and the draw", load: () => import("./part_temperature.js") },
  { id: "loop", title: "The loop", load: () => import("./part_loop.js") },
  { id: "compare", title: "Two settings", load: () => import("./part_compare.js") },
  { id: "hood", title: "Under the hood", load: () => import("./part_hood.js") },
  { id: "training", title: "Training in a picture", load: () => import("./part_training.js") },
];
