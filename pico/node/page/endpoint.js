// One endpoint with its latest requests. Knows what is shown where.

import { Table } from "./table.js";
import * as columns from "./columns.js";
import { by, facts, set, state } from "./elements.js";
import { number, rate } from "./format.js";

export class Endpoint {
  constructor() {
    const table = (id, label, shown, sorted, empty, layout) => new Table(by(id), { label, columns: shown, sorted, empty, layout });
    this.requests = table("requests", "Recent requests", columns.requests, [0, -1], "None that this node remembers.");
    this.places = table("places", "Nodes that have it", columns.holders, [0, 1], "No node has it now.", "plain");
    this.tunnels = table("tunnels", "Upstreams of this node", columns.tunnels, [0, 1], "None at this node.");
  }

  /** Before the first report. */
  begin(id) {
    set(by("endpoint-title"), id);
    document.title = `${id} · Pico`;
    state(by("endpoint-state"), "idle", "looking");
    facts(by("endpoint-figures"), []);
    for (const table of [this.requests, this.places, this.tunnels]) table.update({});
  }

  show({ endpoint, nodes, upstreams, requests }) {
    const known = endpoint.upstreams > 0;
    state(by("endpoint-state"), known ? "good" : "bad", known ? "reachable" : "no node has it");
    facts(by("endpoint-figures"), [
      ["Upstreams, all nodes", number(endpoint.upstreams)],
      ["In flight", number(endpoint.in_flight)],
      ["Requests/s", rate(endpoint.requests_per_s)],
      ["Errors/s", rate(endpoint.errors_per_s)],
      ["Requests so far", number(endpoint.requests)],
      ["Errors so far", number(endpoint.errors)],
    ]);
    this.requests.update(requests);
    this.places.update(nodes);
    this.tunnels.update(upstreams);
  }
}
