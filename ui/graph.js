// Who asks for whom: a drawing of the busiest, and a table of all for whoever reads.

import { get } from "./api.js";
import { at, empty, h, put, svg, trouble } from "./dom.js";
import { layered } from "./layers.js";
import { live } from "./live.js";
import { Table } from "./table.js";
import { count, counted, instant, rate } from "./words.js";

/** More than these is a ball of wool and no drawing. */
const NODES_MAX = 40;
const BOX = { width: 148, height: 40, across: 104, between: 22 };
const SPANS = { "-5m": "5 minutes", "-1h": "hour", "-24h": "day", "-168h": "week" };
const REFRESH_MS = 10_000;
/** The name under which this page asks. */
const OURSELVES = "rollcall-ui";

const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.01 ? 2 : 1)} %`;

/** The nodes that are drawn: those next to `focus`, or the busiest; and the edges between them. */
function chosen(graph, focus) {
  const edges = graph.edges.filter((edge) => edge.from !== OURSELVES);
  if (focus) {
    const near = edges.filter((edge) => edge.from === focus || edge.to === focus);
    const ids = new Set([focus, ...near.slice(0, NODES_MAX).flatMap((edge) => [edge.from, edge.to])]);
    return { ids, edges: near.filter((edge) => ids.has(edge.from) && ids.has(edge.to)) };
  }
  const busy = new Map();
  for (const edge of edges) for (const id of [edge.from, edge.to]) busy.set(id, (busy.get(id) ?? 0) + edge.lookups);
  const ids = new Set([...busy].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, NODES_MAX).map(([id]) => id));
  return { ids, edges: edges.filter((edge) => ids.has(edge.from) && ids.has(edge.to)) };
}

const degree = (edges, end, id) => edges.filter((edge) => edge[end] === id).length;

/** How much of its height a line has risen at a share of its length: it leaves and arrives level. */
const rise = (share) => share * share * (3 - 2 * share);

function drawing(graph, { ids, edges }) {
  const nodes = new Map(graph.nodes.map((node) => [node.id, node]));
  const layers = layered([...ids].sort(), edges);
  const tallest = Math.max(...layers.map((layer) => layer.length));
  const height = tallest * (BOX.height + BOX.between) + 20;
  const width = layers.length * (BOX.width + BOX.across) - BOX.across + 24;
  const place = new Map();
  layers.forEach((layer, column) => {
    const free = height - layer.length * (BOX.height + BOX.between) + BOX.between;
    layer.forEach((id, row) => place.set(id, { x: 12 + column * (BOX.width + BOX.across), y: free / 2 + row * (BOX.height + BOX.between), column }));
  });
  const most = Math.max(1, ...edges.map((edge) => edge.lookups));
  const line = (edge) => {
    const [from, to] = [place.get(edge.from), place.get(edge.to)];
    const back = to.column <= from.column;
    const [x1, y1] = [from.x + BOX.width, from.y + BOX.height / 2];
    const [x2, y2] = back ? [to.x + BOX.width, to.y + BOX.height / 2 + 8] : [to.x, to.y + BOX.height / 2];
    const bend = back ? 46 : (x2 - x1) / 2;
    const tip = back ? 1 : -1;
    const path = `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - (back ? -bend : bend)} ${y2} ${x2 + tip * 7} ${y2}`;
    // Where the lines of one caller have parted, or those to one service have not met yet.
    const along = y1 === y2 ? 0.5 : degree(edges, "from", edge.from) > degree(edges, "to", edge.to) ? 0.7 : 0.3;
    const thick = 1.2 + 3 * Math.sqrt(edge.lookups / most);
    const words = `${edge.caller} → ${edge.service}: ${counted(edge.lookups, "lookup")}, ${rate(edge.rate)}, ${percent(edge.failed)} refused`;
    return svg(
      "g",
      { class: edge.failed > 0 ? "edge has-failed" : "edge" },
      svg("title", {}, words),
      svg("path", { d: path, "stroke-width": thick }),
      svg("path", { class: "tip", d: `M${x2} ${y2}l${tip * 9} -5v10z` }),
      !back && svg("text", { x: x1 + (x2 - x1) * along, y: y1 + (y2 - y1) * rise(along) - 7, "text-anchor": "middle" }, rate(edge.rate)),
    );
  };
  const box = (id) => {
    const { x, y } = place.get(id);
    const node = nodes.get(id) ?? { kind: "caller", name: id, namespace: null };
    const isService = node.kind === "service";
    const name = node.name.length > 18 ? `${node.name.slice(0, 17)}…` : node.name;
    const row = live.services.get(id);
    const under = !isService ? "not registered" : row ? `${count(row.healthy)} of ${count(row.instances)} healthy` : "no instances";
    const state = row && row.instances > row.healthy ? " is-unstable" : "";
    const inside = [
      svg("title", {}, node.namespace ? `${node.namespace}/${node.name}` : node.name),
      svg("rect", { width: BOX.width, height: BOX.height, rx: 8 }),
      svg("text", { x: 12, y: 17 }, name),
      svg("text", { class: "under", x: 12, y: 32 }, under),
    ];
    const shown = isService ? svg("a", { href: at(["services", node.namespace, node.name]) }, inside) : inside;
    return svg("g", { class: `node is-${node.kind}${state}`, transform: `translate(${x} ${y})` }, shown);
  };
  return svg(
    "svg",
    { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `A drawing of ${counted(ids.size, "node")} and ${counted(edges.length, "edge")}; the table below says the same.` },
    edges.map(line),
    [...ids].map(box),
  );
}

const COLUMNS = [
  { name: "caller", title: "Caller", value: (edge) => edge.caller, cell: (edge) => edge.caller },
  { name: "service", title: "Asks for", value: (edge) => edge.service, cell: (edge) => (edge.namespace ? h("a", { href: at(["services", edge.namespace, edge.service]) }, edge.service) : edge.service) },
  { name: "lookups", title: "Lookups", numeric: true, value: (edge) => edge.lookups, cell: (edge) => count(edge.lookups) },
  { name: "rate", title: "Rate", numeric: true, wide: true, value: (edge) => edge.rate, cell: (edge) => rate(edge.rate) },
  { name: "failed", title: "Refused", numeric: true, value: (edge) => edge.failed, cell: (edge) => h("span", { class: edge.failed > 0 ? "ink-failed" : "faint" }, percent(edge.failed)) },
  { name: "last", title: "Last", numeric: true, wide: true, value: (edge) => Date.parse(edge.last), cell: (edge) => instant(edge.last) },
];

export async function view({ root, query, titled, every, on, signal }) {
  const focus = query.get("focus");
  titled("Graph");
  const reach = h("select", { "aria-label": "How far back" }, Object.entries(SPANS).map(([value, word]) => h("option", { value }, `the last ${word}`)));
  reach.value = SPANS[query.get("since")] ? query.get("since") : "-1h";
  const table = new Table({ columns: COLUMNS, key: (edge) => `${edge.from} ${edge.to}`, sort: ["lookups", true], caption: "Who asks for whom", none: () => empty("No lookup in this time", "Choose a longer time, or let a service ask: ", h("code", {}, "curl …/v1/services/orders/instances"), ".") });
  const picture = h("div", { class: "scroll picture" });
  const words = h("p", { class: "lead" });
  let graph = null;
  const draw = () => {
    if (!graph) return;
    const part = chosen(graph, focus);
    const all = graph.nodes.filter((node) => node.id !== OURSELVES).length;
    const less = part.ids.size < all;
    put(words, focus ? [`Who asks for ${focus}, and whom it asks. `, h("a", { href: at(["graph"], { since: reach.value }) }, "Show all")] : less ? `The ${part.ids.size} busiest of ${count(all)} are drawn; the table has all.` : "Who asked for whom. A thicker line is more lookups; a dashed one had refusals.");
    put(picture, part.edges.length > 0 && drawing(graph, part));
    table.show(graph.edges.filter((edge) => edge.from !== OURSELVES && (!focus || edge.from === focus || edge.to === focus)));
  };
  const load = async () => {
    graph = await get("v1/graph", { since: reach.value, format: "json" }, signal);
    draw();
  };
  reach.addEventListener("change", () => {
    history.replaceState(null, "", at(["graph"], { since: reach.value, focus }));
    load().catch((error) => signal.aborted || put(picture, trouble(error)));
  });
  put(root, h("div", { class: "heading" }, h("h1", {}, "Graph"), h("div", { class: "tools" }, reach)), words, picture, table.element);
  await load();
  // Not under somebody's hands: a link that is about to be followed stays where it is.
  every(REFRESH_MS, () => picture.contains(document.activeElement) || load().catch(() => {}));
  on("overview", () => picture.contains(document.activeElement) || draw());
}
