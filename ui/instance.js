// An instance through time: where it stands, why it left, its lives drawn to scale, and who was handed it when it was dead.

import { Refused, get, path } from "./api.js";
import { at, h, put, sign, trouble } from "./dom.js";
import { view as impact } from "./impact.js";
import { traceLink } from "./links.js";
import { timeline } from "./timeline.js";
import { instant, length, millis, tell } from "./words.js";

const REFRESH_MS = 3000;

function facts(instance) {
  const row = (name, ...value) => [h("dt", {}, name), h("dd", {}, value)];
  const none = () => h("span", { class: "faint" }, "none");
  const keys = Object.entries(instance.metadata ?? {});
  return h(
    "dl",
    { class: "facts" },
    row("Address", h("code", {}, `${instance.address}:${instance.port}`)),
    row("Protocol", instance.protocol),
    row("Mode", instance.mode),
    row("Ttl", length(instance.ttl)),
    row("Weight", String(instance.weight)),
    row("Version", instance.version ?? none()),
    row("Zone", instance.zone ?? none()),
    row("Tags", instance.tags.length > 0 ? instance.tags.map((tag) => [h("span", { class: "tag" }, tag), " "]) : none()),
    row("Metadata", keys.length > 0 ? keys.map(([key, value]) => h("div", {}, h("span", { class: "faint" }, `${key} = `), h("span", { class: "value" }, value))) : none()),
    row("Registered", instant(instance.registered_at)),
    row("Incarnation", h("a", { href: at(["events", instance.incarnation]) }, `@${instance.incarnation}`)),
  );
}

/** The numbers behind an expiry, which add up. */
function arithmetic(why) {
  const sums = why.arithmetic;
  if (!sums) return null;
  // To the millisecond, so that whoever adds it up finds it right.
  const exact = (ms) => `${(ms / 1000).toFixed(3)} s`;
  const part = (word, ms) => (ms > 0 ? [h("strong", {}, exact(ms)), ` ${word}`] : null);
  const parts = [part("allowed", sums.allowed_ms), part("found late", sums.late_ms), part("grace", sums.grace_ms)].filter(Boolean);
  return h("p", { class: "small" }, "Silence of ", h("strong", {}, exact(sums.gap_ms)), " = ", parts.map((one, index) => [index > 0 && " + ", one]), `; ttl ${length(sums.ttl)}, ${sums.missed} beats missed.`);
}

function because(why) {
  const left = why.life.until !== null;
  const link = (word, traceId, spanId, url) => (traceId ? h("li", {}, `${word} `, traceLink(traceId, spanId, url)) : null);
  const { event, last_heartbeat: beat, registration } = why;
  return h(
    "section",
    { class: `card${left ? " is-gone" : ""}`, "aria-label": "Why" },
    h("h2", {}, left ? "Why it left" : "Why it stands as it does"),
    h("p", { class: "why" }, why.summary),
    arithmetic(why),
    h(
      "ul",
      { class: "links" },
      event && h("li", {}, "event ", h("a", { href: at(["events", event.id]) }, event.id)),
      event && link("its trace", event.trace_id, event.span_id, why.trace_url),
      beat && link("last heartbeat", beat.trace_id, beat.span_id, beat.trace_url),
      registration && link("registration", registration.event.trace_id, registration.event.span_id, registration.trace_url),
    ),
    !why.complete && h("p", { class: "note" }, "The log does not reach back far enough to tell all of it."),
  );
}

/** The same as the drawing, for whoever reads; `state.open` is kept when it is drawn again. */
function transitions(life, state) {
  state.open ??= life.transitions.length <= 12;
  const list = h(
    "ol",
    { class: "rows told" },
    life.transitions.map((event) =>
      h("li", {}, h("time", { class: "mono", datetime: event.at }, instant(event.at)), " ", h("a", { href: at(["events", event.id]) }, event.kind.replaceAll("_", " ")), h("span", { class: "small" }, ` ${tell(event)} `), traceLink(event.trace_id, event.span_id, event.trace_url)),
    ),
  );
  const details = h("details", { open: state.open }, h("summary", {}, `What happened in it, in words (${life.transitions.length})`), list);
  details.addEventListener("toggle", () => (state.open = details.open));
  return details;
}

export async function view({ root, names, query, titled, on, every, signal }) {
  const [namespace, service, instance] = names;
  const seq = query.get("seq");
  titled(instance);
  const base = path`v1/services/${service}/instances/${instance}`;
  const top = h("div", {}, h("h1", {}, instance));
  const reason = h("div");
  const drawn = h("section", { class: "card", "aria-label": "Timeline" });
  const hit = h("div");
  const about = h("aside");
  put(
    root,
    h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Services"), " / ", h("a", { href: at(["services", namespace, service]) }, service)),
    top,
    h("div", { class: "columns" }, h("div", { class: "stack" }, reason, hit, drawn), about),
  );

  const told = {};
  let living = false;
  let chosen = seq ? Number(seq) : null;
  const load = async () => {
    const [story, why] = await Promise.all([
      get(`${base}/history`, { namespace }, signal),
      get(`${base}/why`, { namespace, seq }, signal),
    ]);
    const newest = story.lives.at(-1);
    const lives = newest && newest.until === null;
    living = why.life.until === null;
    const again = h("a", { href: at(["instances", namespace, service, instance]) }, "lives again");
    const state = !lives ? sign("gone", "left") : why.life.until === null ? sign(why.instance.status) : sign("info", again);
    put(
      top,
      h("div", { class: "heading" }, h("h1", {}, instance), state,
        h("p", { class: "links" }, h("a", { href: at(["events"], { namespace, service, instance }) }, "Events"), why.life.until && why.event?.seq > 1 && h("a", { href: at(["past"], { at: `@${why.event.seq - 1}` }) }, "Just before it left"))),
    );
    put(reason, because(why));
    put(about, h("section", { class: "card", "aria-label": "What it registered" }, h("h2", {}, why.life.until ? "As it was" : "As it is"), facts(why.instance), story.flap_score > 0 && h("p", { class: "small" }, `Flap score ${story.flap_score.toFixed(1)}`)));
    await draw(story, why);
    await hits(story, why);
  };
  const draw = async (story, why) => {
    const lifeOf = (life) => life.ended_by?.seq === chosen || life.incarnation === chosen;
    const life = story.lives.find(lifeOf) ?? story.lives.find((one) => one.incarnation === why.life.incarnation) ?? story.lives.at(-1);
    const beats = await get("v1/events", { namespace, service, instance, kind: "heartbeat", order: "desc", limit: 400, since: life.from, until: life.until }, signal);
    const choose = async (other) => {
      chosen = other.incarnation;
      await draw(story, why).catch((error) => signal.aborted || put(drawn, trouble(error)));
    };
    put(
      drawn,
      h("h2", {}, "Timeline"),
      timeline({ lives: story.lives, leftOut: story.left_out.lives, life, beats: beats.events.map((event) => event.at).reverse(), more: beats.next !== null, ttl: millis(why.instance.ttl), choose }),
      transitions(life, told),
    );
  };
  let asked = null;
  const hits = async (story, why) => {
    // Who still lives has hit nobody; its last departure is looked into if it had one, and once.
    const departure = why.life.until === null ? story.lives.findLast((life) => life.ended_by)?.ended_by.seq : why.event?.seq;
    if (!departure || departure === asked) return;
    try {
      await impact({ root: hit, seq: departure, signal });
      asked = departure;
    } catch (error) {
      if (!(error instanceof Refused && error.status === 404)) throw error;
      put(hit);
    }
  };
  await load();
  // Who lives goes on beating. What somebody stands in with the keyboard is left alone.
  every(REFRESH_MS, () => living && !root.contains(document.activeElement) && load().catch(() => {}));
  let due = null;
  on("change", ({ detail }) => {
    if (seq || detail.service !== service || detail.instance !== instance || detail.namespace !== namespace) return;
    due ??= setTimeout(() => {
      due = null;
      load().catch(() => {});
    }, 300);
  });
}
