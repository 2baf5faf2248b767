// explorer > app: the frame, its panes, selection and search. `mount(host, document)` starts it.

class App {
  constructor(host, doc) {
    this.doc = doc; this.host = host;
    this.unitOf = unitIndex(doc);
    this.remarksOf = remarkIndex(doc);
    this.name = `lx${Math.random().toString(36).slice(2, 8)}`;
    this.folds = new Map(); this.panes = []; this.chosen = null; this.query = ""; this.active = 0;
    this.state = {group: "unit", overlay: doc.total_us ? "time" : "none", constants: false, diff: false, tab: "Op"};
    this.unitRemarks = this.countRemarks();
    this.root = element("div", "lx");
    this.root.dataset.lmSuppressShortcuts = "true"; // a notebook's own keys rest while this has the focus
    this.root.dataset.theme = this.darkOutside() ? "dark" : "light";
    host.replaceChildren(this.root);
    this.build();
    this.addPane(0); if (doc.stages.length > 1) this.addPane(doc.stages.length - 1);
    this.refresh();
    this.root.addEventListener("keydown", e => onKey(this, e));
  }

  focus() { this.panes[0].list.host.focus(); }

  darkOutside() {
    const mark = document.body.dataset.jpThemeLight;
    const code = document.body.dataset.vscodeThemeKind;
    if (code !== undefined) return !code.includes("light");
    return mark !== undefined ? mark === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  countRemarks() {
    const last = this.doc.stages.length - 1, counts = this.doc.units.map(() => 0), seen = new Set();
    for (const row of rowsOf(this.doc, last)) {
      const unit = this.unitOf(row);
      if (unit >= 0) for (const r of this.remarksOf(row)) {
        if (!seen.has(`${unit}:${r}`)) { seen.add(`${unit}:${r}`); counts[unit] += 1; }
      }
    }
    return counts;
  }

  // ----- the frame ---------------------------------------------------------------------------------

  build() {
    const {doc, state} = this, top = element("div", "lx-top");
    top.append(element("h1", "", doc.name));
    const chip = (value, text) => { const c = element("span", "lx-chip"); c.append(element("b", "", value), ` ${text}`); top.append(c); };
    chip(doc.units.length, "units");
    chip(doc.units.filter(u => u.runs !== "native" && u.runs !== "nothing").length, "through torch");
    if (doc.total_us) chip(fmt.us(doc.total_us), `on ${doc.threads} thread${doc.threads > 1 ? "s" : ""}`);
    chip(fmt.bytes(doc.arena.bytes), "arena");
    const tools = element("div", "lx-tools");
    top.append(tools);
    this.search = element("input"); this.search.type = "search"; this.search.placeholder = "search op, type, line"; this.search.title = "op, attribute, type, module or line (/)";
    this.search.setAttribute("aria-label", "search"); this.search.size = 22;
    this.search.oninput = () => { this.query = this.search.value.toLowerCase(); this.hit = -1; this.refresh(); this.showHits(); };
    this.hits = element("span", "lx-soft"); this.hits.setAttribute("aria-live", "polite");
    const find = element("span", "lx-find"); // the count stands inside: nothing moves when it comes
    find.append(this.search, this.hits); tools.append(find);
    const choice = (name, values, key) => {
      const label = element("label", "", name), select = element("select");
      for (const v of values) select.append(new Option(v, v));
      select.value = state[key];
      select.onchange = () => { state[key] = select.value; this.refresh(); };
      label.append(select); tools.append(label);
      return select;
    };
    this.groupBox = choice("group", ["unit", "module", "none"], "group");
    this.overlayBox = choice("show", Object.keys(OVERLAYS).filter(k => this.hasOverlay(k)), "overlay");
    const toggle = (name, key, title) => {
      const b = element("button", "", name); b.title = title; b.setAttribute("aria-pressed", state[key]);
      b.onclick = () => { state[key] = !state[key]; b.setAttribute("aria-pressed", state[key]); this.refresh(); };
      tools.append(b); return b;
    };
    this.diffButton = toggle("diff", "diff", "difference of the first two panes (d)");
    toggle("constants", "constants", "show constants as rows");
    const button = (name, title, act) => { const b = element("button", "", name); b.title = title; b.setAttribute("aria-label", title); b.onclick = act; tools.append(b); };
    button("+ pane", "one more stage beside these (p)", () => this.morePanes());
    button("◐", "light or dark (t)", () => this.theme());
    button("?", "keys", () => this.toggleHelp());
    this.strip = element("div", "lx-strip"); this.strip.setAttribute("role", "img");
    this.strip.setAttribute("aria-label", "units by " + (doc.total_us ? "time" : "work"));
    const weigh = u => doc.total_us ? u.us : u.flops + u.bytes;
    doc.units.forEach((u, i) => {
      const s = element("span", u.runs === "torch" || u.runs === "both" ? "lx-torch" : "");
      s.style.flexGrow = Math.max(weigh(u), 1e-6); s.style.flexBasis = 0;
      s.title = `${u.name}${u.us ? `: ${fmt.us(u.us)}` : ""}`; s.onclick = () => this.selectUnit(i);
      this.strip.append(s);
    });
    const main = element("div", "lx-main");
    this.panesBox = element("div", "lx-panes");
    const side = element("div", "lx-side");
    this.tabs = element("div", "lx-tabs"); this.tabs.setAttribute("role", "tablist");
    for (const name of Object.keys(TABS)) {
      const b = element("button", "", name); b.setAttribute("role", "tab"); b.onclick = () => this.tab(name);
      b.id = `${this.name}-${name}`; b.setAttribute("aria-controls", `${this.name}-side`);
      b.onkeydown = e => {
        const to = {ArrowRight: b.nextElementSibling, ArrowLeft: b.previousElementSibling}[e.key];
        if (to) { this.tab(to.textContent); to.focus(); e.stopPropagation(); }
      };
      this.tabs.append(b);
    }
    this.body = element("div", "lx-body"); this.body.setAttribute("role", "tabpanel"); this.body.tabIndex = 0;
    this.body.id = `${this.name}-side`;
    side.append(this.tabs, this.body); main.append(this.panesBox, side);
    this.help = element("div", "lx-help"); this.help.hidden = true;
    const box = element("div"); box.tabIndex = -1; box.setAttribute("role", "dialog"); box.setAttribute("aria-label", "keys"); box.append(element("h2", "", "Keys"));
    const t = element("table");
    for (const [k, what] of HELP) { const tr = element("tr"), td = element("td"); td.append(element("kbd", "", k)); tr.append(td, element("td", "", what)); t.append(tr); }
    box.append(t); this.help.append(box); this.help.onclick = () => this.toggleHelp();
    this.root.style.position = "relative";
    this.root.append(top, this.strip, main, this.help);
  }

  hasOverlay(name) {
    const o = OVERLAYS[name];
    return !o || this.doc.units.some((u, i) => this.measure(o, i) !== null);
  }

  measure(overlay, unit) {
    const v = overlay.value(this.doc.units[unit], this.unitRemarks[unit]);
    return v === undefined || v === null ? null : v;
  }

  theme() { this.root.dataset.theme = this.root.dataset.theme === "dark" ? "light" : "dark"; }
  toggleHelp(hide = !this.help.hidden) {
    this.help.hidden = hide;
    (hide ? this.panes[this.active].list.host : this.help.firstChild).focus();
  }

  // ----- panes -------------------------------------------------------------------------------------

  addPane(stage) {
    const pane = {stage, box: element("div", "lx-pane"), cursor: 0, entries: []};
    const bar = element("div", "lx-bar");
    pane.select = element("select"); pane.select.setAttribute("aria-label", "stage");
    this.doc.stages.forEach((s, i) => pane.select.append(new Option(s.same ? `${i} ${s.name} (no change)` : `${i} ${s.name}`, i)));
    pane.select.value = stage;
    pane.select.onchange = () => { pane.stage = Number(pane.select.value); this.refresh(); };
    pane.note = element("span", "lx-soft");
    bar.append(pane.select, pane.note);
    if (this.panes.length > 1) {
      const close = element("button", "lx-close", "×"); close.title = "close this pane (x)"; close.setAttribute("aria-label", "close this pane");
      close.onclick = () => this.closePane(pane);
      pane.closes = true; bar.append(close);
    }
    const host = element("div", "lx-list"); host.tabIndex = 0; host.setAttribute("role", "tree");
    host.id = `${this.name}-list${this.made = (this.made ?? 0) + 1}`;
    pane.box.addEventListener("focusin", () => this.activate(pane));
    pane.list = new List(host, (r, e) => drawRow(this, pane, r, e), (i, ev) => this.click(pane, i, ev));
    host.addEventListener("scroll", () => this.follow(pane), {passive: true});
    pane.box.append(bar, host);
    this.panesBox.append(pane.box); this.panes.push(pane);
    pane.select.onkeydown = e => e.stopPropagation();
  }

  morePanes() { this.addPane(this.doc.stages.length - 1); this.refresh(); this.panes.at(-1).list.host.focus(); }

  closePane(pane) {
    if (!pane.closes) return;
    this.panes.splice(this.panes.indexOf(pane), 1); pane.box.remove();
    if (this.chosen?.pane === pane) this.chosen = null;
    this.refresh(); this.panes.at(-1).list.host.focus();
  }

  activate(pane) {
    this.active = this.panes.indexOf(pane);
    this.panes.forEach(p => p.box.classList.toggle("lx-active", p === pane));
  }

  refresh() {
    const {doc, state} = this;
    const diff = state.diff && this.panes.length > 1;
    this.moved = null;
    this.scale = this.heatScale();
    if (diff) this.setDiff();
    this.panes.forEach((pane, n) => {
      pane.diff = diff && n < 2;
      if (!pane.diff)
        pane.entries = outline(doc, pane.stage, state.group === "none" ? "flat" : state.group, state.constants, this.unitOf,
          (key, byDefault) => this.folds.get(`${key}`) ?? (this.query ? true : byDefault));
      markFirst(this, pane.entries);
      const stage = doc.stages[pane.stage], fired = Object.entries(stage.fired ?? {}).map(([k, v]) => v > 1 ? `${v} × ${k}` : k).join(", ");
      const ops = rowsOf(doc, pane.stage).filter(r => opOf(doc, r).unit === undefined && !opOf(doc, r).constant).length;
      pane.list.host.setAttribute("aria-label", `ops after stage ${pane.stage}, ${stage.name}`);
      pane.note.textContent = `${pane.diff ? `${this.moved[n]}; ` : ""}${ops} ops${stage.ms !== undefined ? `, ${stage.ms.toFixed(1)} ms` : ""}${fired ? `: ${fired}` : ""}`;
      pane.note.title = pane.note.textContent;
      pane.select.value = pane.stage;
    });
    this.findHits();
    this.panes.forEach(p => p.list.set(p.entries));
    this.showSide();
  }

  setDiff() {
    const {doc, state} = this, [left, right] = this.panes;
    const flat = p => outline(doc, p.stage, "flat", state.constants, this.unitOf, () => true)
      .filter(e => opOf(doc, e.row).unit === undefined).map(e => ({...e, depth: 0}));
    const pairs = difference(doc, flat(left), flat(right));
    left.entries = pairs.map(([a, b, mark]) => a ? {...a, mark, other: mark === "chg" ? b.row : null} : {gap: true});
    right.entries = pairs.map(([a, b, mark]) => b ? {...b, mark, other: mark === "chg" ? a.row : null} : {gap: true});
    const n = k => pairs.filter(p => p[2] === k).length;
    this.moved = [`−${n("del")} ~${n("chg")}`, `+${n("add")} ~${n("chg")}`];
  }

  // Panes of a difference scroll together; others bring the selected op into sight when it is chosen.
  follow(pane) {
    if (!pane.diff || this.following) return;
    this.following = true;
    for (const p of this.panes) if (p !== pane && p.diff) p.list.host.scrollTop = pane.list.host.scrollTop;
    requestAnimationFrame(() => { this.following = false; });
  }

  heatScale() {
    const o = OVERLAYS[this.state.overlay];
    if (!o) return null;
    const values = this.doc.units.map((_, i) => this.measure(o, i)).filter(v => v !== null);
    return {o, most: Math.max(...values, 1e-30)};
  }

  // ----- selection ---------------------------------------------------------------------------------

  click(pane, i, event) {
    this.activate(pane);
    const e = pane.entries[i];
    if (!e || e.gap) return;
    pane.cursor = i;
    if (e.group && (event.target.closest(".lx-tw") || !e.row)) this.fold(pane, e);
    this.choose(pane, i);
  }

  fold(pane, e) { this.folds.set(e.key, !e.isOpen); this.refresh(); pane.cursor = pane.entries.findIndex(x => x.key === e.key); }

  choose(pane, i) {
    const e = pane.entries[i];
    pane.cursor = i; pane.cursorKey = e.group ? e.key : null;
    const row = e.row ?? this.firstRow(e.node);
    this.chosen = row ? {pane, stage: pane.stage, row, i: e.i ?? -1} : null;
    this.panes.forEach(p => p.list.redraw());
    pane.list.reveal(i);
    this.panes.forEach(p => p.list.host.removeAttribute("aria-activedescendant"));
    pane.list.host.setAttribute("aria-activedescendant", `${pane.list.host.id}-${i}`);
    this.syncOthers(pane);
    this.showSide();
  }

  firstRow(node) { let n = node; while (n && n.kids) n = n.kids[0]; return n?.row; }

  // Other panes scroll to the op that the chosen one became or came from.
  syncOthers(pane) {
    const here = this.chosen;
    if (!here) return;
    for (const p of this.panes) {
      if (p === pane || p.diff) continue;
      const exact = p.entries.findIndex(e => e.row && e.row[0] === here.row[0]);
      const unit = this.unitOf(here.row);
      const at = exact >= 0 ? exact : p.entries.findIndex(e => e.row && !e.group && isKin(this, here, e, this.unitOf(e.row)));
      const near = at >= 0 ? at : unit < 0 ? -1 : p.entries.findIndex(e => unitAt(this, e) === unit);
      if (near >= 0) p.list.reveal(near);
    }
  }

  select(pane, i) {
    let at = pane.entries.findIndex(e => e.i === i);
    if (at < 0 && !pane.diff) { this.unfoldTo(pane, i); at = pane.entries.findIndex(e => e.i === i); }
    if (at >= 0) this.choose(pane, at);
  }

  unfoldTo(pane, i) {
    const inside = n => n.kids ? n.kids.some(inside) || n.i === i : n.i === i;
    for (let again = true; again;) {
      again = false;
      for (const e of pane.entries) if (e.group && !e.isOpen && inside(e.node)) { this.folds.set(e.key, true); again = true; }
      if (again) this.refresh();
    }
  }

  selectUnit(unit) {
    const pane = this.lastPane(), at = pane.entries.findIndex(e => unitAt(this, e) === unit);
    if (at >= 0) this.choose(pane, at);
    else this.selectRow(pane, row => this.unitOf(row) === unit);
    [...this.strip.children].forEach((s, i) => s.classList.toggle("lx-on", i === unit));
  }

  // The pane that shows the last stage; without one, the second pane is turned to it.
  lastPane() {
    const last = this.doc.stages.length - 1, pane = this.panes.find(p => p.stage === last) ?? this.panes[Math.min(1, this.panes.length - 1)];
    if (pane.stage !== last) { pane.stage = last; this.refresh(); }
    return pane;
  }

  selectRow(pane, wanted) {
    const {doc} = this, plain = row => opOf(doc, row).unit === undefined && !opOf(doc, row).constant;
    const i = rowsOf(doc, pane.stage).findIndex(row => plain(row) && wanted(row));
    if (i >= 0) this.select(pane, i);
    return i >= 0;
  }

  // Remarks lead to the op they are about; ops that a pass removed stand in the captured program.
  hasPlace(where) {
    const {doc} = this;
    this.places ??= new Set(doc.stages.flatMap((s, i) => s.same ? [] : rowsOf(doc, i).map(row => placeOf(doc, row))));
    return this.places.has(where);
  }

  selectPlace(where) {
    const here = row => placeOf(this.doc, row) === where;
    if (this.selectRow(this.lastPane(), here)) return;
    const stage = this.doc.stages.findLastIndex((_, s) => rowsOf(this.doc, s).some(here)), pane = this.panes[0];
    if (stage < 0) return;
    if (pane.stage !== stage) { pane.stage = stage; this.refresh(); }
    this.selectRow(pane, here);
  }

  tab(name) { this.state.tab = name; this.showSide(); }

  showSide() {
    for (const b of this.tabs.children) {
      const on = b.textContent === this.state.tab;
      b.setAttribute("aria-selected", on); b.tabIndex = on ? 0 : -1;
    }
    this.body.setAttribute("aria-labelledby", `${this.name}-${this.state.tab}`);
    const body = this.body, at = this.chosen;
    body.replaceChildren();
    if (!at && this.state.tab === "Op") { this.overview(body); return; }
    TABS[this.state.tab](this, at, body);
    const on = body.querySelector(".lx-on");
    if (on && this.state.tab !== "Arena") body.scrollTop = Math.max(0, on.offsetTop - body.offsetTop - body.clientHeight / 3);
    else body.scrollTop = 0;
    if (at) { const unit = this.unitOf(at.row); [...this.strip.children].forEach((s, i) => s.classList.toggle("lx-on", i === unit)); }
  }

  overview(body) {
    const {doc} = this;
    body.append(element("h2", "", doc.name), facts([["threads", doc.governor], ["stages", doc.stages.length], ["units", doc.units.length],
      ["time", doc.total_us && fmt.us(doc.total_us)], ["remarks", doc.remarks.length]]));
    const heavy = doc.units.map((u, i) => [doc.total_us ? u.us : u.flops, i]).sort((a, b) => b[0] - a[0]).slice(0, 10);
    body.append(element("h3", "", doc.total_us ? "Most time" : "Most work"));
    const t = element("table");
    for (const [v, i] of heavy) {
      const tr = element("tr"), td = element("td"); td.append(link(doc.units[i].name, () => this.selectUnit(i)));
      tr.append(td, element("td", "n", doc.total_us ? fmt.us(v) : fmt.flops(v))); t.append(tr);
    }
    body.append(t, element("h3", "", "Passes"), this.passes(), element("p", "lx-soft", "Choose an op to see where it comes from and what became of it. Keys: ?"));
  }

  passes() {
    const {doc} = this, t = element("table"), seconds = doc.stages.some(s => s.ms !== undefined);
    doc.stages.forEach((s, i) => {
      const tr = element("tr"), td = element("td"), fired = Object.values(s.fired ?? {}).reduce((a, b) => a + b, 0);
      td.append(link(`${i} ${s.name}`, () => { this.panes[0].stage = i; this.refresh(); }));
      tr.append(td, element("td", "lx-soft", s.same ? "no change" : fired ? `${fired} fired` : ""));
      if (seconds) tr.append(element("td", "n", s.ms === undefined ? "" : `${s.ms.toFixed(1)} ms`));
      t.append(tr);
    });
    return t;
  }

  // ----- search and keys ---------------------------------------------------------------------------

  findHits() {
    let n = 0;
    for (const p of this.panes) {
      p.hitRows = [];
      p.entries.forEach((e, i) => {
        if (!this.query || e.gap) return;
        const text = e.group ? `${e.label} ${e.note}` : `${this.doc.strings[e.row[1]].replaceAll("\t", " ")} ${placeOf(this.doc, e.row)}`;
        e.isHit = text.toLowerCase().includes(this.query);
        if (e.isHit) p.hitRows.push(i);
      });
      n += p.hitRows.length;
    }
    this.hits.textContent = this.query ? `${n} hit${n === 1 ? "" : "s"}` : "";
  }

  // Brings the first hit of each pane into sight where none is; a difference scrolls as one.
  showHits() {
    for (const p of this.panes) {
      const {scrollTop, clientHeight} = p.list.host;
      const seen = p.hitRows.some(i => i * ROW >= scrollTop && (i + 1) * ROW <= scrollTop + clientHeight);
      if (p.hitRows.length && !seen) p.list.reveal(p.hitRows[0]);
      if (p.diff && p.hitRows.length) break;
    }
  }

  walkHits(step) {
    const pane = this.panes[this.active] ?? this.panes[0], hits = pane.hitRows;
    if (!hits.length) return;
    this.hit = ((this.hit ?? -1) + step + hits.length) % hits.length;
    this.choose(pane, hits[this.hit]);
  }

}

function mount(host, doc) { return new App(host, doc); }
