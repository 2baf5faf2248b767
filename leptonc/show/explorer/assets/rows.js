// explorer > rows: how one row of a pane looks: its figure, its text, its marks.

const OVERLAYS = {
  none: null,
  time: {value: u => u.us, text: fmt.us},
  "FLOP/s": {value: u => u.flops ? u.gflops : null, text: v => `${v.toFixed(0)} GF/s`, low: true},
  bytes: {value: u => u.bytes, text: fmt.bytes},
  error: {value: u => u.error, text: v => v.toExponential(1), part: u => Math.min(1, u.error / (u.tolerance || u.error || 1))},
  remarks: {value: (u, n) => n || null, text: v => `${v}`},
};

function drawRow(app, pane, r, e) {
  const {doc} = app;
  if (e.gap) { r.classList.add("lx-gap"); return; }
  const unit = unitAt(app, e);
  if (app.scale) r.append(heat(app, pane, e, unit));
  const pad = element("span"); pad.style.cssText = `flex:none;width:${6 + e.depth * 14}px`; r.append(pad);
  r.setAttribute("aria-level", e.depth + 1);
  if (e.group) {
    r.classList.add("lx-group"); r.setAttribute("aria-expanded", e.isOpen);
    r.append(element("span", "lx-tw", e.isOpen ? "▾" : "▸"));
    r.append(marked(app, e.label || "·"));
    const times = e.times ? `  × ${e.times}` : "";
    r.append(element("span", "lx-soft", `  ${e.note ? e.note + ", " : ""}${e.size} op${e.size > 1 ? "s" : ""}${e.like ? `, same as ${e.like}` : ""}${times}`));
  } else {
    const [made, kind, reads, types] = parts(doc, e.row), cut = kind.indexOf("{");
    const name = cut < 0 ? kind : kind.slice(0, cut), attrs = cut < 0 ? "" : kind.slice(cut);
    const was = e.other ? parts(doc, e.other) : null, wasCut = was ? was[1].indexOf("{") : -1;
    const column = (text, before, cls) => {
      const s = was && before !== text && !app.query ? news(text, before) : marked(app, text);
      s.className = cls;
      return s;
    };
    r.append(element("span", "lx-tw", " "), column(made, was?.[0], ""), element("span", "lx-o", " = "));
    r.append(column(name, wasCut < 0 ? was?.[1] : was[1].slice(0, wasCut), "lx-k"), column(`(${reads})`, `(${was?.[2]})`, ""));
    r.append(element("span", "lx-o", " : "), column(types, was?.[3], "lx-t"));
    if (attrs) r.append(" ", column(attrs, wasCut < 0 ? "" : was[1].slice(wasCut), "lx-o"));
  }
  if (unit >= 0 && (e.group || app.state.group !== "unit") && doc.units[unit].runs !== "native" && doc.units[unit].runs !== "nothing")
    r.append(element("span", "lx-mark", "torch"));
  if (e.mark) r.classList.add(`lx-${e.mark}`);
  if (app.query && !e.isHit) r.classList.add("lx-dim");
  const here = app.chosen;
  if (here && e.row && here.pane === pane && here.i === e.i) { r.classList.add("lx-sel"); r.setAttribute("aria-selected", "true"); }
  else if (here && isKin(app, here, e, unit)) r.classList.add("lx-kin");
  else if (pane.cursorKey && e.group && e.key === pane.cursorKey) r.classList.add("lx-sel");
}

function heat(app, pane, e, unit) {
  const h = element("span", "lx-heat"), {o, most} = app.scale;
  const show = (v, strong) => {
    h.style.background = `rgba(var(--heat),${strong.toFixed(3)})`;
    if (strong > .55) h.classList.add("lx-hot");
    if (e.group || e.first) h.textContent = o.text(v); else h.classList.add("lx-more");
  };
  if (e.group && e.unit === undefined) {
    const v = e.node && !e.isOpen ? sumOf(app, e.node) : null;
    if (v !== null) show(v, .15);
  } else if (unit >= 0 && (e.group || pane.diff || app.state.group !== "unit")) {
    const v = app.measure(o, unit);
    const part = o.part ? o.part(app.doc.units[unit]) : v / most;
    if (v !== null) show(v, .08 + .8 * (o.low ? 1 - part : part));
  }
  return h;
}

// Rows of one unit that follow each other carry its figure once, on the first of them.
function markFirst(app, entries) {
  let last = -1;
  for (const e of entries) if (!e.gap) { const u = unitAt(app, e); e.first = u !== last; last = u; }
}

function unitAt(app, e) { return e.unit ?? (e.row && !opOf(app.doc, e.row).constant ? app.unitOf(e.row) : -1); }

// Times and bytes of a folded module: its units, each once.
function sumOf(app, node) {
  if (!["time", "bytes", "remarks"].includes(app.state.overlay)) return null;
  const units = new Set();
  const walk = n => n.kids ? n.kids.forEach(walk) : units.add(app.unitOf(n.row));
  walk(node); units.delete(-1);
  return units.size ? [...units].reduce((s, u) => s + (app.measure(app.scale.o, u) ?? 0), 0) : null;
}

function isKin(app, here, e, unit) {
  if (!e.row) return false;
  const doc = app.doc, a = opOf(doc, here.row), b = opOf(doc, e.row);
  if (here.row[0] === e.row[0]) return true;
  if (a.unit !== undefined) return unit >= 0 && unit === app.unitOf(here.row);
  return a.kind === b.kind && a.module === b.module && a.source === b.source && Boolean(a.module || a.source);
}

function marked(app, text) {
  const span = element("span"), at = app.query ? text.toLowerCase().indexOf(app.query) : -1;
  if (at < 0) { span.textContent = text; return span; }
  span.append(text.slice(0, at), element("span", "lx-hit", text.slice(at, at + app.query.length)), text.slice(at + app.query.length));
  return span;
}

function news(text, was) {
  const span = element("span"), [from, to] = changed(text, was);
  if (from < to) span.append(text.slice(0, from), element("span", "lx-new", text.slice(from, to)), text.slice(to));
  else span.textContent = text;
  return span;
}
