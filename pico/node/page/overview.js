// The whole cluster on one page. Knows what is shown where.

import { Chart } from "./chart.js";
import { Table } from "./table.js";
import * as columns from "./columns.js";
import { by, facts, make, set } from "./elements.js";
import { milliseconds, number, rate as perSecond, time, whole } from "./format.js";

const changes_max = 50;
const named_max = 3; // of one kind of change in one report; more are counted
const recent = 5; // seconds that a figure is the mean of
const sampled = ["rate", "errors", "in_flight", "p50_s", "p99_s"];
const error_share = 0.01; // of the requests of a minute

export class Overview {
  constructor() {
    this.before = null;
    const samples = 300;
    this.charts = {
      rate: new Chart(by("tile-rate"), { title: "Requests", hint: "ended per second", lines: ["main"], text: number, samples, least: 1 }),
      latency: new Chart(by("tile-latency"), { title: "Latency", hint: "median and, dashed, 99th percentile", lines: ["main", "second"], names: ["median", "99 %"], text: milliseconds, samples, least: 0.001 }),
      errors: new Chart(by("tile-errors"), { title: "Errors", hint: "answered 5xx, per second", lines: ["main bad"], text: number, samples, least: 1 }),
      flight: new Chart(by("tile-flight"), { title: "In flight", hint: "requests that have begun and not ended", lines: ["main"], text: number, samples, least: 1 }),
    };
    const table = (id, label, sorted, empty, layout) => new Table(by(id), { label, columns: columns[id], sorted, empty, layout });
    this.nodes = table("nodes", "Nodes", [0, 1], "No node is known yet.");
    this.endpoints = table("endpoints", "Endpoints", [1, -1], "No endpoint here or elsewhere.");
    this.upstreams = table("upstreams", "Upstreams of this node", [0, 1], "No service is connected to this node.");
    this.errors = table("errors", "Recent errors", [0, -1], "None that this node remembers.", "compact");
    this.history = null;
  }

  /** Another view has been opened meanwhile: what has changed since then was not seen. */
  forget() {
    this.before = null;
  }

  show(report) {
    const samples = Object.values(report.history); // by their numbers, which an object keeps in order
    this.history = Object.fromEntries(sampled.map((name, index) => [name, samples.map((sample) => sample[index])]));
    this.traffic();
    this.nodes.update(report.nodes);
    this.endpoints.update(report.endpoints);
    this.upstreams.update(report.upstreams);
    this.errors.update(report.errors);
    this.counts(report);
    this.gossip(report.gossip);
    this.verdict(report);
    if (this.before) this.compare(this.before, report);
    this.before = report;
  }

  traffic() {
    const { rate, errors, in_flight, p50_s, p99_s } = this.history;
    const mean = (values) => values.length ? values.slice(-recent).reduce((sum, value) => sum + value, 0) / Math.min(recent, values.length) : 0;
    this.charts.rate.draw([rate], `${perSecond(mean(rate))}/s`);
    const median = p50_s.at(-1) ?? null;
    this.charts.latency.draw([p50_s, p99_s], median === null ? "–" : both(milliseconds(median), milliseconds(p99_s.at(-1))));
    this.charts.errors.draw([errors], `${perSecond(mean(errors))}/s`);
    this.charts.flight.draw([in_flight], number(in_flight.at(-1) ?? 0));
  }

  counts({ counts, endpoints, upstreams, nodes }) {
    const shown = (rows, total, what) => {
      const length = Object.keys(rows).length;
      return length < total ? `${what ?? "first"} ${whole(length)} of ${whole(total)}` : whole(total);
    };
    set(by("nodes-count"), shown(nodes, counts.nodes));
    set(by("upstreams-count"), shown(upstreams, counts.upstreams));
    const filtered = counts.matching !== undefined;
    const text = shown(endpoints, filtered ? counts.matching : counts.endpoints, "busiest");
    set(by("endpoints-count"), filtered ? `${text} that match, of ${whole(counts.endpoints)}` : text);
    set(this.endpoints.empty, filtered ? "No endpoint has that in its name." : "No endpoint here or elsewhere.");
  }

  gossip(gossip) {
    facts(by("gossip"), [
      ["Joined", gossip.joined ? "yes" : "no", "Whether another node has been reached"],
      ["Health", gossip.health ? `${gossip.health}, judges slowly` : "0, good", "0 is good; each step makes this node slower to judge others"],
      ["Links", `${gossip.links_out} out, ${gossip.links_in} in`, "Connections to other nodes that carry requests"],
      ["Not reached", number(gossip.absent), "Nodes and seeds that are tried again and again"],
      ["Entries", `${number(gossip.entries)}, version ${whole(gossip.version)}`, "What this node says of itself"],
      ["Datagrams", `${number(gossip.datagrams_received)} in, ${number(gossip.datagrams_sent)} out`],
      ["Exchanges failed", number(gossip.exchanges_failed), "Comparisons over a stream that did not end well"],
      ["Corrections", number(gossip.corrections), "Nodes that no longer had an endpoint when asked"],
      ["Not for us", number(Object.values(gossip.violations).reduce((sum, one) => sum + one, 0)), "Datagrams of another cluster, version or key, or broken"],
      ["Mailbox", number(gossip.mailbox), "Messages that wait for the cluster's actor"],
    ]);
  }

  verdict(report) {
    const reasons = [];
    const add = (level, text) => reasons.push({ level, text });
    if (!report.node.ready) add("warn", `This node takes no new work: ${report.node.reason}.`);
    const named = { dead: [], suspect: [], draining: [], down: [] };
    for (const [id, row] of Object.entries(report.nodes)) {
      const [, word] = columns.nodeState(row);
      named[word]?.push(id);
      if (row.link === "down" && row.status === "alive") named.down.push(id);
    }
    const say = (level, ids, one, many) => {
      if (ids.length) add(level, `${list(ids)} ${ids.length === 1 ? one : many}.`);
    };
    say("bad", named.dead, "is dead", "are dead");
    say("warn", named.suspect, "is suspected to be dead", "are suspected to be dead");
    say("warn", named.down, "is alive, but the link to it is down", "are alive, but the links to them are down");
    say("warn", named.draining, "is draining", "are draining");
    if (report.gossip.health > 0) add("warn", "Other nodes answer late when this one asks them: its machine or its network may be overloaded.");
    const sum = (values) => values.slice(-60).reduce((total, value) => total + value, 0);
    const [requests, errors] = [sum(this.history.rate), sum(this.history.errors)];
    if (errors > error_share * requests && errors >= 1)
      add(errors > 0.1 * requests ? "bad" : "warn", `${number((100 * errors) / requests)} % of the requests of the last minute failed.`);
    const level = ["bad", "warn"].find((one) => reasons.some((reason) => reason.level === one)) ?? "good";
    const { counts } = report;
    const alive = counts.alive < counts.nodes ? `${counts.alive} of ${counts.nodes} nodes are alive`
      : counts.nodes === 1 ? "one node, alive" : `all ${whole(counts.nodes)} nodes are alive`;
    const title = level === "good" ? `All is well: ${alive}` : alive[0].toUpperCase() + alive.slice(1);
    by("verdict").dataset.level = level;
    by("verdict-mark").setAttribute("href", `#mark-${level}`);
    set(by("verdict-title"), title);
    const items = by("verdict-reasons");
    while (items.children.length > reasons.length) items.lastChild.remove();
    reasons.forEach(({ text }, index) => set(items.children[index] ?? items.appendChild(make("li")), text));
    document.title = `${level === "good" ? "" : level === "bad" ? "✕ " : "! "}${report.node.node} · Pico`;
  }

  compare(before, after) {
    for (const [id, row] of Object.entries(after.nodes)) {
      const [level, word] = columns.nodeState(row);
      const old = Object.hasOwn(before.nodes, id) ? before.nodes[id] : undefined;
      if (!old) this.changed(level, `${id} appeared: ${word}`);
      else if (columns.nodeState(old)[1] !== word) this.changed(level, `${id} is ${word}`);
    }
    for (const id of Object.keys(before.nodes)) if (!Object.hasOwn(after.nodes, id)) this.changed("idle", `${id} is forgotten`);
    // A table that shows a part of what there is says nothing of what it does not show.
    if (Object.keys(after.upstreams).length < after.counts.upstreams || Object.keys(before.upstreams).length < before.counts.upstreams) return;
    const joined = Object.entries(after.upstreams).filter(([id]) => !Object.hasOwn(before.upstreams, id));
    const left = Object.entries(before.upstreams).filter(([id]) => !Object.hasOwn(after.upstreams, id));
    this.several("good", joined, "joined");
    this.several("idle", left, "left");
  }

  several(level, rows, verb) {
    if (rows.length > named_max) this.changed(level, `${rows.length} upstreams ${verb}`);
    else for (const [id, row] of rows) this.changed(level, `${id} ${verb}: ${row.endpoint}`);
  }

  changed(level, text) {
    const line = make("li", "state");
    line.dataset.level = level;
    const mark = by("verdict").querySelector("svg").cloneNode(true);
    mark.firstElementChild.removeAttribute("id");
    mark.firstElementChild.setAttribute("href", `#mark-${level}`);
    line.append(mark, make("span", "", text), make("time", "quiet", time(Date.now() / 1000)));
    by("changes").prepend(line);
    while (by("changes").children.length > changes_max) by("changes").lastChild.remove();
    by("changes-empty").hidden = true;
  }
}

/** Two values, their unit once if they have the same. */
function both(one, other) {
  const unit = other.slice(other.indexOf("\u202f"));
  return `${one.endsWith(unit) ? one.slice(0, -unit.length) : one} · ${other}`;
}

function list(ids) {
  if (ids.length > 4) return `${ids.slice(0, 3).join(", ")} and ${ids.length - 3} more`;
  return ids.length === 1 ? ids[0] : `${ids.slice(0, -1).join(", ")} and ${ids.at(-1)}`;
}
