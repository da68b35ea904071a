// Elements with text in them. Everything that a stranger may have chosen enters the page here, as text.

export const by = (id) => document.getElementById(id);

/** Make this the text of an element; untouched when it is already, so that nothing is announced or redrawn. */
export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const marks = "http://www.w3.org/2000/svg";

/** A state in a shape and a word; `level` is good, warn, bad or idle. */
export function state(element, level, word) {
  if (element.dataset.level !== level) {
    element.dataset.level = level;
    const mark = document.createElementNS(marks, "svg");
    mark.setAttribute("class", "mark");
    mark.setAttribute("aria-hidden", "true");
    mark.append(Object.assign(document.createElementNS(marks, "use")));
    mark.firstChild.setAttribute("href", `#mark-${level}`);
    element.replaceChildren(mark, make("span"));
    element.classList.add("state");
  }
  set(element.lastChild, word);
}

/** The lines of a list of facts: pairs of a name and a text. */
export function facts(list, pairs) {
  while (list.children.length > pairs.length) list.lastChild.remove();
  pairs.forEach(([name, text, title], index) => {
    let line = list.children[index];
    if (!line) {
      line = make("div");
      line.append(make("dt"), make("dd"));
      list.append(line);
    }
    set(line.firstChild, name);
    set(line.lastChild, text);
    line.title = title ?? "";
  });
}
