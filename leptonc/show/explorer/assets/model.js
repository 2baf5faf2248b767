// explorer > model: questions about the document, without any drawing.

// The rows of a stage; a pass that changed nothing shows what it was given.
function rowsOf(doc, at) {
  while (doc.stages[at].same) at -= 1;
  return doc.stages[at].rows;
}

const parts = (doc, row) => doc.strings[row[1]].split("\t");
const opOf = (doc, row) => doc.ops[row[0]];
const moduleOf = (doc, row) => doc.strings[opOf(doc, row).module];
const sourceOf = (doc, row) => doc.strings[opOf(doc, row).source];

// Which unit an op of any stage ends in: the very op, else the value it makes (names outlive passes),
// else its place in the source, else the unit of whatever reads it. Returns row -> index, or -1.
function unitIndex(doc) {
  const byName = new Map(doc.units.map((u, i) => [u.name, i]));
  const byOp = new Map(), byValue = new Map(), byPlace = new Map();
  const place = row => {
    const op = opOf(doc, row);
    return op.source ? `${op.kind}|${op.module}|${op.source}` : "";
  };
  const value = row => parts(doc, row)[0];
  let unit = -1;
  for (const row of rowsOf(doc, doc.stages.length - 1)) {
    const op = opOf(doc, row);
    if (row[2] === 0) unit = op.unit !== undefined ? byName.get(op.unit) ?? -1 : -1;
    byOp.set(row[0], unit);
    if (unit < 0 || op.unit !== undefined || op.constant) continue;
    if (!/^%\d/.test(value(row)) && !byValue.has(value(row))) byValue.set(value(row), unit);
    if (place(row) && !byPlace.has(place(row))) byPlace.set(place(row), unit);
  }
  for (let s = doc.stages.length - 1; s >= 0; s -= 1) {
    if (doc.stages[s].same) continue;
    const rows = rowsOf(doc, s), read = rows.map(() => -1);
    for (let i = rows.length - 1; i >= 0; i -= 1) {
      const row = rows[i];
      if (!byOp.has(row[0])) {
        const own = opOf(doc, row).constant ? undefined : byValue.get(value(row)) ?? byPlace.get(place(row));
        byOp.set(row[0], own ?? read[i]);
      }
      for (const from of row[3]) read[from] = byOp.get(row[0]);
    }
  }
  return row => byOp.get(row[0]) ?? -1;
}

// An op's place in the model as remarks write it: its module, and its line in brackets.
const placeOf = (doc, row) => [moduleOf(doc, row), sourceOf(doc, row) && `(${sourceOf(doc, row)})`].filter(Boolean).join(" ");

// Remarks of an op: those that name the place where it stands.
function remarkIndex(doc) {
  const at = new Map();
  doc.remarks.forEach((r, i) => {
    if (!r.where) return;
    if (!at.has(r.where)) at.set(r.where, []);
    at.get(r.where).push(i);
  });
  return row => opOf(doc, row).constant ? [] : at.get(placeOf(doc, row)) ?? [];
}

// Where a text differs from another one: [from, to] of what is neither its beginning nor its end.
function changed(text, was) {
  let a = 0, b = 0;
  while (a < text.length && text[a] === was[a]) a += 1;
  while (b < text.length - a && b < was.length - a && text[text.length - 1 - b] === was[was.length - 1 - b]) b += 1;
  return [a, text.length - b];
}

// ----- rows to draw: groups by unit or module, repeated blocks collapsed ---------------------------

// Returns entries {row, depth, group, key, label, rows, like, count} in order; a group comes before
// what it holds. `open(key, byDefault)` tells whether a group is unfolded.
function outline(doc, stage, mode, constants, unitOf, open) {
  const rows = rowsOf(doc, stage);
  const kept = rows.map((row, i) => [row, i]).filter(([row]) => constants || !opOf(doc, row).constant);
  const plain = kept.filter(([row]) => opOf(doc, row).unit === undefined);
  if (mode === "module") return unfold(modules(doc, plain), open);
  if (mode === "unit") return unfold(unitsTree(doc, kept, unitOf), open);
  return kept.map(([row, i]) => ({row, i, depth: row[2]}));
}

function unitsTree(doc, kept, unitOf) {
  const top = [];
  let group = null;
  for (const [row, i] of kept) {
    const op = opOf(doc, row);
    if (op.unit !== undefined && row[2] === 0) {
      group = {key: `u${op.unit}`, label: op.unit, note: op.pattern, unit: unitOf(row), row, i, kids: []};
      top.push(group);
    } else if (row[2] > 0 && group) group.kids.push({row, i});
    else {
      const unit = unitOf(row);
      if (unit < 0) { group = null; top.push({row, i}); continue; }
      if (!group || group.unit !== unit)
        top.push(group = {key: `u${doc.units[unit].name}@${i}`, label: doc.units[unit].name,
                          note: doc.units[unit].pattern, unit, kids: []});
      group.kids.push({row, i});
    }
  }
  return top;
}

function modules(doc, kept) {
  const root = {kids: [], path: []};
  let stack = [root];
  for (const [row, i] of kept) {
    const path = moduleOf(doc, row).split(".").filter(Boolean);
    let same = 0;
    while (same < path.length && same + 1 < stack.length && stack[same + 1].name === path[same]) same += 1;
    stack = stack.slice(0, same + 1);
    for (let d = same; d < path.length; d += 1) {
      const key = "m" + path.slice(0, d + 1).join(".");
      const node = {name: path[d], key: `${key}@${i}`, label: path.slice(0, d + 1).join("."), kids: []};
      stack[d].kids.push(node);
      stack.push(node);
    }
    stack[stack.length - 1].kids.push({row, i});
  }
  squeeze(root);
  markRepeats(doc, root);
  return root.kids;
}

// A module that holds nothing but one op is that op; one that holds one module is that module.
function squeeze(node) {
  node.kids.forEach(k => k.kids && squeeze(k));
  node.kids = node.kids.map(k => k.kids && k.kids.length === 1 ? k.kids[0] : k);
}

function shapeOf(doc, node) {
  if (!node.kids) {
    const [, kind, , types] = parts(doc, node.row);
    return kind.replace(/sha256:\w+|name='[^']*'/g, "") + types;
  }
  return node.shape ??= "(" + node.kids.map(k => shapeOf(doc, k)).join(";") + ")";
}

// Numbered blocks (layer.0, layer.1) that hold the same ops: later ones say which one they repeat.
function markRepeats(doc, node) {
  const seen = new Map();
  for (const kid of node.kids) {
    if (!kid.kids) continue;
    const shape = shapeOf(doc, kid), first = seen.get(shape);
    if (first && /^\d+$/.test(kid.name)) { kid.like = first.label; first.times = (first.times ?? 1) + 1; }
    else { seen.set(shape, kid); markRepeats(doc, kid); }
  }
}

function count(node) { return node.kids ? node.kids.reduce((n, k) => n + count(k), 0) : 1; }

function unfold(nodes, open, depth = 0, out = []) {
  for (const n of nodes) {
    if (!n.kids) { out.push({row: n.row, i: n.i, depth}); continue; }
    const isOpen = open(n.key, !n.like);
    out.push({group: true, key: n.key, label: n.label, note: n.note ?? "", like: n.like,
              times: n.times, unit: n.unit, row: n.row, i: n.i, size: count(n), isOpen, depth, node: n});
    if (isOpen) unfold(n.kids, open, depth + 1, out);
  }
  return out;
}

// ----- difference of two stages --------------------------------------------------------------------

// Returns aligned pairs [left entry or null, right entry or null, mark]; marks: "" equal, "chg", "del",
// "add". Rows match by identity, else by equal text; of the matches the longest run in order is kept.
function difference(doc, left, right) {
  const key = e => e.row[0], text = e => e.row[1];
  const byOp = new Map(), byText = new Map();
  right.forEach((e, j) => { byOp.set(key(e), j); byText.set(text(e), byText.has(text(e)) ? -1 : j); });
  const pairs = [];
  left.forEach((e, i) => {
    const j = byOp.get(key(e)) ?? byText.get(text(e));
    if (j !== undefined && j >= 0) pairs.push([i, j]);
  });
  const out = [];
  let a = 0, b = 0;
  for (const [i, j] of [...increasing(pairs), [left.length, right.length]]) {
    mend(doc, left.slice(a, i), right.slice(b, j), out);
    if (i < left.length) out.push([left[i], right[j], ""]);
    a = i + 1; b = j + 1;
  }
  return out;
}

// Longest run of pairs that grows on both sides (patience sorting), O(n log n).
function increasing(pairs) {
  const tails = [], prev = new Array(pairs.length);
  pairs.forEach(([, j], p) => {
    let lo = 0, hi = tails.length;
    while (lo < hi) { const mid = (lo + hi) >> 1; if (pairs[tails[mid]][1] < j) lo = mid + 1; else hi = mid; }
    prev[p] = lo ? tails[lo - 1] : -1;
    tails[lo] = p;
  });
  const out = [];
  for (let p = tails.length ? tails[tails.length - 1] : -1; p >= 0; p = prev[p]) out.push(pairs[p]);
  return out.reverse();
}

// Between two matches: rows of the same kind from the same place are one row that changed.
function mend(doc, dels, adds, out) {
  const place = e => { const o = opOf(doc, e.row); return `${o.kind}|${o.module}|${o.source}`; };
  const waiting = new Map();
  adds.forEach((e, j) => { const k = place(e); if (!waiting.has(k)) waiting.set(k, []); waiting.get(k).push(j); });
  const pairs = [];
  dels.forEach((e, i) => { const q = waiting.get(place(e)); if (q && q.length) pairs.push([i, q.shift()]); });
  let a = 0, b = 0;
  for (const [i, j] of [...increasing(pairs), [dels.length, adds.length]]) {
    for (; a < i; a += 1) out.push([dels[a], null, "del"]);
    for (; b < j; b += 1) out.push([null, adds[b], "add"]);
    if (i < dels.length) out.push([dels[i], adds[j], "chg"]);
    a = i + 1; b = j + 1;
  }
}
