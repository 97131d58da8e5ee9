// Questions to the server, and its events.

const BASE = 'api/';
const PATIENCE = 20_000;

/** The server did not answer, or said no. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks a question; gives what the JSON says. */
export async function ask(question) {
  let response;
  try {
    response = await fetch(BASE + question, { signal: AbortSignal.timeout(PATIENCE), headers: { accept: 'application/json' } });
  } catch (error) {
    const said = error.name === 'TimeoutError' ? 'The server takes too long to answer.' : 'The server cannot be reached.';
    throw new ApiError(0, said);
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, sentence(body?.error ?? `The server answered with ${response.status}.`));
  if (body === null) throw new ApiError(response.status, 'The server answered with something else than JSON.');
  return body;
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** Follows the chain; whoever listens is told of `block`, `parts`, `trouble` and `state`. */
export class Feed extends EventTarget {
  #source = null;
  #last = null;
  #retry = null;
  #pause = 1_000;
  state = 'connecting';

  /** Begins after a height that is known. */
  start(after) {
    this.#last = after;
    this.#open();
    // A page that was put aside leaves its place to others, and goes on when it is back.
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.#close();
      else this.#open();
    });
  }

  #close() {
    clearTimeout(this.#retry);
    this.#source?.close();
  }

  #open() {
    this.#close();
    const source = new EventSource(`${BASE}events${this.#last === null ? '' : `?after=${this.#last}`}`);
    this.#source = source;
    source.addEventListener('open', () => {
      this.#pause = 1_000;
      this.#become('live');
    });
    source.addEventListener('block', (event) => {
      const block = JSON.parse(event.data);
      this.#last = block.height;
      this.#tell('block', block);
    });
    source.addEventListener('parts', (event) => this.#tell('parts', JSON.parse(event.data).parts));
    source.addEventListener('trouble', (event) => this.#tell('trouble', JSON.parse(event.data).trouble));
    source.addEventListener('error', () => {
      this.#become('reconnecting');
      // A browser comes back by itself unless it was told no.
      if (source.readyState !== EventSource.CLOSED) return;
      this.#retry = setTimeout(() => this.#open(), this.#pause);
      this.#pause = Math.min(this.#pause * 2, 30_000);
    });
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#tell('state', state);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
