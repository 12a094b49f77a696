// All services with their counts by status, and who left last without goodbye. Kept by the stream.

import { at, empty, h, put, sign, since, svg, trouble } from "./dom.js";
import { live } from "./live.js";
import { Table } from "./table.js";
import { count, counted, tell } from "./words.js";

const STATUSES = ["healthy", "unstable", "failed"];

/** A service's instances as a bar, each status with a part that it can be seen by. */
function bar(row) {
  const all = Math.max(1, row.instances);
  let x = 0;
  const parts = STATUSES.filter((status) => row[status] > 0).map((status) => {
    const width = (row[status] / all) * 100;
    const part = svg("rect", { class: `fill-${status}`, x, y: 0, width, height: 8 });
    x += width;
    return part;
  });
  return svg("svg", { class: "share", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, parts);
}

/** How a service stands, in one sign. */
const worst = (row) => (row.instances === 0 ? "gone" : row.failed > 0 ? "failed" : row.unstable > 0 ? "unstable" : "healthy");
const RANK = { failed: 3, unstable: 2, gone: 1, healthy: 0 };
const WORD = { failed: "failing", unstable: "unstable", gone: "empty", healthy: "healthy" };

/** The columns of a table of services; `link(row)` is where a name leads. */
export function columns(link) {
  return [
    {
      name: "service",
      title: "Service",
      value: (row) => row.service,
      facts: (row) => [row.namespace, row.service],
      cell: (row) => [
        h("a", { href: link(row) }, row.service),
        row.namespace !== "default" && h("span", { class: "faint" }, ` ${row.namespace}`),
      ],
    },
    { name: "status", title: "Status", value: (row) => RANK[worst(row)], cell: (row) => sign(worst(row), WORD[worst(row)]), facts: worst },
    { name: "share", title: "", wide: true, cell: bar, facts: (row) => STATUSES.map((status) => row[status]) },
    { name: "instances", title: "Instances", numeric: true, value: (row) => row.instances, cell: (row) => count(row.instances) },
    ...STATUSES.map((status) => ({
      name: status,
      title: status[0].toUpperCase() + status.slice(1),
      numeric: true,
      wide: true,
      value: (row) => row[status],
      cell: (row) => h("span", { class: row[status] === 0 ? "faint" : status === "healthy" ? null : `ink-${status}` }, count(row[status])),
    })),
    { name: "revision", title: "Revision", numeric: true, wide: true, value: (row) => row.revision, cell: (row) => h("span", { class: "faint" }, `@${row.revision}`) },
  ];
}

/** The four figures over everything. */
export function figures(rows) {
  const sum = (name) => rows.reduce((total, row) => total + row[name], 0);
  const figure = (title, number, status) =>
    h(
      "div",
      { class: `figure${status && number > 0 ? ` is-${status}` : ""}` },
      h("dt", {}, status ? sign(number > 0 ? status : "info", title) : title),
      h("dd", {}, count(number)),
    );
  return h(
    "dl",
    { class: "figures" },
    figure("Services", rows.length),
    figure("Healthy", sum("healthy"), "healthy"),
    figure("Unstable", sum("unstable"), "unstable"),
    figure("Failed", sum("failed"), "failed"),
  );
}

/** Who left, each with the way to why and to whom it hit. */
export function departures(list) {
  return h(
    "ul",
    { class: "rows" },
    list.map((event) =>
      h(
        "li",
        {},
        sign("gone", h("a", { href: at(["instances", event.namespace, event.service, event.instance], { seq: event.seq }) }, event.instance)),
        h("span", { class: "faint" }, " ", since(event.at)),
        h("p", { class: "small" }, tell(event)),
      ),
    ),
  );
}

export async function view({ root, query, titled, on }) {
  titled("Services");
  const link = (row) => at(["services", row.namespace, row.service]);
  const search = h("input", { type: "search", placeholder: "Name of a service", "aria-label": "Search services", value: query.get("q") ?? "" });
  const only = h("select", { "aria-label": "Which services" }, [
    h("option", { value: "" }, "All services"),
    h("option", { value: "trouble" }, "Not all healthy"),
    h("option", { value: "empty" }, "Without instances"),
  ]);
  only.value = query.get("show") ?? "";
  const none = () =>
    live.services.size === 0
      ? empty(
          "Nobody has registered yet",
          "Try ",
          h("code", {}, "rollcall demo"),
          ", or register a first instance: ",
          h("code", { class: "command" }, `curl -X PUT ${new URL("v1/services/orders/instances/orders-1", document.baseURI)} -H 'content-type: application/json' -d '{"address":"127.0.0.1","port":8080,"ttl":"1h"}'`),
        )
      : empty("No service is like that", "Search for another part of a name, or show all services.");
  let table = null;
  const tiles = h("div");
  const place = h("div");
  const left = h("div");
  const note = h("div");
  const filtered = () => {
    const text = search.value.trim().toLowerCase();
    return [...live.services.values()].filter((row) => {
      if (text && !`${row.namespace}/${row.service}`.toLowerCase().includes(text)) return false;
      if (only.value === "trouble") return worst(row) !== "healthy";
      return only.value !== "empty" || row.instances === 0;
    });
  };
  const draw = (first) => {
    if (!live.loaded) {
      put(place, live.state === "broken" ? trouble(live.error ?? new Error("No connection to the registry yet.")) : h("p", { class: "loading" }, "Asking the registry …"));
      return;
    }
    if (!table) {
      table = new Table({ columns: columns(link), key: link, sort: ["status", true], caption: "All services", none });
      put(place, table.element);
    }
    put(tiles, figures([...live.services.values()]));
    table.show(filtered(), first);
    put(note, live.leftOut > 0 && h("p", { class: "note" }, `${counted(live.leftOut, "service")} more are not shown: there are too many for one page.`));
    const recent = live.recent.slice(0, 6);
    const guards = live.status?.guard?.over ?? [];
    put(
      left,
      guards.map((guard) =>
        h("p", { class: "note" }, sign("unstable", "Guard against mass expiry"), ` holds over ${guard.service ?? "the whole registry"}: ${counted(guard.held, "instance")} would have expired. `, h("a", { href: at(["events", guard.event]) }, `event ${guard.event}`)),
      ),
      h("h2", {}, "Left without goodbye"),
      recent.length > 0 ? departures(recent) : h("p", { class: "faint" }, "Nobody has expired, as far as the log is kept."),
    );
  };
  const filter = () => {
    history.replaceState(null, "", at([], { q: search.value, show: only.value }));
    draw(true);
  };
  search.addEventListener("input", filter);
  only.addEventListener("change", filter);
  put(
    root,
    h("h1", {}, "Services"),
    tiles,
    h("div", { class: "columns" }, h("section", { "aria-label": "All services" }, h("div", { class: "tools" }, search, only), place, note), h("aside", { "aria-label": "Who left last" }, left)),
  );
  draw(true);
  on("overview", () => draw(false));
  on("state", () => live.loaded || draw(false));
}
