// The router, as this page speaks with it: calls, the stream of what changes, and the key for both.
// The stream is read by `fetch`: EventSource sends no key.

import { byId, mark, say } from "./dom.js";

const KEY = "ollama-proxy.key";
const SILENCE_MS = 40e3; // the router breaks its own after 15 s
const UNREAD_MAX = 1 << 22;
const AGAIN_MS = [500, 1000, 2000, 4000, 8000];

const wait = ms => new Promise(resolve => setTimeout(resolve, ms));

function guarded(headers = {}) {
  const key = sessionStorage.getItem(KEY);
  return key === null ? headers : { ...headers, Authorization: `Bearer ${key}` };
}

/** What the router answers to a call: its status, and the JSON of it. Asks for a key where one is needed. */
export async function call(method, path, { body = null, headers = {} } = {}) {
  const given = body === null ? headers : { ...headers, "Content-Type": "application/json" };
  const answer = await fetch(path, {
    method,
    headers: guarded({ Accept: "application/json", ...given }),
    body: body === null ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) askKey();
  return { status: answer.status, told };
}

/** The sentence of an error. */
export const faultOf = told => String(told?.error?.message ?? told?.error ?? "");

// -- the key -----------------------------------------------------------------------------------

let keyed = deferred();

function deferred() {
  const made = {};
  made.promise = new Promise(resolve => { made.resolve = resolve; });
  return made;
}

/** Ask for a key, unless it is being asked for. `why`: the one that there is, is not good. */
export function askKey(why = "This key is not known here") {
  const dialog = byId("key");
  byId("key-open").hidden = false;
  say(byId("key-title"), sessionStorage.getItem(KEY) === null ? "A key is needed" : why);
  if (!dialog.open) dialog.showModal();
}

/** Listen to the dialog. */
export function setUpKey() {
  const dialog = byId("key");
  const text = byId("key-text");
  byId("key-open").hidden = sessionStorage.getItem(KEY) === null;
  byId("key-open").addEventListener("click", () => askKey("Use another key"));
  dialog.addEventListener("close", () => {
    const given = text.value.trim();
    text.value = "";
    if (dialog.returnValue !== "use" || !given) return;
    sessionStorage.setItem(KEY, given);
    keyed.resolve();
    keyed = deferred();
  });
}

// -- the stream --------------------------------------------------------------------------------

/** Tells `hear(kind, data)` what comes, while the page is seen; nothing is held or asked while not. */
export class Stream {
  constructor(hear) {
    this.hear = hear;
    this.lastId = "";
    this.stop = null;
    document.addEventListener("visibilitychange", () => this.follow());
    addEventListener("pagehide", () => this.end("paused", "Paused"));
    addEventListener("pageshow", () => this.follow());
  }

  /** Listen if the page is seen, else do not. */
  follow() {
    if (document.hidden) this.end("paused", "Paused");
    else if (this.stop === null) this.listen();
  }

  end(state, word) {
    this.stop?.abort();
    this.stop = null;
    tell(state, word);
  }

  async listen() {
    const stop = new AbortController();
    this.stop = stop;
    let failures = 0;
    while (!stop.signal.aborted) {
      try {
        await this.hearAll(stop.signal, () => { failures = 0; });
      } catch (fault) {
        if (stop.signal.aborted) return;
        if (fault.status === 401 || fault.code === "permission_denied") {
          tell("waiting", "A key is needed");
          const given = keyed.promise;
          askKey(fault.status === 401 ? undefined : "This key may not read");
          await Promise.race([given, new Promise(r => stop.signal.addEventListener("abort", r))]);
          continue;
        }
        tell("lost", fault instanceof Refused ? fault.message : "No connection: trying again");
      }
      if (stop.signal.aborted) return;
      await wait(AGAIN_MS[Math.min(failures, AGAIN_MS.length - 1)] * (0.75 + Math.random() / 2));
      failures += 1;
    }
  }

  async hearAll(outer, began) {
    const silence = new AbortController();
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    const headers = guarded({ Accept: "text/event-stream" });
    if (this.lastId) headers["Last-Event-ID"] = this.lastId;
    const pass = () => silence.abort();
    outer.addEventListener("abort", pass);
    try {
      alive();
      const answer = await fetch("/events", { headers, cache: "no-store", signal: silence.signal });
      if (!answer.ok) {
        throw new Refused(answer.status, await answer.json().catch(() => ({})));
      }
      began();
      tell("live", "Live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let unread = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the stream has ended");
        alive();
        const blocks = (unread + value).split("\n\n");
        unread = blocks.pop();
        if (unread.length > UNREAD_MAX) throw new Error("a message without an end");
        blocks.forEach(block => this.take(block));
      }
    } finally {
      clearTimeout(timer);
      outer.removeEventListener("abort", pass);
      silence.abort();
    }
  }

  take(block) {
    const fields = {};
    for (const line of block.split("\n")) {
      const at = line.indexOf(": ");
      if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
    }
    if (fields.data === undefined) return;
    this.hear(fields.event, JSON.parse(fields.data));
    this.lastId = fields.id ?? this.lastId;
  }
}

class Refused extends Error {
  constructor(status, told) {
    super(faultOf(told) || `The router answers ${status}: trying again`);
    this.status = status;
    this.code = told?.error?.code;
  }
}

function tell(state, word) {
  const line = byId("line");
  mark(line, "state", state);
  mark(document.body, "line", state);
  say(line, word);
}
