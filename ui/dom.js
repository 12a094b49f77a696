// Elements out of data. Everything that the registry tells is foreign text: it becomes text nodes and attribute values,
// never markup. Nothing here knows what is shown.

import { now, passed } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("a", {class: "x", href: "#/"}, "text", child, [more])`. What is null or false is left out. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same within a drawing. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "href") {
      if (isHarmless(value)) element.setAttribute("href", value);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}

/** Whether a link leads to a view of the page or to the web; `javascript:` and the like are no links. */
export function isHarmless(href) {
  if (href.startsWith("#")) return true;
  try {
    return ["http:", "https:"].includes(new URL(href, document.baseURI).protocol);
  } catch {
    return false;
  }
}

/** Puts these in the place of all that `element` holds. */
export function put(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** The address of a view: path segments and query are encoded, whatever they hold. */
export function at(segments, query) {
  const path = segments.map(encodeURIComponent).join("/");
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

// A shape for each status, so that colour is never alone.
const SHAPES = {
  healthy: ["circle", { cx: 6, cy: 6, r: 4.5 }],
  unstable: ["path", { d: "M6 .9 11.500 10.800H.5z" }],
  failed: ["path", { d: "M1.500 1.500h9v9h-9z" }],
  gone: ["path", { d: "m2 2 8 8m0-8-8 8", class: "stroke" }],
  note: ["path", { d: "M6 1v10M1 6h10", class: "stroke" }],
  info: ["circle", { cx: 6, cy: 6, r: 3.500, class: "stroke" }],
};

/** The sign of a status; `word` beside it says the same. */
export function sign(status, word) {
  const [name, attributes] = SHAPES[status] ?? SHAPES.info;
  const shape = svg("svg", { class: "shape", viewBox: "0 0 12 12", "aria-hidden": "true" }, svg(name, attributes));
  return h("span", { class: `sign is-${status}` }, shape, word === undefined ? status : word);
}

/** A moment that counts up: `3.2 s ago`. */
export function since(iso, words) {
  const [then, suffix] = [Date.parse(iso), words ?? "ago"];
  return h("time", { datetime: iso, "data-since": then, "data-words": suffix }, passed(now() - then, suffix));
}

/** What is shown instead of nothing, and what to do about it. */
export function empty(title, ...advice) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), advice.length > 0 && h("p", {}, advice));
}

/** What the registry said when it refused. */
export function trouble(error, again) {
  const fields = (error.problem?.errors ?? []).map((one) => h("li", {}, h("code", {}, one.field), ` ${one.message}`));
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("p", { class: "trouble-title" }, sign("failed", error.title ?? "This page failed")),
    h("p", {}, error.message),
    fields.length > 0 && h("ul", {}, fields),
    error.problem?.trace_id && h("p", { class: "small" }, "trace ", h("code", {}, error.problem.trace_id)),
    again && h("button", { type: "button", on: { click: again } }, "Try again"),
  );
}
