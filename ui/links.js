// Links that several views have: to a trace, and to whom an event is about.

import { at, h } from "./dom.js";
import { live } from "./live.js";

/** The place where a trace can be seen, or where its events are told if there is none. `url` is what an answer said of it:
    null if its span was not kept, undefined if it said nothing. */
export function traceLink(traceId, spanId, url) {
  if (!traceId) return null;
  const outside = url === undefined ? live.trace(traceId, spanId) : url;
  const short = `${traceId.slice(0, 8)}…`;
  const inside = h("a", { class: "mono", href: at(["traces", traceId]), title: `Events of trace ${traceId}` }, short);
  if (!outside) return inside;
  return h("span", { class: "trace" }, inside, " ", h("a", { class: "out", href: outside, target: "_blank", rel: "noopener", "aria-label": `Trace ${traceId} in Jaeger`, title: "Open in Jaeger" }, "Jaeger ↗"));
}

const DEPARTURES = ["expired", "deregistered"];

/** Whom an event is about, as links to where more is told of them: of a departure that very one, and not a later life. */
export function about(event) {
  if (!event.service) return h("span", { class: "faint" }, event.namespace ?? "the registry");
  const service = h("a", { href: at(["services", event.namespace, event.service]) }, event.service);
  if (!event.instance) return service;
  const life = { seq: DEPARTURES.includes(event.kind) ? event.seq : null };
  return [service, h("span", { class: "faint" }, " / "), h("a", { href: at(["instances", event.namespace, event.service, event.instance], life) }, event.instance)];
}
