// Elements made of text that is never read as HTML, and numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Make an element; strings among the children become text. */
export const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** Make an element of a drawing. */
export const draw = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Set a text only where it is another, so that nothing is read out twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const shown = new WeakMap();

/** Bring a place to what is made of data, if the data has changed since. */
export function refresh(place, data, make) {
  const text = JSON.stringify(data) ?? "";
  if (shown.get(place) === text) return;
  shown.set(place, text);
  const wanted = place.cloneNode(false);
  wanted.append(...[make(data)].flat());
  morph(place, wanted);
}

/**
 * Make one tree like another with as few changes as can be: what has focus, is scrolled or selected
 * stays so. Children with a data-key are found again by it, others by their place.
 */
function morph(node, wanted) {
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.data !== wanted.data) node.data = wanted.data;
    return;
  }
  for (const { name } of [...node.attributes]) {
    // What is unfolded stays so: that is the reader's, not the data's.
    if (!wanted.hasAttribute(name) && name !== "open") node.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  const children = [...wanted.childNodes];
  const keys = new Set(children.map(keyOf));
  for (const child of [...node.childNodes]) {
    if (keyOf(child) !== undefined && !keys.has(keyOf(child))) child.remove();
  }
  let next = node.firstChild;
  for (const child of children) {
    if (next && next.nodeName === child.nodeName && keyOf(next) === keyOf(child)) {
      const same = next;
      next = next.nextSibling;
      morph(same, child);
    } else {
      node.insertBefore(child, next);
    }
  }
  while (next) {
    const after = next.nextSibling;
    next.remove();
    next = after;
  }
}

const keyOf = (node) => node.dataset?.key;

export const empty = (text) => el("p", { class: "empty" }, text);
export const tag = (text, state) => el("span", { class: "tag", "data-state": state }, text);
export const th = (text, name) => el("th", { scope: "col", class: name }, text);
export const num = (text, attributes) => el("td", { class: "num", ...attributes }, text);

/** A table in a place that scrolls by itself and can be reached by keyboard. */
export function table(label, heads, body) {
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", null, el("caption", { class: "unseen" }, label), el("thead", null, el("tr", null, heads)), body),
  );
}

export const known = (x) => x !== null && x !== undefined;
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const whole = (x) => (known(x) ? grouped.format(x) : "–");
export const percent = (x) => (known(x) ? `${(100 * x).toFixed(1)} %` : "–");
export const points = (x) => (known(x) ? signed(100 * x, 1) : "–");

export function signed(x, digits) {
  const text = Math.abs(x).toFixed(digits);
  if (Number(text) === 0) return text;
  return `${x < 0 ? "−" : "+"}${text}`;
}

export function rate(x) {
  if (!known(x)) return "–";
  if (x === 0) return "0";
  return x >= 100 ? grouped.format(x) : x.toFixed(x >= 10 ? 1 : 2);
}

/** Seconds in the unit that fits, as [number, unit]. */
export function span(seconds) {
  if (!known(seconds)) return ["–", ""];
  if (seconds < 0.9995) return [String(Math.round(seconds * 1000)), "ms"];
  if (seconds < 100) return [seconds.toFixed(seconds < 10 ? 2 : 1), "s"];
  if (seconds < 6000) return [(seconds / 60).toFixed(1), "min"];
  return [(seconds / 3600).toFixed(1), "h"];
}

export const spanned = (seconds) => span(seconds).join(" ").trim();

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const timeOf = (seconds) => clock.format(seconds * 1000);

export function time(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return el(
    "time",
    { datetime: date.toISOString(), title: day.format(date) },
    (today ? clock : day).format(date),
  );
}
