"""The look of a report: colours, CSS, and a short script that shows tooltips.

All of it is constant; nothing from a result file enters it.  Colours follow the reader's light or
dark setting.  Those of the heat map are the same in both; the text on them is black or white,
whichever has more contrast (at least 4.5 by WCAG 2).
"""

from __future__ import annotations

import base64
import hashlib

# technology -> (colour on light, colour on dark, shape in a box of 12)
TECHNOLOGIES = {
    "NumPy": ("#6b6560", "#b3aca4", "M0,-4A4,4 0 1 0 0,4A4,4 0 1 0 0,-4Z"),
    "NumPy + BLAS": ("#3f3a36", "#e8e2da", "M-4.5,-1.4H4.5V1.4H-4.5Z"),
    "Numba": ("#1766ad", "#6cb2ff", "M0,-5L5,4H-5Z"),
    "Cython": ("#8a6100", "#f2c94c", "M-4,-4H4V4H-4Z"),
    "C++ baseline": ("#8f4a34", "#d19a86", "M0,-5.4L3,0L0,5.4L-3,0Z"),
    "C++ AVX2": ("#c2370c", "#ff8050", "M0,-5.4L5.4,0L0,5.4L-5.4,0Z"),
    "C++ AVX-512": ("#b3006b", "#ff7ac2", "M0,-5.4L4.7,-2.7V2.7L0,5.4L-4.7,2.7V-2.7Z"),
    "C++": ("#85560a", "#e0ae5e", "M0,-5.2L5,-1.6L3.1,4.3H-3.1L-5,-1.6Z"),  # files of one's own
    "Triton": ("#0b7468", "#3fd8c4", "M0,5L5,-4H-5Z"),
    "other": ("#7a32c4", "#cb9bff", "M-1.4,-5H1.4V-1.4H5V1.4H1.4V5H-1.4V1.4H-5V-1.4H-1.4Z"),
}
# Shares of the roofline in ten steps of 10%, from cold rock to glowing.
SHARE_STEPS = (
    "#241c3a", "#44214f", "#661f55", "#8a2250", "#ac2d44",
    "#cb4333", "#e4622a", "#f28831", "#f9b04a", "#fed976",
)  # fmt: skip
# Ratios to NumPy, split at RATIO_LIMITS; slower is blue.
RATIO_LIMITS = (0.25, 0.5, 0.95, 1.05, 2.0, 4.0, 8.0, 16.0, 32.0)
RATIO_STEPS = (
    "#12355f", "#2a63a0", "#86aed8", "#d9d5d0", "#fbdca6",
    "#f9b04a", "#f28831", "#e4622a", "#bd3537", "#7c1f4f",
)  # fmt: skip
LIGHT, DARK = ("#1d1916", "#fdfbf8"), ("#f0ebe4", "#16130f")  # ink, paper


def luminance(colour: str) -> float:
    """WCAG's relative luminance of "#rrggbb"."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours, from 1 to 21."""
    dim, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dim + 0.05)


def ink_on(colour: str) -> str:
    """Black or white, whichever has more contrast on the colour."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, colour))


def technology_of(variant: str) -> str:
    """The technology of a variant, by its name; in C++, with its level."""
    if variant == "numpy-blas":
        return "NumPy + BLAS"
    levels = {"cpp-baseline": "baseline", "cpp-avx2": "AVX2", "cpp-avx512": "AVX-512"}
    levels["cpp-avxvnni"] = "AVX2"  # registers of the same width
    for begin, level in levels.items():
        if variant.startswith(begin):
            return f"C++ {level}"
    names = {"numpy": "NumPy", "numba": "Numba", "cython": "Cython", "cpp": "C++"}
    return {**names, "triton": "Triton"}.get(variant.partition("-")[0], "other")


def technology_class(variant: str) -> str:
    """The CSS class of that technology."""
    return f"t{list(TECHNOLOGIES).index(technology_of(variant))}"


_BASE = """
:root{color-scheme:light dark;--ink:#1d1916;--paper:#fdfbf8;--soft:#5d554d;--line:#ded7ce;
--panel:#f5f0e9;--ember:#b8330a;--good:#12693a;--bad:#b3161f;--grid:#e9e2d9}
@media (prefers-color-scheme:dark){:root{--ink:#f0ebe4;--paper:#16130f;--soft:#b5aca1;
--line:#3a332c;--panel:#201b16;--ember:#ff8050;--good:#62cf90;--bad:#ff8a86;--grid:#2b2520}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
body::before{content:"";display:block;height:5px;
background:linear-gradient(90deg,#241c3a,#8a2250,#cb4333,#f28831,#fed976)}
main{max-width:1180px;margin:0 auto;padding:2.2rem 1.4rem 4rem}
h1,h2{font-family:"Iowan Old Style",Charter,"Palatino Linotype",Georgia,"DejaVu Serif",serif;
line-height:1.15;letter-spacing:-.012em;font-weight:600}
h1{font-size:clamp(1.9rem,5vw,3rem);margin:0 0 .4rem}
h2{font-size:clamp(1.35rem,3vw,1.8rem);margin:3.2rem 0 .35rem;scroll-margin-top:6rem}
h3{font-size:1rem;margin:1.7rem 0 .4rem}
.kicker{font-size:.83rem;letter-spacing:.06em;color:var(--ember);font-weight:600;margin:0 0 .3rem}
p{max-width:46rem;margin:.35rem 0 .9rem}
.soft,figcaption,caption{color:var(--soft)}
.tiles+p{margin-top:1rem}
.meta{font-size:.92rem;color:var(--soft);overflow-wrap:anywhere}
.contents{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:1.2rem 0 0;font-size:.92rem}
.contents a{color:var(--ember)}
code{font:.88em ui-monospace,"SF Mono","DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.8rem;
margin:1.5rem 0 0;padding:0;list-style:none}
.tiles li{background:var(--panel);border-radius:10px;padding:.8rem 1rem}
.tiles b{display:block;font-size:1.7rem;line-height:1.2;font-weight:600;
font-variant-numeric:tabular-nums;letter-spacing:-.02em}
.tiles span{font-size:.83rem;color:var(--soft);display:block;line-height:1.35}
em{font-style:normal}
.note{border-left:4px solid var(--bad);background:var(--panel);padding:.6rem .9rem;font-size:.92rem}
.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}
fieldset{border:0;margin:0 0 .4rem;padding:0;display:flex;flex-wrap:wrap;gap:.35rem;
align-items:center;min-width:0}
legend{float:left;font-size:.83rem;color:var(--soft);margin-right:.3rem;padding:0}
label.chip{position:relative;cursor:pointer}
label.chip input{position:absolute;opacity:0;inset:0;margin:0;cursor:pointer}
label.chip span{display:block;border:1px solid var(--line);border-radius:99px;
padding:.18rem .75rem;font-size:.85rem;line-height:1.5}
label.chip input:checked+span{background:var(--ink);color:var(--paper);border-color:var(--ink)}
label.chip input:focus-visible+span{outline:3px solid var(--ember);outline-offset:2px}
.bar{position:sticky;top:0;z-index:5;background:var(--paper);border-bottom:1px solid var(--line);
margin:1.6rem -1.4rem 0;padding:.6rem 1.4rem .2rem}
figure{margin:1rem 0}
.plot{padding:1.5rem 14px 46px 54px}
.plot svg{display:block;width:100%;height:440px;overflow:visible}
svg text{fill:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}
svg text.name{fill:var(--ink);paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.grid{stroke:var(--grid)}.roof{stroke:var(--ink);stroke-width:1.6}
.roof.dash{stroke-dasharray:5 4;stroke:var(--soft)}
.pt{opacity:.85;stroke:var(--paper);stroke-width:.8}
.pt:hover,.pt.on{opacity:1;stroke:var(--ink);stroke-width:1.6}
.dim{opacity:.28}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:0;margin:.2rem 0;list-style:none;
font-size:.85rem}
.legend svg{width:14px;height:14px;vertical-align:-2px;margin-right:.35rem;overflow:visible}
.lane{display:grid;grid-template:"label drawn best"/9.5rem 1fr 12rem;gap:0 .8rem;
align-items:center;font-size:.88rem}
.label{grid-area:label}.drawn{grid-area:drawn;margin:0 10px}.best{grid-area:best}
.lanes svg{display:block;width:100%;height:30px;overflow:visible}
.lanes .axis svg{height:22px}
.best{font-variant-numeric:tabular-nums;color:var(--soft)}
.best b{color:var(--ink)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;margin:.6rem 0 1.2rem}
.scroll:focus-visible{outline:3px solid var(--ember)}
table{border-collapse:collapse;font-size:.85rem;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.55rem .8rem;font-size:.85rem}
th,td{padding:.34rem .7rem;text-align:right;border-top:1px solid var(--line)}
th{font-weight:600;text-align:left;white-space:nowrap}
thead th{color:var(--soft);font-size:.78rem;vertical-align:bottom}
thead th.n{text-align:right}
td.w{text-align:left;overflow-wrap:anywhere;min-width:9rem}
tbody th{position:sticky;left:0;background:var(--paper);font-weight:500}
tbody.group th{position:static;background:var(--panel);white-space:normal}
td{white-space:nowrap}td.w{white-space:normal}
.sub{display:block;font-weight:400;color:var(--soft);font-size:.9em;white-space:normal;
min-width:8.5rem;overflow-wrap:anywhere}
.scroll:not(:has(.heat)){max-height:38rem}
.scroll thead th{position:sticky;top:0;background:var(--paper);z-index:2}
.heat td{text-align:center;padding:.42rem .3rem;min-width:3.6rem;border:2px solid var(--paper)}
.heat thead th{text-align:center;padding:.4rem .3rem;white-space:normal}
.heat td.no{color:var(--soft)}
.meter{display:inline-block;width:70px;height:8px;border-radius:4px;background:var(--line);
margin-left:.5rem;overflow:hidden}
.meter i{display:block;height:100%;background:var(--ember)}
.peer{display:grid;grid-template-columns:9rem 1fr;gap:.25rem .8rem;align-items:center;
font-size:.88rem;margin:.3rem 0 1.4rem;max-width:56rem}
.peer .track{display:flex;align-items:center;gap:.6rem;min-width:0}
.peer i{display:block;height:18px;border-radius:3px;background:var(--soft);flex:none;min-width:2px}
.peer .ours i{background:var(--ember)}
.peer span.v{white-space:nowrap;font-variant-numeric:tabular-nums}
details{border-top:1px solid var(--line)}
summary{cursor:pointer;padding:.55rem 0}
summary:focus-visible{outline:3px solid var(--ember)}
#tip{position:fixed;z-index:9;pointer-events:none;max-width:min(340px,calc(100vw - 24px));
background:var(--ink);color:var(--paper);font-size:.8rem;line-height:1.4;padding:.5rem .7rem;
border-radius:7px;white-space:pre-line;overflow-wrap:anywhere}
@media (max-width:640px){body{font-size:15px}main{padding:1.5rem 1rem 3rem}
.bar{margin:1.2rem -1rem 0;padding:.5rem 1rem .1rem}
.bar fieldset{flex-wrap:nowrap;overflow-x:auto;scrollbar-width:none}
.bar label{white-space:nowrap}
.plot{padding-left:44px;padding-right:6px}.plot svg{height:360px}
.lane{grid-template:"label best" "drawn drawn"/1fr auto;margin-top:.45rem}
.peer{grid-template-columns:1fr}
.peer .track{flex-direction:column;align-items:flex-start;gap:.1rem;margin-bottom:.3rem}
.peer span.v{white-space:normal}
th,td{padding:.34rem .5rem}
.tiles{grid-template-columns:1fr 1fr}}
@media (prefers-reduced-motion:no-preference){.pt{transition:opacity .15s}}
@media print{.bar{position:static}.scroll{max-height:none}}
"""

SCRIPT = """
(() => {
  const tip = document.createElement('div');
  tip.id = 'tip'; tip.hidden = true; tip.setAttribute('aria-hidden', 'true');
  document.body.append(tip);
  for (const title of document.querySelectorAll('.pt > title')) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  let at = null;
  const show = (event) => {
    const found = event.target.closest ? event.target.closest('[data-tip]') : null;
    if (at) at.classList.remove('on');
    at = found; tip.hidden = !found;
    if (!found) return;
    found.classList.add('on');
    tip.textContent = found.dataset.tip;
    const box = tip.getBoundingClientRect(), gap = 14;
    const room = document.documentElement.clientWidth - box.width - 12;
    const left = Math.min(event.clientX + gap, room);
    const above = event.clientY - box.height - gap;
    tip.style.left = Math.max(12, left) + 'px';
    tip.style.top = (above > 8 ? above : event.clientY + gap) + 'px';
  };
  document.addEventListener('pointerover', show);
  document.addEventListener('pointerdown', show);
  document.addEventListener('scroll', () => { tip.hidden = true; }, { passive: true });
})();
"""


def css(n_views: int, n_ops: int) -> str:
    """The style sheet of a page with n_views views and n_ops ops.  A checked radio button hides
    what was not chosen, so choices need no script."""
    lines = [_BASE]
    for i, (light, dark, _) in enumerate(TECHNOLOGIES.values()):
        lines.append(f".t{i}{{fill:{light}}}")
        lines.append(f"@media (prefers-color-scheme:dark){{.t{i}{{fill:{dark}}}}}")
    for name, css_class, letter, chosen in (
        ("view", "view", "v", range(n_views)),
        ("op", "by-op", "o", range(1, n_ops + 1)),  # op-0 is all of them
    ):
        lines += [
            f"body:has(#{name}-{i}:checked) .{css_class}:not(.{letter}{i}){{display:none}}"
            for i in chosen
        ]
    for metric, shown, letter, steps in (
        ("share", "ms", "s", SHARE_STEPS),
        ("ratio", "mr", "r", RATIO_STEPS),
        ("time", "mt", "s", SHARE_STEPS),
    ):
        on = f"body:has(#metric-{metric}:checked)"
        lines.append(
            f"{on} .heat td span:not(.{shown}),{on} .scale:not(.m{letter}){{display:none}}"
        )
        for i, colour in enumerate(steps):
            lines.append(f"{on} .{letter}{i}{{background:{colour};color:{ink_on(colour)}}}")
    return "\n".join(lines)


def policy() -> str:
    """The page's Content-Security-Policy: its own style, this one script, no network."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    allowed = f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
