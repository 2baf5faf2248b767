// explorer > keys: what each key does, and the list of them that `?` shows.

const HELP = [["↑ ↓", "move"], ["← →", "fold, unfold"], ["/", "search; Enter and Shift+Enter walk the hits"],
  ["[ ]", "stage before, after"], ["Tab", "next pane"], ["d", "difference of the two panes"],
  ["p x", "one more pane, close the pane"], ["g", "group by unit, by module, not at all"], ["o", "next overlay"],
  ["1 … 5", "op, remarks, source, code, arena"],
  ["t", "light or dark"], ["?", "this help"], ["Esc", "close, clear the search"]];

function onKey(app, e) {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.target === app.search) {
    if (e.key === "Enter") { app.walkHits(e.shiftKey ? -1 : 1); e.preventDefault(); }
    if (e.key === "Escape") { app.search.value = app.query = ""; app.refresh(); app.panes[app.active].list.host.focus(); }
    return;
  }
  if (e.target.tagName === "SELECT") return;
  const pane = app.panes[app.active] ?? app.panes[0], entry = pane.entries[pane.cursor];
  const go = (i, d) => { while (pane.entries[i]?.gap) i += d; if (pane.entries[i]) app.choose(pane, i); };
  const move = d => go(pane.cursor + d, d), last = pane.entries.length - 1;
  const next = (box, values, key) => { app.state[key] = values[(values.indexOf(app.state[key]) + 1) % values.length]; box.value = app.state[key]; app.refresh(); };
  const page = Math.max(1, Math.floor(pane.list.host.clientHeight / ROW) - 2), inList = e.target === pane.list.host;
  const acts = {
    "/": () => app.search.focus(), "?": () => app.toggleHelp(), t: () => app.theme(),
    d: () => app.diffButton.click(), Escape: () => { if (!app.help.hidden) app.toggleHelp(true); },
    p: () => app.morePanes(), x: () => app.closePane(pane),
    g: () => next(app.groupBox, ["unit", "module", "none"], "group"),
    o: () => next(app.overlayBox, [...app.overlayBox.options].map(x => x.value), "overlay"),
    "[": () => { pane.stage = Math.max(0, pane.stage - 1); app.refresh(); },
    "]": () => { pane.stage = Math.min(app.doc.stages.length - 1, pane.stage + 1); app.refresh(); },
    ...Object.fromEntries(Object.keys(TABS).map((name, i) => [String(i + 1), () => app.tab(name)])),
    ...(inList ? {
      ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => go(Math.min(last, pane.cursor + page), -1),
      PageUp: () => go(Math.max(0, pane.cursor - page), 1), Home: () => go(0, 1), End: () => go(last, -1),
      ArrowLeft: () => { if (entry?.group && entry.isOpen) app.fold(pane, entry); else { let i = pane.cursor; while (i > 0 && !(pane.entries[i].group && pane.entries[i].depth < (entry?.depth ?? 0))) i -= 1; app.choose(pane, i); } },
      ArrowRight: () => { if (entry?.group && !entry.isOpen) app.fold(pane, entry); else move(1); },
      Enter: () => { if (entry?.group) app.fold(pane, entry); },
    } : {}),
  };
  if (acts[e.key]) { acts[e.key](); e.preventDefault(); e.stopPropagation(); }
}
