// Questions that a piece of a part asks: each only when its words have changed.

/** A function from a body to the answer of the endpoint `name`; undefined where the body is that of
 * the last question, where a later question has overtaken this one, or where the server refuses:
 * then `refused` is told why, in the server's words.  The request is about the model that the link
 * names.  `slot` tells two askers of one endpoint apart. */
export function asker(context, name, refused, slot = name) {
  let last = null;
  const ask = async (more) => {
    const { model } = context.state;
    const body = model ? { model, ...more } : more;
    const key = JSON.stringify(body);
    if (key === last) return undefined;
    last = key;
    try {
      return await context.ask(name, body, { context: false, as: slot });
    } catch (error) {
      if (error.status === undefined) {
        last = null;
        throw error;
      }
      refused(error.message);
      return undefined;
    }
  };
  // The next question is asked even if it is that of the last time.
  ask.forget = () => {
    last = null;
  };
  return ask;
}

/** Changes some names of state.view, which the link carries; null takes one out. */
export function patcher(context) {
  return (changed) => context.onChange({ view: { ...context.state.view, ...changed } });
}
