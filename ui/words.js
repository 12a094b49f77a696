// Numbers, times and events in words, and which moment they count from. Nothing here touches the page or the registry.

const NUMBER = new Intl.NumberFormat("en");

/** 12,345 */
export const count = (number) => NUMBER.format(number);

/** 1 instance, 2 instances */
export const counted = (number, one, many) => `${count(number)} ${number === 1 ? one : many ?? `${one}s`}`;

/** How far what is shown is behind the clock of this machine: a replay shows the past. */
let behind = 0;

/** The present of what is shown, from which ages count. */
export const now = () => Date.now() - behind;

/** Says what that present is; null is that of this machine. */
export function presentIs(moment) {
  behind = moment === null ? 0 : Date.now() - moment;
}

/** A length of time with its unit, with as many digits as matter. */
export function span(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return pair(seconds, 60, "min", "s");
  if (seconds < 86_400) return pair(Math.round(seconds / 60), 60, "h", "min");
  return pair(Math.round(seconds / 3600), 24, "d", "h");
}

function pair(number, base, big, small) {
  const rest = number % base;
  return rest === 0 ? `${(number - rest) / base} ${big}` : `${(number - rest) / base} ${big} ${rest} ${small}`;
}

/** How long ago, in whole seconds: a picture that counts should not flicker. */
export const ago = (ms) => (ms < 1000 ? "just now" : span(Math.floor(ms / 1000) * 1000).replace(".0 s", " s"));

/** The same with a word behind it, where there is something to say: `3 s ago`. */
export const passed = (ms, word) => (ms < 1000 ? ago(ms) : `${ago(ms)} ${word}`);

/** Milliseconds of a duration as the registry writes it: 500ms, 3.75s, 2m, 24h; null for none. */
export function millis(text) {
  const found = /^([0-9.]+)(ms|s|m|h)$/.exec(text ?? "");
  return found ? Number(found[1]) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[found[2]] : null;
}

/** A duration as the registry writes it, in the words of this page. */
export const length = (text) => (millis(text) === null ? String(text ?? "none") : span(millis(text)).replace(".0 s", " s"));

/** 2026-11-21 22:07:41.250 UTC, the date left out where it is today's. */
export function instant(iso, now = new Date()) {
  if (!iso) return "unknown";
  const [date, time] = new Date(iso).toISOString().split("T");
  const clock = time.slice(0, -1);
  return date === now.toISOString().split("T")[0] ? `${clock} UTC` : `${date} ${clock} UTC`;
}

/** Bytes as people say them. */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [number, 0];
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${value.toFixed(value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** A rate per second, or per minute or hour where that is more readable. */
export function rate(perSecond) {
  if (perSecond >= 0.5) return `${perSecond >= 10 ? count(Math.round(perSecond)) : perSecond.toFixed(1)}/s`;
  if (perSecond * 60 >= 0.5) return `${(perSecond * 60).toFixed(1)}/min`;
  return `${(perSecond * 3600).toFixed(1)}/h`;
}

/** The sign that goes with an event. */
export function signOf(event) {
  switch (event.kind) {
    case "registered":
      return "healthy";
    case "expired":
    case "deregistered":
      return "gone";
    case "status_changed":
      return event.data?.to ?? "unstable";
    case "guard_entered":
    case "log_gap":
      return "unstable";
    default:
      return "info";
  }
}

const REASONS = {
  late_heartbeat: "a heartbeat is late",
  probe: "its probe says so",
  self_report: "it said so itself",
  guard: "the guard holds it",
  recovery: "it recovered",
};

/** What happened, in half a sentence that follows the name of whom it is about. */
export function tell(event) {
  const data = event.data ?? {};
  const by = event.caller ? ` by ${event.caller}` : "";
  switch (event.kind) {
    case "registered": {
      const { address, port } = data.instance ?? {};
      const done = { created: "registered", replaced: "registered anew", unchanged: "registered again, unchanged" };
      return `${done[data.outcome] ?? "registered"}${address ? ` at ${address}:${port}` : ""}${by}`;
    }
    case "expired":
      return `expired: no heartbeat for ${span(data.gap_ms ?? 0)}, ttl ${length(data.ttl)}`;
    case "deregistered":
      return `said goodbye${by}${data.reason ? `: ${data.reason}` : ""}`;
    case "status_changed":
      return `${data.from ?? "?"} → ${data.to ?? "?"}: ${REASONS[data.reason] ?? String(data.reason ?? "").replaceAll("_", " ")}`;
    case "mode_changed":
      return `mode ${data.from ?? "?"} → ${data.to ?? data.mode ?? "?"}${by}`;
    case "updated":
      return `changed${by}`;
    case "heartbeat":
      return "beat";
    case "lookup":
      return `asked${by}${data.filter ? ` for ${data.filter}` : ""}: ${counted(data.returned ?? 0, "instance")} of revision ${data.revision ?? "?"}, status ${data.status ?? "?"}`;
    case "watch_opened":
      return `is watched${by}`;
    case "watch_closed":
      return `is watched no more${by}: ${data.reason ?? "left"}`;
    case "notified":
      return `told${event.caller ? ` to ${event.caller}` : ""} up to change ${data.through ?? "?"}`;
    case "started":
      return "the registry started";
    case "recovered":
      return "the registry recovered its state";
    case "log_gap":
      return "the log could not be written for a while";
    case "guard_entered":
      return "the guard against mass expiry began to hold";
    case "guard_left":
      return "the guard against mass expiry let go";
    default:
      return event.kind.replaceAll("_", " ");
  }
}
