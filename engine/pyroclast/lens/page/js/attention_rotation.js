// Positions: how far each pair of a head's numbers is rotated by a distance.

import { asker } from "./asks.js";
import { el, replace, svg } from "./dom.js";
import { fixed } from "./format.js";
import { section, slider } from "./fields.js";

const FARTHEST = 64;
const N_DIALS = 8;
const RADIUS = 34;

/** {node, show(), stop()}; of the first layer that rotates */
export function rotationOf(context) {
  const ask = asker(context, "rotation", refused);
  const dials = el("div", { class: "dials" });
  let angles = null;
  let distance = 4;
  const control = slider({
    label: "Distance in tokens",
    min: 0,
    max: FARTHEST,
    value: distance,
    onInput: (now) => {
      distance = now;
      draw();
    },
  });
  const node = section(
    "How it knows what is near",
    "A head compares tokens by pairs of numbers, and each pair is rotated like the hand " +
      "of a clock as the position grows. Only the angle between two tokens counts, so the " +
      "model sees their distance. Fast hands tell neighbours apart; slow hands tell near " +
      "from far.",
    el("div", { class: "controls" }, control.node),
    dials,
  );

  async function show() {
    const distances = Array.from({ length: FARTHEST + 1 }, (_, i) => i);
    const answer = await ask({ distances });
    if (!answer) return;
    angles = answer.angles;
    draw();
  }

  // Not every model rotates: some learn a vector for each position instead.
  function refused(why) {
    control.node.hidden = true;
    replace(dials, el("p", {}, why));
  }

  function draw() {
    if (!angles) return;
    const pairs = angles.length;
    const n = Math.min(N_DIALS, pairs);
    const chosen = Array.from({ length: n }, (_, i) =>
      Math.round((i * (pairs - 1)) / Math.max(1, n - 1)),
    );
    replace(
      dials,
      chosen.map((pair) => dial(pair, angles[pair][distance], angles[pair][1])),
    );
  }

  return { node, show, stop() {} };
}

function degrees(angle) {
  const turned = (angle * 180) / Math.PI;
  return `${turned !== 0 && Math.abs(turned) < 0.1 ? fixed(turned, 3) : fixed(turned, 1)}\u00b0`;
}

function dial(pair, angle, step) {
  const hand = (at, kind) =>
    svg("line", {
      class: kind,
      x1: 0,
      y1: 0,
      x2: (RADIUS - 4) * Math.sin(at),
      y2: -(RADIUS - 4) * Math.cos(at),
    });
  const size = 2 * RADIUS + 4;
  return el(
    "div",
    { class: "dial" },
    svg(
      "svg",
      {
        width: size,
        height: size,
        viewBox: `${-size / 2} ${-size / 2} ${size} ${size}`,
        "aria-hidden": "true",
      },
      svg("circle", { class: "dial-face", r: RADIUS }),
      hand(0, "dial-start"),
      hand(angle, "dial-hand"),
    ),
    el("p", { class: "dial-name" }, `pair ${pair}`),
    el("p", { class: "num" }, degrees(angle)),
    el("p", { class: "faint num" }, `${degrees(step)} a token`),
  );
}
