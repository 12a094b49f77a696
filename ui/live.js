// The present, kept: the overview of all services, and the stream of changes that says when it is old. One for the whole
// page, whatever is shown.
//
//   overview at version N ─▶ stream after N ─▶ a change ─▶ tell the view, ask for the overview again (at most each second)
//         ▲                       │ broken, ended, too old
//         └───────────────────────┘ after a rest; meanwhile the page says how old its picture is
//
// A replay has such a stream, too: of what happened then. It also moves without one, so it is asked where it stands.
//
// The overview is asked for again rather than folded here: the registry knows best, and asking costs it little.

import { Refused, get, read, stream } from "./api.js";
import { now, presentIs } from "./words.js";

const REST_MS = [500, 1000, 2000, 4000, 8000];
const RECENT = 40;
const STAND_MS = 1000;

export class Live extends EventTarget {
  /** By `namespace/service`. */
  services = new Map();
  leftOut = 0;
  /** The newest changes, the newest first. */
  recent = [];
  seq = 0;
  /** "connecting", "live", "broken" or "paused". */
  state = "connecting";
  error = null;
  /** Of which log all this is. */
  logId = null;
  /** When something was last heard. */
  heardAt = 0;
  loaded = false;
  /** What /v1/status says; null until it was asked. */
  status = null;
  /** Where a replay stands; null where this is the present. */
  replay = null;

  /** The last change that the stream told; null before it began. */
  #toldUntil = null;
  #asked = 0;
  #asking = null;
  #stop = new AbortController();

  start() {
    // A browser lends few connections to one server: a tab that nobody sees must not hold one.
    document.addEventListener("visibilitychange", () => this.#turn());
    setInterval(() => this.replay && !document.hidden && this.#stand(this.#stop.signal).catch(() => {}), STAND_MS);
    this.#turn();
  }

  #turn() {
    this.#stop.abort();
    this.#stop = new AbortController();
    if (document.hidden) this.#set("paused", null);
    else this.#keep(this.#stop.signal);
  }

  async #keep(signal) {
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#load(signal);
        this.#set("live", null);
        const heard = () => {
          this.heardAt = now();
          failures = 0;
          if (this.state !== "live") this.#set("live", null);
        };
        this.#toldUntil ??= this.seq;
        await stream(this.#toldUntil, (message) => this.#told(message, signal), heard, signal);
      } catch (error) {
        if (signal.aborted) return;
        // Another log, or one that has forgotten so much: begin anew.
        if (error instanceof Refused && error.status < 500) this.#toldUntil = null;
        this.#set("broken", error);
        const rest = REST_MS[Math.min(failures, REST_MS.length - 1)];
        failures += 1;
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, rest);
          signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
        });
      }
    }
  }

  async #load(signal) {
    const began = performance.now();
    const [{ body, seq }, status] = await Promise.all([read("v1/overview", {}, signal), get("v1/status", {}, signal)]);
    this.#took = performance.now() - began;
    this.services = new Map(body.services.map((row) => [`${row.namespace}/${row.service}`, row]));
    this.leftOut = body.left_out;
    this.status = status;
    if (status.mode === "replay") await this.#stand(signal);
    this.seq = seq;
    this.heardAt = now();
    if (this.logId !== status.log_id) {
      // The first answer, or another log at the same address: nothing of before belongs to it.
      this.logId = status.log_id;
      this.#toldUntil = null;
      const changes = await get("v1/events", { order: "desc", limit: 20, kind: "expired" }, signal);
      this.recent = changes.events;
    }
    this.loaded = true;
    this.dispatchEvent(new Event("overview"));
  }

  /** Asks where the replay stands: its present is what ages count from. */
  async #stand(signal) {
    this.replay = await get("v1/replay", {}, signal);
    presentIs(Date.parse(this.replay.position.at));
    this.dispatchEvent(new Event("state"));
  }

  #took = 0;

  #told({ id, data }, signal) {
    if (id) this.#toldUntil = Number.parseInt(id, 10);
    if (!data) return;
    if (data.kind === "expired") this.recent = [data, ...this.recent].slice(0, RECENT);
    this.dispatchEvent(new CustomEvent("change", { detail: data }));
    this.#askAgain(signal);
  }

  /** Asks again once things have come to rest for a moment; a registry that answers slowly is asked less often. */
  #askAgain(signal) {
    if (this.#asking) return;
    const due = this.#asked + Math.max(1000, 5 * this.#took) - performance.now();
    this.#asking = setTimeout(async () => {
      this.#asked = performance.now();
      this.#asking = null;
      // A failure shows as a broken stream, which asks again itself.
      if (!signal.aborted) await this.#load(signal).catch(() => {});
    }, Math.max(100, due));
  }

  #set(state, error) {
    this.state = state;
    this.error = error instanceof Refused || error?.title ? error : null;
    this.dispatchEvent(new Event("state"));
  }

  /** The newest version that was heard of: the stream is ahead of the overview. */
  get newest() {
    return Math.max(this.seq, this.#toldUntil ?? 0);
  }

  /** The link to a trace where traces are kept; null if nobody said where that is. */
  trace(traceId, spanId) {
    const template = this.status?.trace_url;
    if (!template || !traceId) return null;
    return template.replaceAll("{trace_id}", traceId).replaceAll("{span_id}", spanId ?? "");
  }
}

/** The one of this page. */
export const live = new Live();
