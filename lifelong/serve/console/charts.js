// Small charts as SVG. Each says in words, to those who cannot see it, what it shows.

import { draw, el } from "./dom.js";

const LEFT = 44;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;

/** The class of a line by its place: eight colours, then the same ones dashed and dotted. */
export function look(index) {
  const style = ["", " dashed", " dotted"][Math.floor(index / 8) % 3];
  return `series s${index % 8}${style}`;
}

/** A short piece of a line, for a legend. */
export function swatch(index) {
  const line = draw("line", { class: look(index), x1: 1, x2: 17, y1: 4, y2: 4 });
  return draw("svg", { class: "swatch", viewBox: "0 0 18 8", "aria-hidden": "true" }, line);
}

/** Round numbers from low to high, both included where they are round. */
export function ticks(low, high, most) {
  const raw = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw * 0.999) ?? 10);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

function frame({ width, height, x, y, label, xTicks, yTicks, xText, yText }) {
  const w = width - LEFT - RIGHT;
  const h = height - TOP - BOTTOM;
  const px = (value) => LEFT + (w * (value - x[0])) / (x[1] - x[0] || 1);
  const py = (value) => TOP + h - (h * (value - y[0])) / (y[1] - y[0] || 1);
  const chart = draw("svg", {
    class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label,
  });
  for (const value of yTicks) {
    const at = py(value);
    chart.append(
      draw("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }),
      draw("text", { x: LEFT - 7, y: at + 4, "text-anchor": "end" }, yText(value)),
    );
  }
  xTicks.forEach((value, i) => {
    const anchor = i === 0 ? "start" : i === xTicks.length - 1 ? "end" : "middle";
    chart.append(draw("text", { x: px(value), y: height - 4, "text-anchor": anchor }, xText(value)));
  });
  return { chart, px, py };
}

function path(pairs, px, py) {
  let text = "";
  let pen = false;
  for (const [x, y] of pairs) {
    if (y === null || y === undefined) {
      pen = false;
      continue;
    }
    text += `${pen ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
    pen = true;
  }
  return text;
}

function spread(low, high, count) {
  if (high <= low) return [low];
  return Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
}

/**
 * Lines over time.
 * series: [{index, points: [[x, y or null]]}]; y: [low, high]; marks: [[x, text]].
 */
export function lines({ width, height = 170, series, y, label, xText, yText, marks = [] }) {
  const xs = series.flatMap((one) => one.points.map(([at]) => at));
  const x = [Math.min(...xs), Math.max(...xs)];
  const { chart, px, py } = frame({
    width, height, x, y, label, xText, yText,
    xTicks: spread(x[0], x[1], width < 420 ? 2 : 4), yTicks: ticks(y[0], y[1], 4),
  });
  for (const [at, text] of marks) {
    chart.append(
      draw("line", { class: "mark-line", x1: px(at), x2: px(at), y1: TOP, y2: height - BOTTOM },
        draw("title", null, text)),
    );
  }
  for (const { index, points } of series) {
    const alone = points.filter(([, value]) => value !== null && value !== undefined);
    if (alone.length === 1) {
      const [[at, value]] = alone;
      chart.append(draw("circle", { class: look(index), cx: px(at), cy: py(value), r: 2.5 }));
    } else {
      chart.append(draw("path", { class: look(index), d: path(points, px, py) }));
    }
  }
  return chart;
}

/** The lead of a challenger row after row: [rows, mean, low, high], and what it has to exceed. */
export function lead({ width, height = 190, points, needed, label, yText }) {
  const most = Math.max(...points.map(([n]) => n), 1);
  const from = Math.min(...points.map(([n]) => n));
  const settled = points.slice(Math.min(Math.floor(points.length / 6), points.length - 1));
  const reach = Math.max(0.05, ...settled.flatMap(([, , low, high]) => [Math.abs(low), Math.abs(high)]));
  const top = Math.min(1, reach * 1.1);
  const { chart, px, py } = frame({
    width, height, x: [Math.min(from, most - 1), most], y: [-top, top], label, yText,
    xTicks: most > from ? [from, most] : [most], yTicks: ticks(-top, top, 5),
    xText: (n) => `${n} rows`,
  });
  const cut = (value) => Math.max(-top, Math.min(top, value));
  const upper = points.map(([n, , , high]) => `${px(n).toFixed(1)} ${py(cut(high)).toFixed(1)}`);
  const lower = points.map(([n, , low]) => `${px(n).toFixed(1)} ${py(cut(low)).toFixed(1)}`);
  if (points.length > 1) {
    chart.append(draw("path", { class: "band", d: `M${upper.join("L")}L${lower.reverse().join("L")}Z` }));
  }
  chart.append(draw("line", { class: "zero", x1: LEFT, x2: width - RIGHT, y1: py(0), y2: py(0) }));
  if (needed) {
    chart.append(
      draw("line", { class: "needed", x1: LEFT, x2: width - RIGHT, y1: py(cut(needed)), y2: py(cut(needed)) }),
    );
  }
  chart.append(
    draw("path", { class: look(0), d: path(points.map(([n, mean]) => [n, cut(mean)]), px, py) }),
  );
  const [n, mean, low, high] = points.at(-1);
  chart.append(
    draw("line", { class: look(0), x1: px(n), x2: px(n), y1: py(cut(low)), y2: py(cut(high)) }),
    draw("circle", { class: look(0), cx: px(n), cy: py(cut(mean)), r: 3.5 }),
  );
  return chart;
}

/** The room that a chart has in a place. */
export const room = (place) => Math.max(260, Math.floor(place.clientWidth));

/** A caption above a chart. */
export const caption = (text) => el("h3", null, text);
