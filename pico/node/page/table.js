// A table whose rows come and go. Knows how to keep, sort and show rows, and nothing of what they mean.

import { make } from "./elements.js";

const settle_ms = 5000; // rows that change places every second cannot be read

/** In that direction, and what is not known last in either. */
function compare(one, other, direction) {
  if (one === other) return 0;
  if (one === undefined) return 1;
  if (other === undefined) return -1;
  return direction * (typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other);
}

export class Table {
  /**
   * `columns` are `{label, fill(cell, row, key), sort?(row, key), number?, first?, wide?}`; `sorted` is the column and
   * direction to begin with; `empty` is shown in place of a table without rows; `layout` is how rows are shown where
   * there is little room.
   */
  constructor(parent, { label, columns, sorted, empty, layout = "blocks" }) {
    this.columns = columns;
    [this.column, this.direction] = sorted;
    this.rows = new Map();
    this.sortedAt = 0;
    this.table = make("table", layout);
    this.empty = make("p", "empty", empty);
    // Narrow screens show rows as blocks, which would take the roles of a table away.
    this.table.setAttribute("role", "table");
    this.table.setAttribute("aria-label", label);
    const head = this.table.createTHead();
    head.setAttribute("role", "rowgroup");
    const line = head.insertRow();
    line.setAttribute("role", "row");
    this.heads = columns.map((column, index) => {
      const cell = make("th", column.number ? "number" : "");
      cell.scope = "col";
      cell.setAttribute("role", "columnheader");
      if (column.sort) {
        const button = make("button", "", column.label);
        button.type = "button";
        button.addEventListener("click", () => this.sortBy(index));
        cell.append(button);
      } else cell.textContent = column.label;
      line.append(cell);
      return cell;
    });
    this.body = this.table.createTBody();
    this.body.setAttribute("role", "rowgroup");
    this.body.addEventListener("click", (event) => {
      if (!event.target.closest("a") && !String(getSelection())) event.target.closest("tr")?.querySelector("a")?.click();
    });
    this.mark();
    const scroll = make("div", "scroll");
    scroll.append(this.table);
    parent.append(scroll, this.empty);
    this.update({});
  }

  sortBy(index) {
    this.direction = this.column === index ? -this.direction : this.columns[index].number ? -1 : 1;
    this.column = index;
    this.mark();
    this.sort();
  }

  mark() {
    this.heads.forEach((head, index) => {
      if (index === this.column) head.setAttribute("aria-sort", this.direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  /** Show exactly these rows, by their keys. */
  update(rows) {
    for (const [key, row] of this.rows) if (!Object.hasOwn(rows, key)) {
      row.line.remove();
      this.rows.delete(key);
    }
    let came = false;
    for (const [key, values] of Object.entries(rows)) {
      let row = this.rows.get(key);
      if (!row) {
        row = this.make(key);
        this.rows.set(key, row);
        this.body.append(row.line);
        came = true;
      }
      if (row.values !== values) {
        row.values = values;
        this.columns.forEach((column, index) => column.fill(row.cells[index], values, key));
      }
    }
    this.table.hidden = !this.rows.size;
    this.empty.hidden = !!this.rows.size;
    const late = performance.now() - this.sortedAt > settle_ms;
    if ((came || late) && !this.body.matches(":hover, :focus-within")) this.sort();
  }

  make(key) {
    const line = make("tr");
    line.setAttribute("role", "row");
    const cells = this.columns.map((column) => {
      const cell = make(column.first ? "th" : "td", [column.number && "number", column.wide && "wide-cell"].filter(Boolean).join(" "));
      if (column.first) cell.scope = "row";
      cell.setAttribute("role", column.first ? "rowheader" : "cell");
      cell.dataset.label = column.label;
      const content = make("span", "content");
      cell.append(content);
      line.append(cell);
      return content;
    });
    return { key, line, cells, values: undefined };
  }

  sort() {
    this.sortedAt = performance.now();
    const { sort } = this.columns[this.column];
    const order = [...this.rows.values()].sort((one, other) =>
      compare(sort(one.values, one.key), sort(other.values, other.key), this.direction) || compare(one.key, other.key, 1));
    order.forEach(({ line }, index) => {
      if (this.body.children[index] !== line) this.body.insertBefore(line, this.body.children[index] ?? null);
    });
  }
}
