"""The HTML report's style sheet and its script: one string each, nothing loaded from elsewhere."""

CSS = """
:root { color-scheme: light dark; --bg: #fbfaf8; --card: #ffffff; --ink: #22201d; --soft: #6b665f;
  --line: #e2ded7; --accent: #b4540a; --native: #1f7a4d; --torch: #a86400; --bar: #f3d9c2;
  --code: #f4f1ec; --live: #dd8a4a; }
@media (prefers-color-scheme: dark) { :root { --bg: #171614; --card: #201e1c; --ink: #ece8e1;
  --soft: #a39d93; --line: #38342f; --accent: #f0a060; --native: #62c08f; --torch: #e0ab4a;
  --bar: #4a3524; --code: #1b1917; --live: #b56a2c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 78rem; background: var(--bg);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; font-weight: 600; }
.tile span { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { white-space: nowrap; color: var(--soft); font-weight: 600; cursor: pointer; }
th:after { content: " \\2195"; opacity: .35; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td code { font-size: .8rem; overflow-wrap: break-word; }
.native { color: var(--native); }
.torch, .both, .missed, .opaque { color: var(--torch); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
  margin: .6rem 0; }
summary { padding: .55rem .9rem; cursor: pointer; font-weight: 600; }
pre { margin: 0; padding: .9rem; overflow: auto; max-height: 34rem; background: var(--code);
  border-top: 1px solid var(--line);
  font: .78rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
svg { display: block; width: 100%; height: auto; }
svg rect { fill: var(--live); fill-opacity: .75; stroke: var(--card); stroke-width: .4; }
svg rect:hover { fill-opacity: 1; }
"""

# Clicking a header sorts its table by that column: by number where the cells carry one.
JS = """
for (const th of document.querySelectorAll("th")) th.addEventListener("click", () => {
  const body = th.closest("table").tBodies[0], at = th.cellIndex, rows = [...body.rows];
  const value = r => r.cells[at].dataset.v ?? r.cells[at].textContent;
  const down = th.dataset.down = th.dataset.down === "1" ? "0" : "1";
  const order = (a, b) => isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b;
  rows.sort((a, b) => order(value(a), value(b)) * (down === "1" ? -1 : 1));
  body.append(...rows);
});
"""
