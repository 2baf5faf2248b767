// explorer > details: what the side panel says of the selected op, in five tabs.

const fmt = {
  us: v => v >= 1000 ? `${(v / 1000).toFixed(2)} ms` : `${v.toFixed(1)} µs`,
  flops: v => v >= 1e9 ? `${(v / 1e9).toFixed(2)} GFLOP` : v >= 1e6 ? `${(v / 1e6).toFixed(1)} MFLOP` : `${v} FLOP`,
  bytes: v => v >= 2 ** 20 ? `${(v / 2 ** 20).toFixed(1)} MiB` : v >= 1024 ? `${(v / 1024).toFixed(1)} KiB` : `${v} B`,
  share: v => `${(100 * v).toFixed(1)} %`,
};

function facts(pairs) {
  const dl = element("dl");
  for (const [name, value] of pairs) {
    if (value === undefined || value === null || value === "" || value === false) continue;
    dl.append(element("dt", "", name));
    const dd = element("dd");
    value instanceof Node ? dd.append(value) : dd.append(String(value));
    dl.append(dd);
  }
  return dl;
}

function link(text, act) {
  const a = element("a", "", text);
  a.tabIndex = 0; a.setAttribute("role", "button");
  a.onclick = act; a.onkeydown = e => { if (e.key === "Enter") act(); };
  return a;
}

function tabOp(app, at, body) {
  const {doc} = app;
  const [made, kind, , types] = parts(doc, at.row);
  const op = opOf(doc, at.row), rows = rowsOf(doc, at.stage);
  body.append(element("h2", "", `${made} = ${op.unit !== undefined ? "unit" : op.kind}`));
  const line = sourceOf(doc, at.row), unit = app.unitOf(at.row);
  const jump = i => typeof i === "string" ? i : link(parts(doc, rows[i])[0], () => app.select(at.pane, i));
  const chips = list => { const s = element("span"); list.forEach((i, n) => s.append(n ? ", " : "", jump(i))); return s; };
  const near = neighbours(doc, at);
  body.append(facts([
    ["type", types], ["module", moduleOf(doc, at.row)],
    ["source", line && link(line, () => app.tab("Source"))],
    ["unit", unit >= 0 && link(doc.units[unit].name, () => app.selectUnit(unit))],
    ["operations", op.flops ? fmt.flops(op.flops) : ""],
    ["reads", near.reads.length ? chips(near.reads) : ""],
    ["read by", near.readers.length ? chips(near.readers) : ""],
    ["attributes", op.unit === undefined && attributes(kind)],
  ]), picture(app, at, near));
  if (unit >= 0) unitFacts(app, unit, body);
}

function attributes(kind) {
  const inside = kind.slice(kind.indexOf("{") + 1, -1);
  return kind.includes("{") ? element("code", "", inside) : "";
}

function unitFacts(app, index, body) {
  const {doc} = app, u = doc.units[index];
  body.append(element("h3", "", `Unit ${index}: ${u.name}`));
  body.append(facts([
    ["runs", u.runs], ["why not natively", u.why], ["pattern", u.pattern],
    ["time", u.us && `${fmt.us(u.us)}, ${fmt.share(u.share)} of the net`],
    ["rate", u.gflops && u.flops ? `${u.gflops.toFixed(1)} GFLOP/s` + (doc.peak_gflops ? `, ${fmt.share(u.gflops / doc.peak_gflops)} of peak` : "") : ""],
    ["waits", u.wait_us && doc.threads > 1 ? fmt.us(u.wait_us) : ""],
    ["work", fmt.flops(u.flops)], ["moves", fmt.bytes(u.bytes)],
    ["error", u.error !== undefined && u.error !== null ? `${u.error.toExponential(1)}, tolerance ${u.tolerance.toExponential(1)}` : ""],
    ["kernels", Object.entries(u.kernels).map(([k, n]) => n > 1 ? `${n} × ${k}` : k).join(", ")],
    ["code", u.code.length && link(`lines ${u.code[0] + 1} to ${u.code[1] + 1}`, () => app.tab("Code"))],
  ]));
  for (const c of u.choices) {
    if (Object.keys(c.cycles).length < 2) continue;
    body.append(element("h3", "", `${c.about}: ${c.why}`));
    const t = element("table");
    t.innerHTML = "<tr><th>candidate</th><th>estimated cycles</th><th>measured</th></tr>";
    for (const [k, v] of Object.entries(c.cycles).sort((a, b) => a[1] - b[1])) {
      const tr = element("tr");
      tr.append(element("td", "", (k === c.chosen ? "✓ " : "") + k), element("td", "n", v.toFixed(0)),
        element("td", "n", c.us[k] !== undefined ? fmt.us(c.us[k]) : ""));
      t.append(tr);
    }
    body.append(t);
  }
}

function tabRemarks(app, at, body) {
  const {doc} = app, mine = at ? app.remarksOf(at.row) : [];
  const show = list => list.forEach(i => {
    const r = doc.remarks[i], box = element("div", `lx-remark ${r.says}`);
    box.append(element("b", "", `${r.by} ${r.says}`), ` ${r.what}`, element("br"), r.why, r.n > 1 ? ` (${r.n} times)` : "");
    if (r.where) box.append(element("br"), app.hasPlace(r.where) ? link(r.where, () => app.selectPlace(r.where)) : element("span", "lx-soft", r.where));
    body.append(box);
  });
  body.append(element("h2", "", mine.length ? "Remarks on this op" : "No remarks on this op"));
  show(mine);
  const order = r => r.says === "applied" ? 1 : 0; // what was refused comes before what was done
  const rest = doc.remarks.map((_, i) => i).filter(i => !mine.includes(i)).sort((a, b) => order(doc.remarks[a]) - order(doc.remarks[b]));
  body.append(element("h3", "", `All others (${rest.length})`));
  show(rest.slice(0, 200));
  if (rest.length > 200) body.append(element("p", "lx-soft", `and ${rest.length - 200} more`));
}

function tabSource(app, at, body) {
  const line = at ? sourceOf(app.doc, at.row) : "";
  if (!line) { body.append(element("p", "lx-soft", "This op has no line in the model's source.")); return; }
  const cut = line.lastIndexOf(":"), file = app.doc.sources[line.slice(0, cut)], number = Number(line.slice(cut + 1));
  if (!file) { body.append(element("p", "", line), element("p", "lx-soft", "The file could not be read when this page was made.")); return; }
  body.append(element("h2", "", line), element("p", "lx-soft", file.path));
  body.append(listing(file.lines.map(([n, t]) => [n, t, n === number])));
}

function tabCode(app, at, body) {
  const unit = at ? app.unitOf(at.row) : -1, [from, to] = unit >= 0 ? app.doc.units[unit].code : [];
  body.append(element("h2", "", unit >= 0 ? `Emitted for unit ${unit}: ${app.doc.units[unit].name}` : "Emitted program"));
  body.append(listing(app.doc.code.map((t, i) => [i + 1, t, i >= from && i <= to])));
}

function listing(lines) {
  const pre = element("pre");
  let last = 0;
  for (const [n, text, on] of lines) {
    if (last && n > last + 1) pre.append(element("div", "lx-soft", "   ⋯"));
    const div = element("div", on ? "lx-on" : "");
    div.append(element("i", "", n), text);
    pre.append(div); last = n;
  }
  return pre;
}

function tabArena(app, at, body) {
  const {arena, units} = app.doc, unit = at ? app.unitOf(at.row) : -1, n = arena.steps.length || 1;
  body.append(element("h2", "", `Arena: ${fmt.bytes(arena.bytes)}`));
  body.append(facts([["largest live set", fmt.bytes(arena.bound)], ["all activations", fmt.bytes(arena.sum)]]));
  body.append(element("p", "lx-soft", "Left to right: steps. Bottom to top: place in the arena. Filled: in use by the selected unit."));
  const svg = shape("svg", {viewBox: "0 0 400 260", role: "img", "aria-label": "arena over time", class: "lx-arena"});
  for (const [first, last, offset, size, note] of arena.lives) {
    const h = Math.max(.6, 260 * size / arena.bytes), used = arena.steps.slice(first, last + 1).includes(unit);
    const r = shape("rect", {x: 400 * first / n, width: Math.max(.6, 400 * (last - first + 1) / n),
                             y: 260 * (1 - offset / arena.bytes) - h, height: h, ...(used && unit >= 0 ? {class: "lx-on"} : {})});
    r.append(shape("title", {}, `steps ${first} to ${last}, ${fmt.bytes(size)} at ${offset} ${note}; ${units[arena.steps[first]]?.name ?? ""}`));
    r.addEventListener("click", () => app.selectUnit(arena.steps[first]));
    svg.append(r);
  }
  body.append(svg);
}

const TABS = {Op: tabOp, Remarks: tabRemarks, Source: tabSource, Code: tabCode, Arena: tabArena};
