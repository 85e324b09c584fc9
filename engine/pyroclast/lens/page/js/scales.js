// Scales for the charts, and boxes that redraw when their width changes.

/** A function from low..high to from..to. */
export function linear(low, high, from, to) {
  const factor = high === low ? 0 : (to - from) / (high - low);
  return (value) => from + (value - low) * factor;
}

/** Round numbers between low and high, at most about `count` of them. */
export function ticks(low, high, count = 5) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = power * [1, 2, 5, 10].find((multiple) => span / (power * multiple) <= count + 1e-9);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const steps = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  // A quotient of two integers prints as it should; 3 * 0.1 would be 0.30000000000000004.
  return steps.map((n) => (step < 1 ? n / Math.round(1 / step) : n * step));
}

/** Pixels of the screen for one of a drawing, which grows with the letters of the page. */
export function unit() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
}

/** Puts the drawing paint(width) into box, now and whenever the width of box changes; `draw` does it
 * again.  The width is in the drawing's own pixels, of `unit` of the screen's.  A paint that has
 * nothing yet to show returns null. */
export function responsive(box, paint) {
  let width = 0;
  const draw = () => {
    const painted = width > 0 ? paint(Math.floor(width / unit())) : null;
    if (!painted) return;
    for (const name of ["width", "height"])
      painted.setAttribute(name, Number(painted.getAttribute(name)) * unit());
    box.replaceChildren(painted);
  };
  // An empty box has no width of its own.
  box.classList.add("responsive");
  const observer = new ResizeObserver((entries) => {
    const now = Math.floor(entries[0].contentRect.width);
    if (now === width) return;
    width = now;
    draw();
  });
  observer.observe(box);
  return { draw, stop: () => observer.disconnect() };
}
