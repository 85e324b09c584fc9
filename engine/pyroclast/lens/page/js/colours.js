// Colours that the colour-blind can tell apart: Okabe and Ito's for kinds, cividis for amounts.

const KINDS = [
  "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999",
];

// Nunez, Anderton and Renslow 2018, nine stops from low to high.
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [254, 232, 56],
];

// The colour of a share from 0 to 1, as {fill, ink}: ink is black or white, whichever reads better.
export function amount(share) {
  const x = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(x));
  const rgb = CIVIDIS[low].map((c, i) => Math.round(c + (CIVIDIS[low + 1][i] - c) * (x - low)));
  return { fill: `rgb(${rgb.join(" ")})`, ink: luminance(rgb) > 0.18 ? "#000" : "#fff" };
}

// The colour of kind number i, as {fill, ink}.
export function kind(i) {
  const fill = KINDS[i % KINDS.length];
  const rgb = [1, 3, 5].map((at) => parseInt(fill.slice(at, at + 2), 16));
  return { fill, ink: luminance(rgb) > 0.18 ? "#000" : "#fff" };
}

// WCAG's relative luminance; above 0.18, black has the higher contrast.
function luminance(rgb) {
  const [r, g, b] = rgb.map((c) => {
    const s = c / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
