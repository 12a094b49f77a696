// The whole registry at any moment that the log reaches back to: what it would have answered, and what has changed since.

import { get, read } from "./api.js";
import { at as link, empty, h, put, sign, trouble } from "./dom.js";
import { live } from "./live.js";
import { columns, figures } from "./services.js";
import { Table } from "./table.js";
import { count, counted, instant, now, span, tell } from "./words.js";

/** The slider's steps: finer than a hand, and each a moment. */
const STEPS = 2000;
const SHOWN = 50;
const STEP_BACK = [["1 h", 3_600_000], ["5 min", 300_000], ["30 s", 30_000]];

function moved(title, status, list, row) {
  if (list.length === 0) return null;
  return h("section", { class: "card" }, h("h3", {}, sign(status, `${count(list.length)} ${title}`)), h("ul", { class: "rows" }, list.slice(0, SHOWN).map(row)), list.length > SHOWN && h("p", { class: "small" }, `and ${count(list.length - SHOWN)} more`));
}

const whom = (one) => [h("a", { href: link(["instances", one.namespace, one.service, one.instance]) }, one.instance), h("span", { class: "faint" }, ` ${one.service}`)];

const how = (event) => event && h("span", { class: "small" }, " ", h("a", { href: link(["events", event.id]) }, instant(event.at)), ` ${tell(event)}`);

/** Those who left and came are neither gone nor new: they live anew. */
function reborn(diff) {
  const key = (one) => `${one.namespace}/${one.service}/${one.instance}`;
  const left = new Set(diff.left.map(({ instance }) => key(instance)));
  const anew = diff.came.filter((one) => left.has(key(one)));
  const there = new Set(anew.map(key));
  return {
    anew,
    came: diff.came.filter((one) => !there.has(key(one))),
    left: diff.left.filter(({ instance }) => !there.has(key(instance))),
  };
}

/** What is different now. */
function difference(diff) {
  const value = (one) => (one === null ? "none" : Array.isArray(one) ? one.join(", ") || "none" : String(one));
  const change = ([field, [before, after]]) => h("div", { class: "small" }, `${field}: `, h("del", {}, value(before)), " → ", h("ins", {}, value(after)));
  const nothing = diff.came.length + diff.left.length + diff.changed.length === 0;
  if (nothing) return empty("Nothing is different now", diff.reverted + diff.passed > 0 ? `Between then and now ${counted(diff.passed, "instance")} came and left again, ${count(diff.reverted)} changed and changed back.` : "The registry stands as it stood then.");
  const { anew, came, left } = reborn(diff);
  return h(
    "div",
    { class: "thirds" },
    moved("left since", "gone", left, ({ instance, event }) => h("li", {}, whom(instance), how(event))),
    moved("came since", "healthy", came, (instance) => h("li", {}, whom(instance), how(instance.event))),
    moved("began a new life", "info", anew, (instance) => h("li", {}, whom(instance), how(instance.event))),
    moved("changed since", "unstable", diff.changed, (one) => h("li", {}, whom(one), Object.entries(one.fields).map(change))),
  );
}

export async function view({ root, query, titled, signal, on }) {
  titled("Past");
  if (!live.loaded) await new Promise((resolve) => on("overview", resolve));
  const { oldest } = live.status.kept;
  const first = await get("v1/events", { order: "asc", limit: 1 }, signal);
  // Rounded up: a browser's clock knows no microseconds, and a moment before the first one has no answer.
  const begin = Date.parse(oldest.at ?? first.events[0]?.at ?? new Date().toISOString()) + 1;
  const slider = h("input", { type: "range", min: 0, max: STEPS, step: 1, id: "moment", "aria-describedby": "ends" });
  const exact = h("input", { type: "text", "aria-label": "An instant: RFC 3339, an age such as -5m, or a version such as @42", size: 28, spellcheck: "false", autocomplete: "off" });
  const words = h("output", { class: "moment", for: "moment" });
  const state = h("div", { class: "stack" });
  const since = h("section", { class: "stack", "aria-label": "What is different now" });
  const places = h("section", { class: "stack busy-able", "aria-label": "Services then" });
  let end = now();
  let asked = "";
  let moment = null;

  const table = new Table({
    columns: columns((row) => link(["services", row.namespace, row.service], { at: moment ? `@${moment.seq}` : null })),
    key: (row) => `${row.namespace}/${row.service}@${moment?.seq}`,
    sort: ["service", false],
    caption: "Services at that moment",
    none: () => empty("Nobody had registered yet", "Move the slider to the right."),
  });

  let turn = 0;
  const load = async (text, typed) => {
    asked = text;
    const mine = (turn += 1);
    history.replaceState(null, "", link(["past"], { at: text }));
    if (!typed) exact.value = text;
    places.classList.add("is-busy");
    try {
      const answer = await read("v1/overview", { at: text, limit: 10_000 }, signal);
      if (mine !== turn) return;
      const seq = answer.seq;
      const [diff, event] = await Promise.all([
        get("v1/diff", { from: `@${seq}`, limit: 1000 }, signal),
        seq > 0 ? get(`v1/events/${seq}`, {}, signal).catch(() => null) : null,
      ]);
      if (mine !== turn) return;
      moment = { seq };
      const when = /^\d{4}-/.test(text) ? Date.parse(text) : Date.parse(diff.from.at);
      if (typed) slider.value = Math.round(((when - begin) / Math.max(1, end - begin)) * STEPS);
      slider.setAttribute("aria-valuetext", `change ${seq}, ${instant(new Date(when).toISOString())}`);
      put(words, h("strong", {}, `Change ${count(seq)}`), " ", h("time", { class: "mono" }, instant(new Date(when).toISOString())), h("span", { class: "faint" }, ` ${span(Math.max(0, now() - when))} ago`));
      const { services } = answer.body;
      put(
        state,
        event && h("p", { class: "small" }, "Its newest change: ", h("a", { href: link(["events", event.id]) }, `@${event.seq}`), ` ${event.instance ?? ""} ${tell(event)}`),
        figures(services),
        diff.truncated && h("p", { class: "note" }, "Only the first thousand differences are shown."),
      );
      put(since, h("h2", {}, "What is different now"), difference(diff));
      table.show(services, false);
      before.disabled = seq <= oldest.seq;
      after.disabled = seq >= live.seq;
    } catch (error) {
      if (error.name === "AbortError" || mine !== turn) return;
      put(state, trouble(error));
      put(since);
      table.show([], true);
    } finally {
      if (mine === turn) places.classList.remove("is-busy");
    }
  };

  const spot = () => new Date(begin + (Number(slider.value) / STEPS) * (end - begin)).toISOString();
  let due = null;
  slider.addEventListener("input", () => {
    put(words, h("time", { class: "mono" }, instant(spot())));
    clearTimeout(due);
    // A hand that moves is not followed with a question per pixel.
    due = setTimeout(() => load(spot(), false), 120);
  });
  const step = (by) => () => moment && load(`@${Math.min(live.seq, Math.max(oldest.seq, moment.seq + by))}`, true).then(() => (exact.value = asked));
  const before = h("button", { type: "button", on: { click: step(-1) } }, "← Change");
  const after = h("button", { type: "button", on: { click: step(1) } }, "Change →");
  const back = STEP_BACK.map(([word, ms]) => h("button", { type: "button", on: { click: () => load(new Date(Math.max(begin, now() - ms)).toISOString(), true).then(() => (exact.value = asked)) } }, `${word} ago`));
  const form = h("form", { class: "tools", on: { submit: (event) => (event.preventDefault(), load(exact.value.trim(), true)) } }, before, after, back, exact, h("button", {}, "Go"));
  put(
    root,
    h("h1", {}, "Past"),
    h("section", { class: "card machine", "aria-label": "Moment" }, h("label", { for: "moment" }, "What would the registry have answered at …"), words, slider, h("p", { class: "small ends", id: "ends" }, h("span", {}, `from ${instant(new Date(begin).toISOString())}`), h("span", {}, "to now")), form),
    state,
    since,
    places,
  );
  put(places, h("h2", {}, "Services then"), table.element);
  // Opened without a moment, it shows the one before somebody last expired: that is what people look for.
  const last = live.recent[0];
  const wanted = query.get("at") ?? (last ? `@${Math.max(oldest.seq, last.seq - 1)}` : new Date(begin + (end - begin) / 2).toISOString());
  await load(wanted, true);
  exact.value = wanted;
}
