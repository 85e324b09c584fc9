// Numbers as the page shows them, one way everywhere.

// A probability in percent, three significant digits: "41.2 %", "0.0123 %", "< 0.0001 %".  No line
// breaks inside it.
export function percent(p) {
  if (p === 0) return "0\u00a0%";
  if (p < 1e-6) return "<\u00a00.0001\u00a0%";
  const x = 100 * p;
  if (Math.abs(x - 100) < 0.05) return x < 100 - 1e-9 ? ">\u00a099.9\u00a0%" : "100\u00a0%";
  return `${x >= 0.1 ? x.toPrecision(3) : x.toFixed(4)}\u00a0%`;
}

// A probability given by its logarithm, however small: in percent, or as a power of ten.
export function chance(logP) {
  if (logP > Math.log(1e-6)) return percent(Math.exp(logP));
  const raised = String(Math.round(-logP / Math.LN10)).replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
  return `about 10⁻${raised}`;
}

// With a fixed number of decimals and a real minus sign.
export function fixed(x, digits = 2) {
  return x === -Infinity ? "−∞" : x.toFixed(digits).replace("-", "−");
}

const WHOLE = new Intl.NumberFormat("en-US"); // made once: it takes longer than to use it

// With thousands separators.
export function integer(n) {
  return WHOLE.format(n);
}

// "1 token", "2 tokens".
export function counted(n, noun) {
  return `${integer(n)} ${noun}${n === 1 ? "" : "s"}`;
}
