// Which view is open, and whether the node is heard. Begins everything.

import { Endpoint } from "./endpoint.js";
import { Overview } from "./overview.js";
import { Stream } from "./stream.js";
import { by, set } from "./elements.js";
import { duration, time } from "./format.js";

const typing_ms = 250;
const name_max = 63; // of an endpoint ID

const announce = (text) => set(by("announcer"), text);
const overview = new Overview();
const endpoint = new Endpoint();
const filter = by("filter");
let stream;
let shown;

function route() {
  const match = /^#\/endpoint\/([^/]+)$/.exec(location.hash);
  try {
    const id = match && decodeURIComponent(match[1]);
    if (id && id.length <= name_max) return { name: "endpoint", id };
  } catch {
    // not an address that this page has made
  }
  return { name: "overview" };
}

/** Show what the address says; `moved` when somebody followed a link, so that the focus goes along. */
function open(moved) {
  const to = route();
  const changed = shown?.name !== to.name || shown.id !== to.id;
  shown = to;
  by("overview").hidden = to.name !== "overview";
  by("endpoint").hidden = to.name !== "endpoint";
  if (changed) {
    if (to.name === "endpoint") endpoint.begin(to.id);
    else overview.forget();
  }
  listen(to.name === "endpoint" ? { endpoint: to.id } : filter.value.trim() ? { filter: filter.value.trim().toLowerCase() } : {});
  if (moved && changed) {
    scrollTo(0, 0);
    by(to.name === "endpoint" ? "endpoint-title" : "overview-title").focus({ preventScroll: true });
  }
}

function listen(query) {
  stream?.close();
  const words = new URLSearchParams(query).toString();
  stream = new Stream(words ? `status/events?${words}` : "status/events", report, connection);
}

function report(value) {
  set(by("node-id"), value.node.node);
  set(by("node-about"), `version ${value.node.version}, up ${duration(value.at - value.node.since)}`);
  if (shown.name === "endpoint") endpoint.show(value);
  else overview.show(value);
}

function connection(name, since) {
  const live = name === "live";
  const text = live ? "Live" : `Disconnected since ${time(since / 1000)}, trying again`;
  if (by("connection").dataset.state === "lost" || !live) announce(live ? "Connected again" : text);
  by("connection").dataset.state = name;
  document.body.classList.toggle("stale", !live);
  set(by("connection-text"), text);
}

let pause;
filter.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => open(false), typing_ms);
});
by("filter-form").addEventListener("submit", (event) => event.preventDefault());
by("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is open
  by("main").focus();
});
addEventListener("hashchange", () => open(true));
addEventListener("pagehide", () => stream.close());
addEventListener("pageshow", (event) => { if (event.persisted) open(false); });
open(false);
