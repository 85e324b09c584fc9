// One HTML file that holds the view on the page, and needs no server.

const PLACE = "__SAVED__"; // first in the template: where it wants the data

// What a saved page holds: {state, meta, answers, data}; null on a live page.
export function savedPage() {
  const found = document.getElementById("saved");
  return found ? JSON.parse(found.textContent) : null;
}

// Downloads the view.
export async function save(page) {
  const response = await fetch("export.html");
  if (!response.ok)
    throw new Error("Export needs the bundled page, which this installation lacks: `make page` "
      + "builds it (it needs npm).");
  const template = await response.text();
  // In JSON, "<" only occurs in strings: so no text can end the script element that holds it.
  const data = JSON.stringify(page).replaceAll("<", "\\u003c");
  const file = new Blob([template.replace(PLACE, () => data)], { type: "text/html" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `pyroclast-${page.state.part}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
