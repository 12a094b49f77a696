// One service: its instances with their leases, and who left. Present by default; with `?at=` as it was answered then.
//
// The instances are read with `at=` the version of the overview, the leases from where they are told without addresses: neither
// read is an event, so that somebody who looks at a service is not counted among those who were handed its instances.

import { get, path, read } from "./api.js";
import { at, empty, h, put, sign } from "./dom.js";
import { live } from "./live.js";
import { departures } from "./services.js";
import { Table } from "./table.js";
import { ago, count, instant, length, millis } from "./words.js";

/** How often leases are asked for: a list that is long is long to tell. */
const LEASES_MS = 1000;
const LONG = 500;
const LONG_LEASES_MS = 5000;

const RANK = { failed: 2, unstable: 1, healthy: 0 };

/** The columns of a table of instances; `lease(row)` gives what is known of its lease. */
function columns(link, lease) {
  const list = [
    { name: "instance", title: "Instance", value: (row) => row.instance, cell: (row) => [h("a", { href: link(row) }, row.instance), h("span", { class: "narrow faint" }, `${row.address}:${row.port}`)], facts: (row) => [row.instance, row.address, row.port] },
    { name: "status", title: "Status", value: (row) => RANK[row.status] ?? 3, cell: (row) => sign(row.status), facts: (row) => row.status },
    { name: "mode", title: "Mode", wide: true, value: (row) => row.mode, cell: (row) => h("span", { class: row.mode === "active" ? "faint" : "tag" }, row.mode) },
    { name: "address", title: "Address", wide: true, value: (row) => `${row.address}:${row.port}`, cell: (row) => h("code", {}, `${row.address}:${row.port}`) },
  ];
  if (lease) {
    list.push({
      name: "beat",
      title: "Last beat",
      numeric: true,
      moves: true,
      value: (row) => lease(row)?.age ?? Number.MAX_SAFE_INTEGER,
      facts: (row) => lease(row) && [ago(lease(row).age), lease(row).missed > 1],
      cell: (row) => {
        const known = lease(row);
        if (!known) return h("span", { class: "faint" }, "–");
        // As of the last answer, and not counted up: the next beat may have come meanwhile.
        const words = known.age < 1000 ? ago(known.age) : `${ago(known.age)} ago`;
        return h("span", { class: known.missed > 1 ? "ink-unstable" : null }, words);
      },
    });
  }
  return [
    ...list,
    { name: "ttl", title: "Ttl", numeric: true, wide: true, value: (row) => millis(row.ttl) ?? 0, cell: (row) => length(row.ttl) },
    { name: "version", title: "Version", wide: true, value: (row) => row.version ?? "", cell: (row) => row.version ?? h("span", { class: "faint" }, "–") },
    { name: "tags", title: "Tags", wide: true, value: (row) => row.tags.join(" "), cell: (row) => row.tags.map((tag) => [h("span", { class: "tag" }, tag), " "]) },
  ];
}

/** Whether an instance has this text in its name, address, version, zone, tags or metadata. */
function has(row, text) {
  const facts = [row.instance, `${row.address}:${row.port}`, row.version, row.zone, ...row.tags];
  for (const [key, value] of Object.entries(row.metadata)) facts.push(`${key}=${value}`);
  return facts.some((fact) => fact?.toLowerCase().includes(text));
}

export async function view({ root, names, query, titled, on, every, signal }) {
  const [namespace, service] = names;
  const then = query.get("at");
  titled(then ? `${service} in the past` : service);
  const key = `${namespace}/${service}`;
  const base = path`v1/services/${service}/instances`;
  const link = (row) => at(["instances", namespace, service, row.instance]);
  const search = h("input", { type: "search", placeholder: "Name, address, tag or key=value", "aria-label": "Search instances" });
  const only = h("select", { "aria-label": "Which status" }, h("option", { value: "" }, "Every status"), ["healthy", "unstable", "failed"].map((one) => h("option", { value: one }, one)));
  const leases = new Map();
  const none = () =>
    instances.length === 0
      ? empty("Nobody is registered here", then ? "Go back further: " : "Who left is still in the log: ", h("a", { href: at(["past"], { at: then }) }, "the past"), ", ", h("a", { href: at(["events"], { namespace, service }) }, "its events"), ".")
      : empty("No instance is like that", "Search for something else.");
  const table = new Table({ columns: columns(link, then ? null : (row) => leases.get(row.instance)), key: (row) => row.instance, sort: ["status", true], caption: `Instances of ${service}`, none });
  const summary = h("p", { class: "lead" });
  const left = h("div");
  let instances = [];
  let version = 0;

  const draw = (first) => {
    const text = search.value.trim().toLowerCase();
    const wanted = only.value;
    table.show(instances, first, (row) => (!wanted || row.status === wanted) && (!text || has(row, text)));
    const by = (status) => instances.filter((row) => row.status === status).length;
    const parts = ["healthy", "unstable", "failed"].filter((status) => by(status) > 0).map((status) => [sign(status, `${count(by(status))} ${status}`), " "]);
    put(summary, parts.length > 0 ? parts : "no instances", h("span", { class: "faint" }, `revision @${version}`));
  };
  let answered = -1;
  const load = async () => {
    const wanted = then ?? `@${live.newest}`;
    const answer = await read(base, { namespace, status: "any", at: wanted }, signal);
    if (answer.seq < answered) return;
    answered = answer.seq;
    ({ revision: version, instances } = answer.body);
  };
  const beats = async () => {
    const { body } = await read(path`v1/services/${service}/leases`, { namespace }, signal);
    leases.clear();
    for (const lease of body.leases) leases.set(lease.instance, { age: lease.age_ms, missed: lease.missed });
  };
  const gone = async () => {
    const ask = (kind) => get("v1/events", { namespace, service, kind, order: "desc", limit: 6 }, signal);
    const [expired, goodbyes] = await Promise.all([ask("expired"), ask("deregistered")]);
    const events = [...expired.events, ...goodbyes.events].sort((a, b) => b.seq - a.seq).slice(0, 6);
    put(left, h("h2", {}, "Left lately"), events.length > 0 ? departures(events) : h("p", { class: "faint" }, "Nobody has left, as far as the log is kept."));
  };

  search.addEventListener("input", () => draw(true));
  only.addEventListener("change", () => draw(true));
  put(
    root,
    h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Services"), " / ", namespace),
    h("div", { class: "heading" }, h("h1", {}, service), h("p", { class: "links" },
      h("a", { href: at(["events"], { namespace, service }) }, "Events"),
      h("a", { href: at(["graph"], { focus: key }) }, "Who asks for it"),
      then ? h("a", { href: at(["services", namespace, service]) }, "Now") : h("a", { href: at(["services", namespace, service], { at: "-5m" }) }, "5 minutes ago"))),
    then && h("p", { class: "note" }, sign("info", "The past."), ` This is what the registry would have answered at ${then.startsWith("@") ? `change ${then.slice(1)}` : then.startsWith("-") ? `${then.slice(1)} ago` : instant(then)}. Leases are not remembered.`),
    summary,
    h("div", { class: "columns" }, h("section", { "aria-label": "Instances" }, h("div", { class: "tools" }, search, only), table.element), h("aside", { "aria-label": "Who left" }, left)),
  );
  if (!then && !live.loaded) await new Promise((resolve) => on("overview", resolve));
  await Promise.all([load(), then ? null : beats(), gone()]);
  draw(true);
  if (then) return;

  let due = null;
  let took = 0;
  const again = () => {
    // A change of this service is shown at once; a rollout of thousands is looked at now and then.
    due ??= setTimeout(async () => {
      const began = performance.now();
      try {
        await Promise.all([load(), beats(), gone()]);
        draw(false);
      } catch {
        // Leaving the view aborts; a registry that is gone shows at the top of the page.
      }
      took = performance.now() - began;
      due = null;
    }, Math.max(150, 3 * took));
  };
  on("change", ({ detail }) => detail.service === service && detail.namespace === namespace && again());
  on("overview", () => (live.services.get(key)?.revision ?? 0) > version && again());
  let rest = 0;
  every(LEASES_MS, () => {
    rest += LEASES_MS;
    if (instances.length > LONG && rest < LONG_LEASES_MS) return;
    rest = 0;
    beats().then(() => draw(false)).catch(() => {});
  });
}
