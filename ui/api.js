// Questions to the registry. The page asks in its own name, so that what it does leave in the log (its stream of changes) is
// not taken for a service's; what it reads, it reads where reading is no event.

const CALLER = { "rollcall-caller": "rollcall-ui" };
/** A stream that says nothing for so long is broken: the registry says something every 15 s. */
const SILENCE_MS = 25_000;

/** An answer that is a refusal; its text is the registry's own. */
export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail ?? `The registry answered with status ${status}.`);
    this.title = problem.title ?? `Status ${status}`;
    this.problem = problem;
    this.status = status;
  }
}

/** No answer at all. */
export class Unreachable extends Error {
  constructor(cause) {
    super("There was no answer. Is it running, and can this machine reach it?", { cause });
    this.title = "The registry can't be reached";
  }
}

function address(path, query) {
  // Relative to the page, which may be served below a path of its own.
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.append(name, value);
  }
  return url;
}

async function ask(path, query, options) {
  let answer;
  try {
    answer = await fetch(address(path, query), { ...options, headers: { ...CALLER, ...options?.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error);
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(problem, answer.status);
  }
  return answer;
}

/** The JSON at a path, and the version of the state that it reflects. */
export async function read(path, query, signal) {
  const answer = await ask(path, query, { signal, cache: "no-cache" });
  const seq = Number(answer.headers.get("rollcall-seq"));
  try {
    return { body: await answer.json(), seq };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error);
  }
}

/** The same without the version. */
export const get = async (path, query, signal) => (await read(path, query, signal)).body;

/** A path with its names encoded. */
export const path = (strings, ...names) =>
  strings.reduce((text, part, index) => text + encodeURIComponent(names[index - 1]) + part);

/**
 * Changes after `after` as they come: `told({id, kind, data})` for each, `heard()` for each sign of life. Ends by throwing,
 * whatever the reason. Not EventSource, which can't say who asks nor read a refusal.
 */
export async function stream(after, told, heard, signal) {
  const watchdog = new AbortController();
  const both = AbortSignal.any([signal, watchdog.signal]);
  let timer = setTimeout(() => watchdog.abort(), SILENCE_MS);
  try {
    const answer = await ask("v1/watch", { after }, { signal: both, headers: { accept: "text/event-stream" } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Unreachable();
      clearTimeout(timer);
      timer = setTimeout(() => watchdog.abort(), SILENCE_MS);
      heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const message = parse(block);
        if (message.kind === "end") throw new Unreachable();
        if (message.id !== null || message.data !== null) told(message);
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

function parse(block) {
  const message = { id: null, kind: null, data: null };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (name === "id") message.id = value;
    if (name === "event") message.kind = value;
    if (name === "data") message.data = JSON.parse(value);
  }
  return message;
}
