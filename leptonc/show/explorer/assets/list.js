// explorer > list: a scrolling list that draws only the rows in sight (20 px each).

const ROW = 20;

class List {
  // draw(element, entry, index) fills a row; pick(index, event) is told of a click.
  constructor(host, draw, pick) {
    this.host = host; this.draw = draw; this.entries = []; this.drawn = new Map();
    this.fill = element("div", "lx-fill"); host.append(this.fill);
    host.addEventListener("scroll", () => this.paint(), {passive: true});
    this.fill.addEventListener("click", e => {
      const row = e.target.closest(".lx-row");
      if (row) pick(Number(row.dataset.at), e);
    });
    new ResizeObserver(() => this.paint()).observe(host);
  }

  set(entries) { this.entries = entries; this.fill.style.height = `${entries.length * ROW}px`; this.redraw(); }

  redraw() { this.drawn.forEach(r => r.remove()); this.drawn.clear(); this.paint(); }

  paint() {
    const from = Math.max(0, Math.floor(this.host.scrollTop / ROW) - 12);
    const to = Math.min(this.entries.length, Math.ceil((this.host.scrollTop + this.host.clientHeight) / ROW) + 12);
    for (const [i, r] of this.drawn) if (i < from || i >= to) { r.remove(); this.drawn.delete(i); }
    const fresh = document.createDocumentFragment();
    for (let i = from; i < to; i += 1) {
      if (this.drawn.has(i)) continue;
      const r = element("div", "lx-row");
      r.style.top = `${i * ROW}px`; r.dataset.at = i; r.id = `${this.host.id}-${i}`;
      r.setAttribute("role", "treeitem");
      this.draw(r, this.entries[i], i);
      this.drawn.set(i, r); fresh.append(r);
    }
    this.fill.append(fresh);
  }

  reveal(i) {
    const top = i * ROW, h = this.host.clientHeight;
    if (top < this.host.scrollTop || top + ROW > this.host.scrollTop + h)
      this.host.scrollTop = Math.max(0, top - h / 3);
    this.paint();
  }
}

function element(tag, cls, text) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
}
