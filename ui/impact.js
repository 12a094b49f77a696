// Who was handed an instance when it was dead: callers, how often, until when, in which traces.

import { get } from "./api.js";
import { at, h, put } from "./dom.js";
import { traceLink } from "./links.js";
import { count, counted, instant, span } from "./words.js";

const TRACES = 3;
/** The name in which this page's own stream is in the log. */
const OURSELVES = "rollcall-ui";

function caller(one, departed) {
  const shown = one.traces.slice(0, TRACES);
  const rest = one.traces.slice(TRACES);
  const item = (trace) => h("li", {}, h("time", { class: "mono", datetime: trace.at }, instant(trace.at)), " ", traceLink(trace.trace_id, trace.span_id, trace.trace_url), " ", h("a", { class: "faint", href: at(["events", trace.id]) }, trace.id));
  const held = one.held_until ? Date.parse(one.held_until) - departed : null;
  return h(
    "li",
    {},
    h("div", { class: "caller" }, h("strong", {}, one.caller), h("span", { class: "number" }, counted(one.lookups, "lookup"))),
    h(
      "p",
      { class: "small" },
      `first ${instant(one.first)}, last ${instant(one.last)}; `,
      held === null ? "has not asked again since: it may still hold it" : held > 0 ? `held it until ${instant(one.held_until)}, ${span(held)} after it had left` : `held it until ${instant(one.held_until)}`,
    ),
    h("ul", { class: "traces" }, shown.map(item)),
    rest.length > 0 && h("details", {}, h("summary", {}, counted(rest.length, "more trace")), h("ul", { class: "traces" }, rest.slice(0, 200).map(item), rest.length > 200 && h("li", { class: "faint" }, `and ${count(rest.length - 200)} more: /v1/impact tells them all`))),
  );
}

/** Fills `root` with whom the departure `seq` hit; throws what the registry refuses with, 404 if the log has forgotten it. */
export async function view({ root, seq, signal }) {
  const found = await get("v1/impact", { seq }, signal);
  const departed = Date.parse(found.departure.at);
  const callers = found.callers.toSorted((a, b) => b.lookups - a.lookups);
  const streams = found.streams.filter((stream) => stream.caller !== OURSELVES);
  const silence = span(departed - Date.parse(found.last_sign_of_life.at));
  put(
    root,
    h(
      "section",
      { class: "card", "aria-label": "Impact" },
      h("h2", {}, "Who was handed it when it was dead"),
      h(
        "p",
        {},
        callers.length === 0
          ? `Nobody asked for it in the ${silence} between its last sign of life and its leaving.`
          : [h("strong", {}, counted(callers.length, "caller")), " got it in ", h("strong", {}, counted(found.lookups, "lookup")), ` in the ${silence} between its last sign of life at ${instant(found.last_sign_of_life.at)} and its leaving at `, h("a", { href: at(["events", found.departure.id]) }, instant(found.departure.at)), "."],
      ),
      callers.length > 0 && h("ul", { class: "rows callers" }, callers.map((one) => caller(one, departed))),
      streams.length > 0 && h("p", { class: "small" }, `Told by a stream: ${streams.map((stream) => stream.caller).join(", ")}.`),
      found.long_polls.length > 0 && h("p", { class: "small" }, `Held by a long poll: ${found.long_polls.map((poll) => poll.caller).join(", ")}.`),
      !found.complete && h("p", { class: "note" }, "There may be more: part of the log of that time is gone or was never written."),
    ),
  );
}
