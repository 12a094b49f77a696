// A table of many rows of which few are in the page: sorted by its heads, filtered by whoever owns it, in pages. Rows that did
// not change keep their elements, so that a picture which moves takes nobody's focus or selection away.

import { count } from "./words.js";
import { h, put } from "./dom.js";

const PAGE = 50;

/**
 * `columns`: `{name, title, value(row), cell(row), facts(row), numeric, wide, moves}`; `value` sorts, `cell` shows, `facts` (or else
 * `value`) tell whether a cell is still right; one that `moves` has other values though its rows are the same. `key(row)` is
 * unique. `sort`: `[column name, descending]`.
 */
export class Table {
  #columns;
  #key;
  #sort;
  #page = 0;
  #rows = [];
  #keep = () => true;
  /** All rows in their order; null once that is no longer theirs. */
  #ordered = null;
  #none;
  #kept = new Map();
  #head = h("tr");
  #body = h("tbody");
  #foot = h("div", { class: "pager" });
  #noneAt = h("div");

  constructor({ columns, key, sort, caption, none }) {
    this.#columns = columns;
    this.#key = key;
    this.#sort = sort;
    this.#none = none;
    const table = h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, this.#head), this.#body);
    this.#heads();
    this.element = h("div", { class: "table" }, h("div", { class: "scroll" }, table), this.#noneAt, this.#foot);
  }

  /** Shows those of these rows that `keep` keeps; `first` goes back to the first page. */
  show(rows, first, keep) {
    // To order thousands takes longer than all else here: the same rows are not ordered again for every key that is typed.
    if (rows !== this.#rows || this.#column().moves) this.#ordered = null;
    this.#rows = rows;
    this.#keep = keep ?? (() => true);
    if (first) this.#page = 0;
    this.#draw();
  }

  #column() {
    return this.#columns.find((one) => one.name === this.#sort[0]);
  }

  #order() {
    const column = this.#column();
    const way = this.#sort[1] ? -1 : 1;
    const rows = this.#rows.map((row) => [column.value(row), this.#key(row), row]);
    return rows.sort((a, b) => way * compare(a[0], b[0]) || compare(a[1], b[1]));
  }

  #heads() {
    const [sorted, descending] = this.#sort;
    const heads = this.#columns.map((column) => {
      const is = column.name === sorted;
      const by = () => {
        this.#sort = [column.name, is ? !descending : Boolean(column.numeric)];
        this.#ordered = null;
        this.#heads();
        this.#draw();
        this.#head.querySelector(`[data-column="${CSS.escape(column.name)}"]`)?.focus();
      };
      const button =
        column.value &&
        h("button", { type: "button", "data-column": column.name, on: { click: by } }, column.title, is && h("span", { class: "arrow", "aria-hidden": "true" }, descending ? "↓" : "↑"));
      return h(
        "th",
        { scope: "col", class: style(column), "aria-sort": is ? (descending ? "descending" : "ascending") : null },
        button || column.title,
      );
    });
    put(this.#head, heads);
  }

  #draw() {
    this.#ordered ??= this.#order();
    const rows = this.#ordered.filter(([, , row]) => this.#keep(row));
    this.#page = Math.max(0, Math.min(this.#page, Math.ceil(rows.length / PAGE) - 1));
    const from = this.#page * PAGE;
    const kept = new Map();
    const elements = rows.slice(from, from + PAGE).map(([, key, row]) => {
      const facts = JSON.stringify(this.#columns.map((one) => (one.facts ?? one.value)?.(row)));
      const old = this.#kept.get(key);
      const element = old?.facts === facts ? old.element : this.#row(row);
      kept.set(key, { element, facts });
      return element;
    });
    this.#kept = kept;
    place(this.#body, elements);
    put(this.#noneAt, rows.length === 0 && this.#none());
    this.#pager(from, rows.length);
  }

  #row(row) {
    const cells = this.#columns.map((column, index) =>
      h(index === 0 ? "th" : "td", { class: style(column), scope: index === 0 ? "row" : null }, column.cell(row)),
    );
    return h("tr", {}, cells);
  }

  #pager(from, all) {
    if (all <= PAGE) return void put(this.#foot);
    const turn = (by) => () => {
      this.#page += by;
      this.#draw();
      this.element.scrollIntoView({ block: "start" });
      const there = [...this.#foot.querySelectorAll("button")];
      (there[by > 0 ? 1 : 0].disabled ? there[by > 0 ? 0 : 1] : there[by > 0 ? 1 : 0]).focus({ preventScroll: true });
    };
    const words = `${count(from + 1)} – ${count(Math.min(all, from + PAGE))} of ${count(all)}`;
    if (this.#foot.dataset.words === words && this.#foot.firstChild) return;
    this.#foot.dataset.words = words;
    put(
      this.#foot,
      h("button", { type: "button", disabled: from === 0, on: { click: turn(-1) } }, "← Before"),
      h("span", { role: "status" }, words),
      h("button", { type: "button", disabled: from + PAGE >= all, on: { click: turn(1) } }, "Next →"),
    );
  }
}

const style = (column) => [column.numeric && "number", column.wide && "wide"].filter(Boolean).join(" ") || null;

const COLLATOR = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (a === b) return 0;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return COLLATOR.compare(String(a ?? ""), String(b ?? ""));
}

/** Puts `wanted` into `parent` in their order, and moves only what is not where it should be. */
function place(parent, wanted) {
  const focused = document.activeElement;
  const had = parent.contains(focused) ? focused.getAttribute("href") : null;
  wanted.forEach((element, index) => {
    const there = parent.children[index];
    if (there !== element) parent.insertBefore(element, there ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
  // A row that changed is another element: whoever stood in it stands in it again.
  if (had !== null && document.activeElement === document.body) {
    [...parent.querySelectorAll("a")].find((link) => link.getAttribute("href") === had)?.focus({ preventScroll: true });
  }
}
