// The shell: which view an address means, the sign of the stream, light and dark, and times that count up. It holds nothing of
// what the views show.
//
//   #/                                  all services
//   #/services/{namespace}/{service}    one of them; `?at=` as it was then
//   #/instances/{ns}/{service}/{id}     an instance through time: why it left, who was handed it
//   #/graph  #/past?at=  #/events?...   who asks for whom; the registry then; the log
//   #/events/{id}  #/traces/{id}        one event; all of a trace

import { h, put, sign, since, trouble } from "./dom.js";
import { live } from "./live.js";
import { count, instant, now, passed } from "./words.js";
import * as events from "./events.js";
import * as graph from "./graph.js";
import * as instance from "./instance.js";
import * as past from "./past.js";
import * as service from "./service.js";
import * as services from "./services.js";

const main = document.getElementById("main");

const ROUTES = [
  [[], services.view, "services"],
  [["services", "?", "?"], service.view, "services"],
  [["instances", "?", "?", "?"], instance.view, "services"],
  [["graph"], graph.view, "graph"],
  [["past"], past.view, "past"],
  [["events"], events.view, "events"],
  [["events", "?"], events.one, "events"],
  [["traces", "?"], events.trace, "events"],
];

/** Segments and query of the address that is shown. */
function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const decode = (part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  return { segments: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query ?? "") };
}

let shown = null;

async function show() {
  const { segments, query } = read();
  const route = ROUTES.find(
    ([names]) => names.length === segments.length && names.every((name, index) => name === "?" || name === segments[index]),
  );
  shown?.abort();
  const stop = (shown = new AbortController());
  const root = h("div", { class: "view" });
  put(main, root);
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === route?.[2]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!route) {
    titled("Nothing here");
    put(root, h("h1", {}, "There is no such view"), h("p", {}, h("a", { href: "#/" }, "All services")));
    return;
  }
  const context = {
    root,
    query,
    names: segments.filter((_, index) => route[0][index] === "?"),
    signal: stop.signal,
    titled,
    /** Calls `listener` until the view is left. */
    on: (event, listener) => live.addEventListener(event, listener, { signal: stop.signal }),
    /** Calls `task` every so often until the view is left, unless nobody looks. */
    every: (ms, task) => {
      const timer = setInterval(() => document.hidden || task(), ms);
      stop.signal.addEventListener("abort", () => clearInterval(timer), { once: true });
    },
  };
  try {
    await route[1](context);
  } catch (error) {
    if (!stop.signal.aborted) {
      if (!error.title) console.error(error);
      // What had been made by then is half a view: only where it is stays.
      put(root, root.querySelector(".crumbs"), root.querySelector("h1"), trouble(error, show));
    }
  }
}

let title = "";

function titled(text = title) {
  title = text;
  document.title = `${text} · rollcall${live.replay ? " replay" : ""}`;
}

function stream() {
  const words = {
    live: () => (live.replay ? standing(live.replay) : sign("healthy", `live at change ${count(live.seq)}`)),
    connecting: () => sign("info", "connecting"),
    paused: () => sign("info", "paused"),
    broken: () =>
      live.loaded
        ? [sign("failed", "stream broken"), " · picture of ", since(new Date(live.heardAt).toISOString())]
        : sign("failed", live.error?.title ?? "no connection"),
  };
  const element = document.getElementById("stream");
  element.className = `stream is-${live.state}${live.replay ? " is-past" : ""}`;
  element.title = live.error?.message ?? "";
  put(element, words[live.state]());
  // Read aloud when it breaks and when it is back, and not at every change.
  const said = document.getElementById("said");
  if (said.dataset.state !== live.state) {
    said.dataset.state = live.state;
    put(said, { live: live.replay ? `This is a replay of the past, as of ${instant(live.replay.position.at)}.` : "The stream of changes is live.", broken: "The stream of changes is broken.", paused: "", connecting: "" }[live.state]);
  }
}

/** Where a replay stands: that it is the past, as of when, and whether it goes on. */
function standing({ position, state, speed }) {
  const pace = state === "playing" ? `replay at ${speed}` : `replay ${state}`;
  return [sign("unstable", "the past"), " as of ", h("time", { class: "mono", datetime: position.at }, instant(position.at)), ` · change ${count(position.seq)} · ${pace}`];
}

function about() {
  const { version, log_id: log } = live.status ?? {};
  if (version) put(document.getElementById("about"), `rollcall ${version} · log `, h("code", {}, log), " · ", h("a", { href: "openapi.json" }, "API"), " · ", h("a", { href: "metrics" }, "metrics"));
}

/** Times that count up, and nothing else, move by themselves. */
function tick() {
  const present = now();
  for (const element of document.querySelectorAll("[data-since]")) {
    const text = passed(Math.max(0, present - Number(element.dataset.since)), element.dataset.words);
    if (element.textContent !== text) element.textContent = text;
  }
}

const THEMES = ["auto", "light", "dark"];

function theme(wanted) {
  let kept = wanted ?? "auto";
  try {
    if (wanted) localStorage.setItem("theme", wanted);
    else kept = localStorage.getItem("theme") ?? "auto";
  } catch {
    // A browser that keeps nothing shows what the system says.
  }
  if (!THEMES.includes(kept)) kept = "auto";
  document.documentElement.dataset.theme = kept;
  const button = document.getElementById("theme");
  const next = THEMES[(THEMES.indexOf(kept) + 1) % THEMES.length];
  put(button, { auto: "◐", light: "○", dark: "●" }[kept], h("span", { class: "theme-word" }, ` ${kept}`));
  button.title = `Colours: ${kept}. Change to ${next}.`;
  button.setAttribute("aria-label", button.title);
  button.onclick = () => theme(next);
}

theme();
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
live.addEventListener("state", stream);
live.addEventListener("overview", () => {
  if (title) titled();
  stream();
  about();
});
window.addEventListener("hashchange", async () => {
  window.scrollTo(0, 0);
  // Whoever reads with the keyboard or by ear goes on at the new view.
  main.focus({ preventScroll: true });
  await show();
});
setInterval(tick, 1000);
stream();
live.start();
show();
