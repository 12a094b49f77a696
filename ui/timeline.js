// A life drawn to scale: its status as a band, its heartbeats as ticks, and the silences between them as bars whose length is
// theirs. Above it all lives, to choose from.

import { h, svg } from "./dom.js";
import { counted, instant, now, span, tell } from "./words.js";

const WIDTH = 760;
const PAD = 8;
const GAPS = 6;

/** A round step of time for about `marks` marks. */
function step(ms, marks) {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1.5e4, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5, 1728e5, 6048e5];
  return steps.find((one) => ms / one <= marks) ?? 864e5 * Math.ceil(ms / marks / 864e5);
}

/** The statuses of a life one after another: `[from, until, status]`. */
function bands(life, end) {
  const found = [];
  let from = Date.parse(life.from);
  let status = life.transitions.find((event) => event.kind === "registered")?.data?.instance?.status ?? "healthy";
  for (const event of life.transitions) {
    if (event.kind !== "status_changed") continue;
    found.push([from, Date.parse(event.at), status]);
    [from, status] = [Date.parse(event.at), event.data.to];
  }
  found.push([from, end, status]);
  return found;
}

function strip({ lives, life, choose }) {
  if (lives.length < 2) return null;
  const buttons = lives.slice(-12).map((one) => {
    const word = one.until ? span(Date.parse(one.until) - Date.parse(one.from)) : "now";
    return h(
      "button",
      { type: "button", "aria-pressed": String(one === life), title: `${instant(one.from)} to ${one.until ? instant(one.until) : "now"}`, on: { click: () => choose(one) } },
      `@${one.incarnation}`,
      h("span", { class: "faint" }, ` ${word}`),
    );
  });
  return h("div", { class: "lives", role: "group", "aria-label": "Lives, the oldest first" }, buttons);
}

/**
 * The drawing. `beats`: instants of heartbeats, the oldest first, of which there may be `more` before; only what they cover is
 * drawn to scale, because a week of heartbeats in one line says nothing.
 */
export function timeline({ lives, leftOut, life, beats, more, ttl, choose }) {
  const end = life.until ? Date.parse(life.until) : now();
  const begin = more && beats.length > 0 ? Date.parse(beats[0]) : Date.parse(life.from);
  const length = Math.max(1, end - begin);
  const x = (ms) => PAD + ((Math.min(Math.max(ms, begin), end) - begin) / length) * (WIDTH - 2 * PAD);
  const times = [Math.max(begin, Date.parse(life.from)), ...beats.map((beat) => Date.parse(beat)), end];
  const silences = times
    .slice(1)
    .map((until, index) => ({ from: times[index], until, ms: until - times[index] }))
    .filter((gap) => gap.ms > 0)
    .sort((a, b) => b.ms - a.ms);
  const wide = silences.filter((gap) => !ttl || gap.ms >= ttl / 2).slice(0, GAPS);
  const every = step(length, 6);
  const marks = [];
  for (let mark = Math.ceil(begin / every) * every; mark <= end; mark += every) marks.push(mark);
  const digits = every < 1000 ? -1 : -5;
  const words = bands(life, end).filter(([, until]) => until >= begin);
  const drawing = svg(
    "svg",
    { class: "timeline", viewBox: `0 0 ${WIDTH} 138`, role: "img", "aria-label": `${span(length)} of life ${life.incarnation}: ${counted(beats.length, "heartbeat")}${wide.length > 0 ? `, the widest silence ${span(silences[0].ms)}` : ""}. The list below says the same in words.` },
    words.map(([from, until, status]) => {
      const width = Math.max(1.5, x(until) - x(from));
      return [
        svg("rect", { class: `fill-${status}`, x: x(from), y: 24, width, height: 22, rx: 2 }),
        width > 60 && svg("text", { class: "on-band", x: x(from) + 7, y: 39 }, status),
      ];
    }),
    life.transitions.filter((event) => Date.parse(event.at) >= begin).map((event) => {
      const place = x(Date.parse(event.at));
      return svg("g", { class: "mark" }, svg("title", {}, `${event.kind}: ${tell(event)}`), svg("line", { x1: place, x2: place, y1: 16, y2: 50 }), svg("path", { d: `M${place - 4} 10h8l-4 6z` }));
    }),
    beats.map((beat) => svg("line", { class: "beat", x1: x(Date.parse(beat)), x2: x(Date.parse(beat)), y1: 58, y2: 74 })),
    wide.map((gap) => {
      const [from, until] = [x(gap.from), x(gap.until)];
      const middle = Math.min(Math.max((from + until) / 2, 30), WIDTH - 30);
      return svg("g", { class: ttl && gap.ms >= ttl ? "gap is-deadly" : "gap" }, svg("title", {}, `silence of ${span(gap.ms)}`), svg("rect", { x: from, y: 80, width: Math.max(1.5, until - from), height: 8, rx: 2 }), svg("text", { x: middle, y: 102, "text-anchor": "middle" }, span(gap.ms)));
    }),
    svg("line", { class: "axis", x1: PAD, x2: WIDTH - PAD, y1: 114, y2: 114 }),
    marks.map((mark) => [
      svg("line", { class: "axis", x1: x(mark), x2: x(mark), y1: 114, y2: 119 }),
      svg("text", { class: "axis-word", x: Math.min(Math.max(x(mark), 28), WIDTH - 28), y: 133, "text-anchor": "middle" }, new Date(mark).toISOString().slice(11, digits)),
    ]),
  );
  const widest = life.widest_gaps.slice(0, 3).map((gap) => span(gap.gap_ms)).join(", ");
  return h(
    "div",
    {},
    leftOut > 0 && h("p", { class: "small" }, `${counted(leftOut, "older life", "older lives")} not shown.`),
    strip({ lives, life, choose }),
    h("div", { class: "scroll" }, drawing),
    h(
      "p",
      { class: "small legend" },
      `${more ? `The last ${span(length)}` : span(length)}${life.until ? "" : ", until now"}. `,
      h("span", { class: "key key-beat" }, "heartbeat"),
      h("span", { class: "key key-gap" }, ttl ? `silence from ${span(ttl / 2)} on (half the ttl)` : "widest silences"),
      ttl && h("span", { class: "key key-deadly" }, "as long as the ttl"),
      widest && `Widest of this life: ${widest}.`,
    ),
  );
}
