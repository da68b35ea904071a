// What the node reports, kept up to date. Knows how reports travel and nothing of what they say.

const silence_ms = 6000; // the node reports every second
const again_ms = 3000;

/** RFC 7396. */
export function merged(value, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const result = value !== null && typeof value === "object" && !Array.isArray(value) ? { ...value } : {};
  for (const [name, part] of Object.entries(patch)) {
    if (part === null) delete result[name];
    else Object.defineProperty(result, name, {
      value: merged(Object.hasOwn(result, name) ? result[name] : undefined, part),
      configurable: true, enumerable: true, writable: true, // a member may have any name, "__proto__", too
    });
  }
  return result;
}

/** Follows one view: `report(value)` for each report, `state(name, since)` when the connection changes. */
export class Stream {
  constructor(address, report, state) {
    this.address = address;
    this.report = report;
    this.state = state;
    this.value = null;
    this.since = Date.now();
    this.open();
  }

  open() {
    this.source = new EventSource(this.address);
    this.source.addEventListener("whole", (event) => this.take(JSON.parse(event.data)));
    this.source.addEventListener("change", (event) => this.take(merged(this.value, JSON.parse(event.data))));
    this.source.addEventListener("error", () => this.lost());
  }

  take(value) {
    this.value = value;
    this.alive();
    this.report(value);
  }

  alive() {
    clearTimeout(this.patience);
    this.patience = setTimeout(() => { this.close(); this.lost(); }, silence_ms);
    if (this.lostAt !== undefined || !this.live) this.state("live", Date.now());
    this.live = true;
    this.lostAt = undefined;
  }

  lost() {
    clearTimeout(this.patience);
    if (this.lostAt === undefined) this.state("lost", this.lostAt = Date.now());
    // A browser tries again by itself unless it was refused.
    if (this.source.readyState === EventSource.CLOSED) this.retry ??= setTimeout(() => {
      this.retry = undefined;
      this.open();
    }, again_ms);
  }

  close() {
    clearTimeout(this.patience);
    clearTimeout(this.retry);
    this.retry = undefined;
    this.source.close();
  }
}
