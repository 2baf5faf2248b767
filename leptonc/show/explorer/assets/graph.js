// explorer > graph: the chosen op between what it reads and what reads it, as a picture to click.

const NS = "http:" + "//www.w3.org/2000/svg";
const MOST = 4; // neighbours drawn on each side
const BOX = {width: 400, high: 36, gap: 34};

function shape(tag, attributes, text) {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}

// Row indices of what makes the operands (inputs of the program: their names) and of what reads the
// results. Ops of a unit's body are told themselves, not the unit around them.
function neighbours(doc, at) {
  const rows = rowsOf(doc, at.stage), whole = opOf(doc, at.row).unit !== undefined;
  const made = i => parts(doc, rows[i])[0].split(", ");
  const within = i => {
    if (whole || opOf(doc, rows[i]).unit === undefined) return i;
    let last = i;
    for (let j = i + 1; j < rows.length && rows[j][2] > 0; j += 1) {
      if (parts(doc, rows[j])[0] === parts(doc, rows[i])[0]) return j;
      last = j;
    }
    return last;
  };
  const names = parts(doc, at.row)[2].split(", ").filter(Boolean), from = at.row[3];
  let k = 0;
  const reads = names.map(name => {
    if (k < from.length && (names.length === from.length || made(from[k]).includes(name))) return within(from[k++]);
    return name;
  });
  const isUnit = i => opOf(doc, rows[i]).unit !== undefined;
  const readersOf = i => rows.flatMap((r, j) => r[3].includes(i) && (whole ? r[2] === 0 : !isUnit(j)) ? [j] : []);
  let readers = readersOf(at.i);
  if (!readers.length && at.i >= 0 && at.row[2] > 0) {
    let unit = at.i;
    while (unit > 0 && rows[unit][2] > 0) unit -= 1;
    readers = readersOf(unit);
  }
  return {reads: [...new Set(reads)], readers: [...new Set(readers)]};
}

function picture(app, at, near) {
  const {doc} = app, rows = rowsOf(doc, at.stage);
  const data = near.reads.filter(n => typeof n === "string" || !opOf(doc, rows[n]).constant);
  const levels = [data, [null], near.readers].filter(l => l.length);
  const high = levels.length * (BOX.high + BOX.gap) - BOX.gap + 8;
  const svg = shape("svg", {viewBox: `0 0 ${BOX.width} ${high}`, class: "lx-graph", role: "group",
                            "aria-label": "what it reads, and what reads it"});
  const places = levels.map((list, l) => place(list, 4 + l * (BOX.high + BOX.gap)));
  const middle = levels.findIndex(l => l[0] === null), [centre] = places[middle];
  places.forEach((boxes, l) => boxes.forEach(b => {
    if (l === middle) return;
    const [up, down] = l < middle ? [b, centre] : [centre, b];
    const x1 = up.x + up.w / 2, y1 = up.y + BOX.high, x2 = down.x + down.w / 2, y2 = down.y, m = (y1 + y2) / 2;
    svg.append(shape("path", {d: `M${x1},${y1} C${x1},${m} ${x2},${m} ${x2},${y2 - 5}`, class: "lx-edge"}));
    svg.append(shape("path", {d: `M${x2 - 4},${y2 - 6} L${x2 + 4},${y2 - 6} L${x2},${y2} Z`, class: "lx-tip"}));
  }));
  places.flat().forEach(b => svg.append(node(app, at, rows, b)));
  return svg;
}

function place(list, y) {
  const shown = list.length > MOST ? [...list.slice(0, MOST - 1), {more: list.length - MOST + 1}] : list;
  const w = Math.min(190, BOX.width / shown.length - 8), left = (BOX.width - shown.length * (w + 8)) / 2 + 4;
  return shown.map((what, n) => ({what, x: left + n * (w + 8), y, w}));
}

function node(app, at, rows, b) {
  const {doc} = app, g = shape("g", {});
  const row = b.what === null ? at.row : typeof b.what === "number" ? rows[b.what] : null;
  const title = row ? parts(doc, row)[0] : b.what.more ? `and ${b.what.more} more` : b.what;
  const under = row ? (opOf(doc, row).unit !== undefined ? "unit" : opOf(doc, row).kind) : b.what.more ? "" : "input";
  const cut = text => { const n = Math.floor((b.w - 8) / 6); return text.length > n ? `${text.slice(0, n - 1)}…` : text; };
  g.append(shape("rect", {x: b.x, y: b.y, width: b.w, height: BOX.high, rx: 4}));
  g.append(shape("text", {x: b.x + b.w / 2, y: b.y + 15}, cut(title)));
  g.append(shape("text", {x: b.x + b.w / 2, y: b.y + 29, class: "lx-k"}, cut(under)));
  g.append(shape("title", {}, row ? `${title} = ${under} : ${parts(doc, row)[3]}\n${moduleOf(doc, row)}` : title));
  if (b.what === null) g.setAttribute("class", "lx-on");
  if (typeof b.what !== "number") return g;
  const go = () => app.select(at.pane, b.what);
  g.setAttribute("tabindex", 0); g.setAttribute("role", "button"); g.setAttribute("class", "lx-go");
  g.setAttribute("aria-label", `go to ${title}`);
  g.addEventListener("click", go);
  g.addEventListener("keydown", e => { if (e.key === "Enter" || e.key === " ") { go(); e.preventDefault(); } });
  return g;
}
