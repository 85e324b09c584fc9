// The drawing library, d3, as `make page` bundles it.  A checkout without the bundle still shows
// every table: a chart is then a line that says how to make it.

let library = null;

export async function load() {
  try {
    library = await import("../vendor/d3.js");
  } catch (error) {
    console.info("no drawings:", error.message);
  }
}

// {scaleLinear, scaleLog, line, area, curveStepAfter, hierarchy, tree, ...}, or null.
export function d3() {
  return library;
}
