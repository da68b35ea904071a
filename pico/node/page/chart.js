// One figure with the line of its last minutes. Knows nothing of what it shows.

import { set } from "./elements.js";

const svg = "http://www.w3.org/2000/svg";
const width = 300;
const height = 64;

/** The next of 1, 2, 5, 10, 20 … */
function rounded(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return size * [1, 2, 5, 10].find((step) => size * step >= value * 0.999);
}

function made(name, attributes, parent) {
  const element = document.createElementNS(svg, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

function path(values, samples, top) {
  let line = "";
  let drawing = false;
  values.forEach((value, index) => {
    if (value === null) { drawing = false; return; }
    const x = width - ((values.length - 1 - index) * width) / (samples - 1);
    const y = height - 2 - (value / top) * (height - 6);
    const next = values[index + 1];
    line += `${drawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    if (!drawing && (next === undefined || next === null)) line += "h.1"; // a lonely sample is a dot
    drawing = true;
  });
  return line;
}

export class Chart {
  /** `lines` names the classes of the lines; `text` writes a value; `samples` is how many fit. */
  constructor(parent, { title, hint, lines, names, text, samples, least }) {
    Object.assign(this, { title, lines, names, text, samples, least });
    const head = document.createElement("h3");
    head.textContent = title;
    this.figure = document.createElement("p");
    this.figure.className = "figure";
    this.hint = document.createElement("p");
    this.hint.className = "hint quiet";
    this.hint.textContent = hint ?? "";
    const plot = document.createElement("div");
    plot.className = "plot";
    this.top = document.createElement("span");
    this.top.className = "top-value";
    this.top.setAttribute("aria-hidden", "true");
    this.svg = made("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" });
    made("path", { class: "grid", d: `M0 4H${width}M0 ${height / 2 + 1}H${width}M0 ${height - 2}H${width}` }, this.svg);
    this.area = made("path", { class: "area" }, this.svg);
    this.paths = lines.map((name) => made("path", { class: `line ${name}` }, this.svg));
    this.cursor = made("path", { class: "cursor" }, this.svg);
    plot.append(this.svg, this.top);
    const axis = document.createElement("p");
    axis.className = "axis";
    axis.setAttribute("aria-hidden", "true");
    for (const word of [`${Math.round(samples / 60)} min ago`, "now"]) axis.append(Object.assign(document.createElement("span"), { textContent: word }));
    parent.append(head, this.figure, this.hint, plot, axis);
    this.axis = axis;
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.unpoint());
  }

  /** Draw one array of values for each line, oldest first; null where there is none. `now` is the figure to show. */
  draw(series, now) {
    this.series = series;
    const known = series.flat().filter((value) => value !== null);
    const highest = Math.max(this.least, ...known);
    const top = rounded(highest);
    set(this.top, this.text(top));
    series.forEach((values, index) => this.paths[index].setAttribute("d", path(values, this.samples, top)));
    const first = series[0];
    const whole = first.length > 1 && !first.includes(null);
    const from = width - ((first.length - 1) * width) / (this.samples - 1);
    this.area.setAttribute("d", whole ? `${path(first, this.samples, top)}V${height - 2}H${from.toFixed(1)}Z` : "");
    set(this.figure, now);
    const said = `${this.title}, last ${Math.round(this.samples / 60)} minutes: now ${now}, at most ${this.text(known.length ? Math.max(...known) : 0)}`;
    if (this.svg.getAttribute("aria-label") !== said) this.svg.setAttribute("aria-label", said);
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const back = Math.round((1 - (event.clientX - box.left) / box.width) * (this.samples - 1));
    const length = this.series?.[0].length ?? 0;
    if (back < 0 || back >= length) return this.unpoint();
    const x = (width - (back * width) / (this.samples - 1)).toFixed(1);
    this.cursor.setAttribute("d", `M${x} 0V${height}`);
    const values = this.series.map((values, index) => `${this.names?.[index] ?? ""} ${this.text(values[length - 1 - back])}`.trim());
    this.axis.firstChild.textContent = `${values.join(", ")} · ${back} s ago`;
  }

  unpoint() {
    this.cursor.removeAttribute("d");
    this.axis.firstChild.textContent = `${Math.round(this.samples / 60)} min ago`;
  }
}
