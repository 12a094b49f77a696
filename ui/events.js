// The log: filtered, in pages, followed as it grows; one event with all that it says; all events of a trace.

import { get, path } from "./api.js";
import { at, empty, h, put, sign, trouble } from "./dom.js";
import { about, traceLink } from "./links.js";
import { live } from "./live.js";
import { count, counted, instant, signOf, tell } from "./words.js";

const PAGE = 50;
const FOLLOW_MS = 2000;
const FILTERS = ["service", "instance", "caller", "trace_id", "namespace", "since", "until"];
const KINDS = {
  Changes: ["registered", "updated", "mode_changed", "status_changed", "deregistered", "expired", "guard_entered", "guard_left", "started", "recovered", "log_gap", "checkpoint", "compacted"],
  Traffic: ["heartbeat", "lookup", "watch_opened", "watch_closed", "notified"],
};

function row(event) {
  return h(
    "li",
    { class: "event", "data-id": event.id },
    h("time", { class: "mono", datetime: event.at }, instant(event.at)),
    h("span", {}, sign(signOf(event), h("a", { href: at(["events", event.id]) }, event.kind.replaceAll("_", " ")))),
    h("span", { class: "whom" }, about(event)),
    h("span", { class: "told" }, tell(event)),
    h("span", { class: "ways" }, traceLink(event.trace_id, event.span_id, event.trace_url), event.cause && h("a", { href: at(["events", event.cause]), title: "The change that led to it" }, `because of @${event.cause}`)),
  );
}

function missing(page) {
  if (page.complete) return null;
  const gaps = (page.missing ?? []).map((gap) => h("li", {}, `${instant(gap.from)} to ${instant(gap.until)}: ${gap.reason}`));
  return h("div", { class: "note" }, "Not everything of this time is there:", h("ul", {}, gaps));
}

export async function view({ root, query, titled, every, signal }) {
  titled("Events");
  const kind = h("select", { name: "kind", "aria-label": "Kind" }, h("option", { value: "" }, "Every kind"), Object.entries(KINDS).map(([group, kinds]) => h("optgroup", { label: group }, kinds.map((one) => h("option", { value: one }, one.replaceAll("_", " "))))));
  kind.value = query.get("kind") ?? "";
  const words = { service: "Service", instance: "Instance", caller: "Caller", trace_id: "Trace", namespace: "Namespace", since: "Since (-5m)", until: "Until" };
  const inputs = FILTERS.map((name) => h("input", { name, placeholder: words[name], "aria-label": words[name], value: query.get(name) ?? "", spellcheck: "false", autocomplete: "off", class: ["namespace", "since", "until"].includes(name) ? "few" : null }));
  const follow = h("input", { type: "checkbox", id: "follow", checked: query.get("follow") !== "no" });
  const list = h("ol", { class: "events" });
  const note = h("div");
  const foot = h("div", { class: "pager" });
  const filter = () => Object.fromEntries([kind, ...inputs].map((input) => [input.name, input.value.trim()]).filter(([, value]) => value));
  let pages = 0;
  let next = null;
  let turn = 0;

  const load = async (cursor) => {
    const mine = (turn += 1);
    const page = await get("v1/events", { ...filter(), order: "desc", limit: PAGE, cursor }, signal);
    if (mine !== turn) return;
    next = page.next;
    pages = cursor ? pages + 1 : 1;
    // One page at a time is in the document, however far somebody reads back.
    put(list, page.events.map(row));
    put(note, missing(page), page.events.length === 0 && empty("No event is like that", "Take away a filter, or wait: this list grows by itself."));
    put(
      foot,
      pages > 1 && h("button", { type: "button", on: { click: () => turned(null) } }, "← Newest"),
      h("span", { class: "faint", role: "status" }, pages > 1 ? `page ${count(pages)}` : next ? `the newest ${count(page.events.length)} events` : page.events.length > 0 ? counted(page.events.length, "event") : ""),
      next && h("button", { type: "button", on: { click: () => turned(next) } }, "Older →"),
    );
  };
  const turned = async (cursor) => {
    await load(cursor).catch(failed);
    root.scrollIntoView({ block: "start" });
  };
  const failed = (error) => {
    if (signal.aborted) return;
    put(note, trouble(error));
    put(list);
    put(foot);
  };
  const changed = () => {
    history.replaceState(null, "", at(["events"], { ...filter(), follow: follow.checked ? null : "no" }));
    load(null).catch(failed);
  };
  /** What came since, put on top: what stands there keeps its place and its focus. */
  const more = async () => {
    const mine = turn;
    const page = await get("v1/events", { ...filter(), order: "desc", limit: PAGE }, signal);
    if (mine !== turn || pages !== 1) return;
    const there = new Map([...list.children].map((element) => [element.dataset.id, element]));
    const wanted = page.events.map((event) => there.get(event.id) ?? row(event));
    const has = new Set(wanted);
    for (const element of [...list.children]) if (!has.has(element)) element.remove();
    wanted.forEach((element, index) => list.children[index] === element || list.insertBefore(element, list.children[index] ?? null));
    if (wanted.length > 0) put(note, missing(page));
  };
  for (const input of [kind, ...inputs]) input.addEventListener("change", changed);
  follow.addEventListener("change", changed);
  const form = h("form", { class: "tools filters", role: "search", on: { submit: (event) => (event.preventDefault(), changed()) } }, kind, inputs, h("label", { class: "check" }, follow, " follow"), h("button", { class: "hidden", tabindex: "-1" }, "Search"));
  put(root, h("h1", {}, "Events"), form, note, list, foot);
  await load(null).catch(failed);
  every(FOLLOW_MS, () => follow.checked && pages === 1 && !list.contains(document.activeElement) && more().catch(() => {}));
}

/** One event. */
export async function one({ root, names, titled, signal }) {
  const event = await get(path`v1/events/${names[0]}`, {}, signal);
  titled(`Event ${event.id}`);
  const fact = (name, ...value) => [h("dt", {}, name), h("dd", {}, value)];
  const led = /^\d+$/.test(event.id) ? Number(event.id) : null;
  const around = led !== null && [led > 1 && h("a", { href: at(["events", led - 1]) }, `← @${led - 1}`), (!live.loaded || led < live.newest) && h("a", { href: at(["events", led + 1]) }, `@${led + 1} →`), led > 1 && h("a", { href: at(["past"], { at: `@${led - 1}` }) }, "The registry just before")];
  put(
    root,
    h("p", { class: "crumbs" }, h("a", { href: at(["events"]) }, "Events"), " / ", event.id),
    h("div", { class: "heading" }, h("h1", {}, event.kind.replaceAll("_", " ")), h("p", { class: "links" }, around)),
    h("p", { class: "why" }, sign(signOf(event), [about(event), " ", tell(event)])),
    h(
      "dl",
      { class: "facts card" },
      fact("When", instant(event.at)),
      fact("Version", `@${event.seq}`),
      event.caller && fact("Caller", h("a", { href: at(["events"], { caller: event.caller }) }, event.caller)),
      event.trace_id && fact("Trace", traceLink(event.trace_id, event.span_id, event.trace_url)),
      event.cause && fact("Because of", h("a", { href: at(["events", event.cause]) }, `@${event.cause}`)),
      event.data?.last_heartbeat && fact("Last heartbeat", h("a", { href: at(["events", event.data.last_heartbeat.id]) }, event.data.last_heartbeat.id), " ", traceLink(event.data.last_heartbeat.trace_id, event.data.last_heartbeat.span_id, event.last_heartbeat_trace_url)),
    ),
    h("h2", {}, "All that it says"),
    h("pre", { tabindex: "0", "aria-label": "The event as JSON" }, JSON.stringify(event, null, 2)),
  );
}

/** All events of a trace. */
export async function trace({ root, names, titled, signal }) {
  titled("Trace");
  const found = await get(path`v1/traces/${names[0]}`, { limit: 500 }, signal);
  const first = found.events[0];
  put(
    root,
    h("p", { class: "crumbs" }, h("a", { href: at(["events"]) }, "Events"), " / trace"),
    h("h1", {}, "Trace ", h("code", {}, found.trace_id)),
    h("p", { class: "lead" }, counted(found.events.length, "event"), " of the registry", first && [" · ", traceLink(first.trace_id, first.span_id, found.trace_url)]),
    missing(found),
    found.events.length > 0 ? h("ol", { class: "events" }, found.events.map(row)) : empty("The log knows no event of this trace", "It is older than what is kept, or it never reached the registry."),
  );
}
