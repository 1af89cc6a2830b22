// What is measured: the row of figures, the charts, the matrix, the trial.

import { caption, lead, lines, room, swatch } from "./charts.js";
import {
  byId, draw, el, empty, known, num, percent, points, rate, refresh, signed, span, spanned, table, tag, th, timeOf,
  whole,
} from "./dom.js";

const KINDS = ["prediction", "label", "example", "tick", "erasure", "decision"];
const NAMES = { prediction: "Predictions", label: "Labels", example: "Examples", tick: "Ticks",
  erasure: "Erasures", decision: "Decisions" };
const SIDES = { promote: "good", refuse: "bad", undecided: "warn", holds: "good", fails: "bad", open: "warn" };

function figure(name, value, unit, more) {
  return el(
    "div", null,
    el("dt", null, name),
    el("dd", { class: "value" }, value, unit && value !== "–" ? el("span", { class: "unit" }, ` ${unit}`) : null),
    el("dd", { class: "more" }, more),
  );
}

/** The row of figures at the top. */
export function showNow(status) {
  const { accuracy, anchors, delay, events, trainer } = status;
  const fast = events.per_second;
  const learned = (fast.label ?? 0) + (fast.example ?? 0);
  const recent = accuracy?.recent;
  const newest = status.versions.newest.find((one) => one.version === status.champion);
  const [half, unit] = span(delay?.p50);
  const waits = delay?.waiting ? `${whole(delay.waiting)} rows wait, the oldest ${spanned(delay.oldest)}` : "none waits";
  const data = [
    ["Serving", `version ${status.champion}`, "",
      newest ? `made at ${timeOf(newest.time)} · ${status.mode}` : status.mode],
    ["Right before learning", known(recent?.accuracy) ? (100 * recent.accuracy).toFixed(1) : "–", "%",
      recent?.rows ? `of the last ${whole(recent.rows)} rows` : "no labelled rows yet"],
    ["Forgotten, on average", known(anchors?.mean) ? (100 * anchors.mean).toFixed(1) : "–", "points",
      anchors?.groups.length ? `by the champion, over ${anchors.groups.length} ${anchors.kind}${anchors.groups.length === 1 ? "" : "s"}` : "no anchors yet"],
    ["Labelled rows", rate(learned), "/s", `predictions ${rate(fast.prediction ?? 0)} /s`],
    ["Label to served, median", half, unit, known(delay?.p99) ? `p99 ${spanned(delay.p99)} · ${waits}` : `none served yet · ${waits}`],
    ["Behind the log", whole(trainer.behind), trainer.behind === 1 ? "event" : "events",
      known(trainer.rows) ? `${whole(trainer.rows)} rows learned in ${whole(trainer.steps)} steps` : "the trainer has told nothing"],
  ];
  refresh(byId("figures"), data, (all) => all.map((one) => figure(...one)));
}

const named = (kind, group) => `${kind[0].toUpperCase()}${kind.slice(1)} ${group}`;

/** Accuracy and forgetting of the champion, over time and now. */
export function showAnchors(anchors) {
  const place = byId("anchors");
  refresh(place, [anchors, room(place)], () => {
    if (!anchors?.groups.length) return empty("No anchors yet: they come with the first labelled rows.");
    const { kind, groups, points: along } = anchors;
    const names = groups.map((one) => named(kind, one.group));
    const body = el("tbody", null, groups.map((one, i) => el(
      "tr", null, el("th", { scope: "row" }, swatch(i), names[i]), num(whole(one.rows)),
      num(percent(one.accuracy)), num(percent(one.best)), num(known(one.forgetting) ? (100 * one.forgetting).toFixed(1) : "–"),
    )));
    const heads = [th(named(kind, "").trim()), th("Anchors", "num"), th("Now", "num"), th("Best", "num"), th("Forgotten", "num")];
    const listed = table("The champion on the anchors of each", heads, body);
    if (!along.length) return [empty("The champion has not been measured yet."), listed];
    const of = (what) => groups.map((one, index) => ({
      index, points: along.map((point) => [point.time, point[what][one.group] ?? null]),
    }));
    const low = Math.min(...along.flatMap((point) => Object.values(point.accuracy)));
    const lost = Math.max(0.1, ...along.flatMap((point) => Object.values(point.forgetting)));
    const marks = along.flatMap((point, i) =>
      i && point.version !== along[i - 1].version ? [[point.time, `version ${point.version}`]] : []);
    const told = (what) => names.map((name, i) => `${name}: ${percent(groups[i][what])}`).join("; ");
    const common = { width: room(place), xText: timeOf, yText: (v) => `${Math.round(100 * v)} %`, marks };
    return [
      lines({ ...common, series: of("accuracy"), y: [Math.max(0, Math.floor((low - 0.02) * 10) / 10), 1],
        label: `Line chart of the champion's accuracy over time. Now: ${told("accuracy")}.` }),
      caption("Forgotten: the best since it was learned, less what is right now"),
      lines({ ...common, height: 110, series: of("forgetting"), y: [0, Math.ceil(lost * 10) / 10],
        label: `Line chart of forgetting over time. Now: ${told("forgetting")}.` }),
      listed,
    ];
  });
}

/** The matrix as a heat map whose cells hold their numbers. */
export function showMatrix(matrix, kind) {
  refresh(byId("matrix"), matrix, () => {
    if (!matrix?.rows.length) return empty("No period has ended yet; each adds a row.");
    const cell = (value) => known(value)
      ? el("td", { class: `h${Math.round(10 * value)}` }, value === 1 ? "100" : (100 * value).toFixed(1))
      : el("td", { class: "none" }, "–");
    const heads = [th(`After \\ ${kind}`), ...matrix.groups.map((group) => th(String(group)))];
    const body = el("tbody", null, matrix.rows.map((row) =>
      el("tr", null, el("th", { scope: "row" }, String(row.period)), matrix.groups.map((g) => cell(row.accuracy[g])))));
    const lost = matrix.groups.map((g) => matrix.forgetting[g]);
    if (lost.some(known)) {
      body.append(el("tr", { class: "foot" }, el("th", { scope: "row" }, "Forgotten"),
        lost.map((value) => el("td", { class: known(value) ? null : "none" }, points(value)))));
    }
    const place = table("Accuracy matrix in percent", heads, body);
    place.querySelector("table").className = "matrix";
    const mean = known(matrix.mean)
      ? `On average ${points(matrix.mean)} points are forgotten: the best before, less the last row.` : "";
    return [place, el("p", { class: "hint" }, mean)];
  });
}

/** Events per second, by kind. */
export function showEvents(events) {
  const place = byId("events");
  const kinds = KINDS.filter((kind) => events.totals[kind]);
  refresh(place, [events, room(place)], () => {
    if (!kinds.length) return empty("No events yet.");
    const body = el("tbody", null, kinds.map((kind) => el(
      "tr", null, el("th", { scope: "row" }, swatch(KINDS.indexOf(kind)), NAMES[kind] ?? kind),
      num(rate(events.per_second[kind] ?? 0)), num(whole(events.totals[kind])))));
    const listed = table("Events by kind", [th("Kind"), th("Per second", "num"), th("In the log", "num")], body);
    if (events.points.length < 2) return [empty("Rates are drawn after some seconds."), listed];
    const series = kinds.map((kind) => ({
      index: KINDS.indexOf(kind), points: events.points.map((point) => [-point.ago, point.per_second[kind] ?? 0]),
    }));
    const top = Math.max(1, ...series.flatMap((one) => one.points.map(([, y]) => y)));
    const told = kinds.map((kind) => `${NAMES[kind] ?? kind}: ${rate(events.per_second[kind] ?? 0)}`).join("; ");
    return [
      lines({ width: room(place), height: 150, series, y: [0, top * 1.05],
        label: `Line chart of events per second over the last five minutes. Over the last minute: ${told}.`,
        xText: (x) => (x > -0.5 ? "now" : `−${spanned(-x)}`), yText: (v) => String(Number(v.toFixed(2))) }),
      listed,
    ];
  });
}

function finding(one) {
  const isLead = known(one.mean);
  const [left, right] = isLead ? ["", ""] : [percent(one.champion), percent(one.candidate)];
  const change = isLead ? one.mean : known(one.drop) ? -one.drop : null;
  const ends = isLead ? [one.low, one.high] : [-one.high, -one.low];
  const between = change === null ? "–" : `${points(ends[0])} to ${points(ends[1])}`;
  return el("tr", null, el("th", { scope: "row" }, one.name), num(whole(one.rows)), num(left), num(right),
    num(points(change)), num(between), el("td", null, tag(one.state, SIDES[one.state] ?? "none")));
}

/** The candidate on trial, or the last one, and the guardrail of the champion. */
export function showTrial(trial, guardrail) {
  const place = byId("trial");
  refresh(place, [trial, guardrail, room(place)], () => [contest(trial, room(place)), guard(guardrail)].flat());
}

function contest(trial, width) {
  if (!trial) return [empty("No candidate yet: one is made when enough rows have been learned.")];
  const verdict = trial.report?.verdict ?? "undecided";
  const says = { promote: "passed the gate", refuse: "refused", undecided: trial.over ? "ended undecided" : "undecided" };
  const who = `Version ${trial.version} against champion ${trial.champion}`;
  const parts = [el("p", { class: "verdict" }, el("strong", null, who),
    tag(trial.over ? "over" : "on trial", "none"), tag(says[verdict] ?? verdict, SIDES[verdict] ?? "none"),
    el("span", null, trial.n ? `lead ${points(trial.mean)} points on ${whole(trial.n)} new rows, `
      + `${points(trial.low)} to ${points(trial.high)} at all times with probability ${(1 - trial.alpha).toFixed(2)}` : "no new rows yet"))];
  const findings = trial.report?.findings ?? [];
  if (trial.points.length) {
    const needed = findings.find((one) => known(one.needed))?.needed;
    parts.push(lead({ width, points: trial.points, needed, yText: (v) => signed(100 * v, 0),
      label: `Chart of the challenger's lead in points with its interval. After ${trial.n} rows: `
        + `${points(trial.mean)}, between ${points(trial.low)} and ${points(trial.high)}.` }));
  }
  if (findings.length) {
    const heads = [th("Condition"), th("Rows", "num"), th("Champion", "num"), th("Challenger", "num"), th("Change", "num"), th("Interval", "num"), th("State")];
    parts.push(table("Conditions of the gate", heads, el("tbody", null, findings.map(finding))));
    parts.push(el("ul", { class: "reasons", "aria-label": "Reasons" }, (trial.report.reasons ?? []).slice(0, 6).map((one) => el("li", null, one))));
  }
  return parts;
}

function guard(report) {
  if (!report) return [caption("Guardrail"), el("p", { class: "hint" }, "The champion is not watched: nothing was served before it that says how good it has to be.")];
  const share = Math.min(1, Math.log1p(report.capital) / Math.log1p(report.capital_needed));
  const width = 200;
  const bar = draw("svg", { class: "chart", viewBox: `0 0 ${width} 6`, "aria-hidden": "true", preserveAspectRatio: "none", height: 6 },
    draw("line", { class: "axis", x1: 0, x2: width, y1: 3, y2: 3, "stroke-width": 6 }),
    draw("line", { class: report.breached_at === null ? "s0" : "s1", x1: 0, x2: width * share, y1: 3, y2: 3, "stroke-width": 6 }));
  const facts = [
    ["State", tag(report.breached_at === null ? "holds" : "breached", report.breached_at === null ? "good" : "bad")],
    ["Right", `${percent(report.mean)} of ${whole(report.rows)} rows since it serves, ${percent(report.recent_mean)} of the last ${whole(report.recent_rows)}`],
    ["Must stay above", `${percent(report.reference - report.tolerance)}`],
    ["Evidence of a fall", `${report.capital.toPrecision(3)} of the ${whole(report.capital_needed)} that raise the alarm`],
  ];
  return [caption("Guardrail of the champion"),
    el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)])), bar];
}
