// A graph in layers, for a drawing from left to right: who asks stands left of whom is asked. Pure: names and numbers in,
// places out. After Sugiyama's scheme: break the cycles, take the longest paths as layers, order each layer by where its
// neighbours stand.

const SWEEPS = 6;

/** `nodes`: ids; `edges`: `{from, to}`. Gives the layers, each a list of ids from top to bottom. */
export function layered(nodes, edges) {
  const next = new Map(nodes.map((id) => [id, []]));
  for (const { from, to } of edges) if (from !== to && next.has(from) && next.has(to)) next.get(from).push(to);
  const forward = acyclic(nodes, next);
  const depth = depths(nodes, forward);
  const layers = [];
  for (const id of nodes) (layers[depth.get(id)] ??= []).push(id);
  const before = new Map(nodes.map((id) => [id, []]));
  for (const [from, targets] of forward) for (const to of targets) before.get(to).push(from);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    const neighbours = down ? before : forward;
    for (const layer of down ? layers : layers.toReversed()) arrange(layer, neighbours, layers);
  }
  return layers;
}

/** The edges without those that lead back to where a walk came from. */
function acyclic(nodes, next) {
  const state = new Map();
  const forward = new Map(nodes.map((id) => [id, []]));
  const incoming = new Set([...next.values()].flat());
  // A walk from those whom nobody asks turns the fewest edges round.
  const starts = [...nodes.filter((id) => !incoming.has(id)), ...nodes];
  for (const start of starts) {
    if (state.has(start)) continue;
    const walk = [[start, 0]];
    state.set(start, "open");
    while (walk.length > 0) {
      const top = walk.at(-1);
      const to = next.get(top[0])[top[1]];
      top[1] += 1;
      if (to === undefined) {
        state.set(top[0], "done");
        walk.pop();
      } else if (state.get(to) !== "open") {
        forward.get(top[0]).push(to);
        if (!state.has(to)) {
          state.set(to, "open");
          walk.push([to, 0]);
        }
      }
    }
  }
  return forward;
}

/** How many steps each is away from the furthest that leads to it. */
function depths(nodes, forward) {
  const waits = new Map(nodes.map((id) => [id, 0]));
  for (const targets of forward.values()) for (const to of targets) waits.set(to, waits.get(to) + 1);
  const depth = new Map(nodes.map((id) => [id, 0]));
  const ready = nodes.filter((id) => waits.get(id) === 0);
  for (let index = 0; index < ready.length; index += 1) {
    const id = ready[index];
    for (const to of forward.get(id)) {
      depth.set(to, Math.max(depth.get(to), depth.get(id) + 1));
      waits.set(to, waits.get(to) - 1);
      if (waits.get(to) === 0) ready.push(to);
    }
  }
  return depth;
}

/** Orders a layer by the mean place of each one's neighbours; who has none stays about where it is. */
function arrange(layer, neighbours, layers) {
  const place = new Map(layers.flatMap((ids) => ids.map((id, index) => [id, (index + 0.5) / ids.length])));
  const weight = new Map(
    layer.map((id) => {
      const near = neighbours.get(id);
      return [id, near.length > 0 ? near.reduce((sum, other) => sum + place.get(other), 0) / near.length : place.get(id)];
    }),
  );
  layer.sort((a, b) => weight.get(a) - weight.get(b));
}
