// How each kind of thing is written in a table. Knows the words of a report and nothing of how it comes.

import { bytes, milliseconds, number, rate, time } from "./format.js";
import { make, set, state } from "./elements.js";

const levels = { alive: "good", suspect: "warn", hearsay: "idle", dead: "bad", left: "idle" };

/** Under which shape and word a node is shown; a node that drains says so instead of "alive". */
export function nodeState(row) {
  if (row.draining && row.status === "alive") return ["warn", "draining"];
  return [levels[row.status] ?? "idle", row.status];
}

export const endpointAddress = (id) => `#/endpoint/${encodeURIComponent(id)}`;

const plain = (label, value, more = {}) => ({
  label, sort: (row, key) => value(row, key), fill: (cell, row, key) => set(cell, value(row, key) || "–"), ...more,
});

const figure = (label, value, text = number, more = {}) => ({
  label, number: true, sort: (row) => value(row), fill: (cell, row) => set(cell, text(value(row))), ...more,
});

function link(cell, address, text) {
  const anchor = cell.firstElementChild ?? cell.appendChild(make("a"));
  if (anchor.getAttribute("href") !== address) anchor.setAttribute("href", address);
  set(anchor, text);
}

const endpointLink = (label, id, more = {}) => ({
  label, sort: id, fill: (cell, row, key) => {
    if (id(row, key)) link(cell, endpointAddress(id(row, key)), id(row, key));
    else set(cell, "–");
  }, ...more,
});

const links = { open: ["good", "open"], down: ["bad", "down"], none: ["idle", "none"] };

export const nodes = [
  { label: "Node", first: true, sort: (row, key) => key, fill: (cell, row, key) => {
    if (!cell.firstChild) cell.append(make("span", "name"), " ", make("span", "tag"));
    set(cell.firstChild, key);
    set(cell.lastChild, row.self ? "this one" : "");
  } },
  { label: "Status", sort: (row) => nodeState(row)[1], fill: (cell, row) => state(cell, ...nodeState(row)) },
  figure("Since", (row) => row.since, time),
  plain("Version", (row) => row.version),
  figure("Endpoints", (row) => row.endpoints),
  figure("Upstreams", (row) => row.upstreams),
  { label: "Link", sort: (row) => row.link, fill: (cell, row) => {
    if (row.self || row.link === undefined) set(cell, "–");
    else state(cell, ...(links[row.link] ?? ["idle", row.link]));
  } },
  figure("Round trip", (row) => row.round_trip_s, milliseconds),
  plain("Gossip address", (row) => row.gossip, { wide: true }),
];

function places(row) {
  return Object.entries(row.nodes ?? {}).map(([node, count]) => count > 1 ? `${node} ×\u202f${count}` : node).join(", ");
}

export const endpoints = [
  endpointLink("Endpoint", (row, key) => key, { first: true }),
  figure("Requests/s", (row) => row.requests_per_s, rate),
  figure("Errors/s", (row) => row.errors_per_s, rate),
  figure("In flight", (row) => row.in_flight),
  figure("Upstreams", (row) => row.upstreams),
  plain("Where", places, { wide: true }),
];

const tunnel = [
  { label: "Upstream", first: true, sort: (row, key) => key, fill: (cell, row, key) => {
    if (!cell.firstChild) cell.append(make("span", "name"), " ", make("span", "tag"));
    set(cell.firstChild, key);
    set(cell.lastChild, row.leaving ? "leaving" : row.protocol === "base" ? "base protocol" : "");
  } },
  plain("Address", (row) => row.address),
  plain("Agent", (row) => row.agent, { wide: true }),
  figure("Since", (row) => row.since, time),
  figure("In flight", (row) => row.in_flight),
  figure("Received", (row) => row.bytes_received, bytes),
  figure("Sent", (row) => row.bytes_sent, bytes),
  figure("Round trip", (row) => row.round_trip_s, milliseconds),
];

export const upstreams = [tunnel[0], endpointLink("Endpoint", (row) => row.endpoint), ...tunnel.slice(1)];
export const tunnels = [0, 1, 3, 4, 7].map((index) => tunnel[index]);

const outcome = (row) => {
  const failed = row.status >= 500 || !row.status;
  return [failed ? "bad" : row.status >= 400 ? "warn" : "good", row.status ? String(row.status) : "none"];
};

const when = { label: "Time", first: true, sort: (row) => row.time, fill: (cell, row) => set(cell, time(Date.parse(row.time) / 1000)) };
const answer = { label: "Status", sort: (row) => row.status, fill: (cell, row) => state(cell, ...outcome(row)) };
const path = plain("Path", (row) => row.path, { wide: true });
const took = figure("Took", (row) => row.total_s, milliseconds);

export const requests = [
  when, plain("Method", (row) => row.method), path, answer, took,
  plain("Outcome", (row) => row.outcome), plain("Through", (row) => row.upstream ?? row.peer, { wide: true }),
];

export const errors = [
  when, endpointLink("Endpoint", (row) => row.endpoint), answer, plain("Outcome", (row) => row.outcome),
  plain("Request", (row) => [[row.method, row.path].filter(Boolean).join(" "), row.reason].filter(Boolean).join(" · "), { wide: true }),
];

export const holders = [
  { label: "Node", first: true, sort: (row, key) => key, fill: (cell, row, key) => set(cell, key) },
  { label: "Status", sort: (row) => row.status, fill: (cell, row) => state(cell, ...nodeState(row)) },
  figure("Upstreams", (row) => row.upstreams),
];

