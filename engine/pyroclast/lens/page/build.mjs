// Builds vendor/: the drawing library as one module, every script as one, and the licenses of what is
// inside.  `make page` runs it.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";

const DRAWING = `
  export { scaleLinear, scaleLog } from "d3-scale";
  export { area, curveStepAfter, line } from "d3-shape";
  export { hierarchy, tree } from "d3-hierarchy";
`;
const shared = {
  bundle: true, minify: true, metafile: true, charset: "utf8", legalComments: "none",
  target: "es2022",
};

const { metafile } = await build({
  ...shared, format: "esm", outfile: "vendor/d3.js",
  stdin: { resolveDir: ".", contents: DRAWING },
});
// The last line names the scripts that it was made of: pyroclast.lens.page compares them.
const made = createHash("sha256");
for (const name of (await readdir("js")).filter((each) => each.endsWith(".js")).sort())
  made.update(`${name}\0`).update(await readFile(`js/${name}`)).update("\0");
await build({
  ...shared, format: "iife", entryPoints: ["js/main.js"], outfile: "vendor/page.js",
  footer: { js: `// made of ${made.digest("hex")}` },
});

const packages = Object.keys(metafile.inputs).flatMap((path) => path.match(/node_modules\/([^/]+)/)?.[1] ?? []);
const licenses = await Promise.all([...new Set(packages)].sort().map(async (name) => {
  const text = await readFile(`node_modules/${name}/LICENSE`, "utf8");
  return `${name}\n\n${text.trim()}\n`;
}));
await writeFile("vendor/LICENSES.txt", licenses.join(`\n${"-".repeat(80)}\n\n`));
