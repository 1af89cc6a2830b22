// What is listed: versions, quarantine, audit.

import { byId, el, empty, known, num, percent, refresh, table, tag, th, time, whole } from "./dom.js";

const SHORT = 8;
const LONG = 90;
let allVersions = false;

function stateOf(one, status) {
  if (one.version === status.champion) return tag("champion", "good");
  if (one.version === status.challenger) return tag("challenger", "warn");
  if (one.retired !== null) return tag(`retired: ${one.retired}`, "none");
  if (!one.servable) return tag("pruned", "none");
  if (status.versions.previous.at(-1) === one.version) return tag("champion before", "none");
  if (status.trial && !status.trial.over && status.trial.version === one.version) return tag("on trial", "warn");
  return "";
}

function versionRow(one, status) {
  const { rows, prequential, ...others } = one.metrics;
  const served = one.version === status.champion;
  const back = status.versions.previous.includes(one.version);
  const label = back ? "Roll back to" : "Promote";
  const act = served || !one.servable ? null : el(
    "button",
    { type: "button", class: "small", "data-act": back ? "back" : "promote", "data-version": one.version,
      "aria-label": `${label} version ${one.version}` },
    back ? "Roll back to…" : "Promote…",
  );
  const more = Object.entries(others).map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`);
  return el(
    "tr", { "data-key": one.version, "data-champion": served, "data-gone": !one.servable },
    el("th", { scope: "row", class: "num" }, String(one.version)),
    el("td", null, stateOf(one, status)),
    num(known(one.parent) ? String(one.parent) : "–"),
    num(one.last_offset ? `${whole(one.first_offset)} to ${whole(one.last_offset)}` : "–"),
    num(whole(rows)), num(percent(prequential)),
    el("td", { class: "text" }, more.join(", ") || one.note || "–"),
    el("td", { class: "time" }, time(one.time)),
    el("td", { class: "act" }, act),
  );
}

/** The versions, newest first, with what can be done with each. */
export function showVersions(status) {
  const { versions, champion, challenger, trial } = status;
  const brief = trial && [trial.version, trial.over];
  refresh(byId("versions"), [versions, champion, challenger, brief, allVersions], () => {
    const newest = versions.newest.slice(0, allVersions ? undefined : SHORT);
    const kept = versions.newest.filter((one) => newest.includes(one) || one.version === champion
      || one.version === versions.previous.at(-1));
    const heads = [th("Version", "num"), th("State"), th("Parent", "num"), th("New events", "num"), th("Rows", "num"),
      th("Right before learning", "num"), th("Other"), th("Made"), th("Decide", "num")];
    const listed = table("Versions of the model, newest first", heads,
      el("tbody", null, kept.map((one) => versionRow(one, status))));
    const more = el("div", { class: "more-rows" },
      el("span", null, `${whole(kept.length)} of ${whole(versions.total)} shown.`),
      versions.newest.length > SHORT
        ? el("button", { type: "button", class: "small", "data-act": "all" }, allVersions ? "Show fewer" : `Show ${versions.newest.length}`)
        : null);
    return [listed, more];
  });
}

/** Show few versions or all that are known here. */
export function toggleVersions(status) {
  allVersions = !allVersions;
  showVersions(status);
}

/** A list that shows its newest rows as they come, and older ones when asked. */
class Paged {
  constructor(id, numberOf, make, ask) {
    Object.assign(this, { place: byId(id), id, numberOf, make, ask, newest: [], older: null, note: "" });
    this.place.addEventListener("click", (event) => this.turn(event.target.closest("[data-act]")?.dataset.act));
  }

  async turn(act) {
    if (!act) return;
    this.note = "";
    const shown = this.older ?? this.newest.slice(0, SHORT);
    try {
      if (act === "newest") this.older = null;
      else if (shown.length) {
        const page = await this.ask(`${this.id}?before=${this.numberOf(shown.at(-1))}&limit=${SHORT}`);
        const found = page.rows ?? page.entries;
        if (found.length) this.older = found;
        else this.note = "There is nothing older.";
      }
    } catch (error) {
      this.note = error.message;
    }
    this.show(this.newest, this.above);
  }

  show(newest, above) {
    this.newest = newest;
    this.above = above;
    const list = this.older ?? newest.slice(0, SHORT);
    refresh(this.place, [list, above, this.older !== null, this.note], () => [
      this.make(list, above),
      el("div", { class: "more-rows" },
        newest.length >= SHORT || this.older
          ? el("button", { type: "button", class: "small", "data-act": "older" }, "Older") : null,
        this.older ? el("button", { type: "button", class: "small", "data-act": "newest" }, "Newest") : null,
        el("span", { role: "status" }, this.note)),
    ].flat());
  }
}

function quarantined(list, { counts, why }) {
  if (why) return [el("p", { class: "notice" }, why)];
  const reasons = Object.entries(counts);
  if (!reasons.length) return [empty("No row was refused.")];
  return [
    el("p", { class: "verdict" }, reasons.map(([reason, n]) => tag(`${reason} ${whole(n)}`, "none"))),
    table("Refused rows, newest first", [th("Event", "num"), th("Reason"), th("Source")],
      el("tbody", null, list.map((row) => el("tr", { "data-key": row.offset }, num(whole(row.offset)),
        el("td", null, row.reason), el("td", { class: "text" }, row.source ?? "–"))))),
  ];
}

function details(entry) {
  const { version, reason, ...others } = entry.details;
  const parts = Object.entries(others).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
  const text = [known(version) ? `version ${version}` : null, reason, ...parts].filter(Boolean).join(" · ");
  if (text.length <= LONG) return text;
  return el("details", null, el("summary", null, `${text.slice(0, LONG)}…`), text);
}

function audited(list, { problems, head, checked }) {
  const told = problems?.length
    ? [tag("broken", "bad"), el("span", null, problems[0])]
    : [tag("verified", "good"), el("span", null, "head ", el("code", null, (head ?? "").slice(0, 12))),
      checked ? el("span", null, "checked ", time(Math.floor(checked))) : null];
  return [
    el("p", { class: "verdict" }, told),
    list.length
      ? table("Decisions, newest first", [th("No.", "num"), th("Time"), th("Decision"), th("By"), th("About")],
        el("tbody", null, list.map((one) => el("tr", { "data-key": one.n }, num(whole(one.n)),
          el("td", { class: "time" }, time(one.time)), el("td", null, one.action),
          el("td", { class: "text" }, one.actor), el("td", { class: "text" }, details(one))))))
      : empty("No decision yet."),
  ];
}

/** Make the two lists; `ask` gets a path and returns what the service answers. */
export function makeLists(ask) {
  const quarantine = new Paged("quarantine", (row) => row.offset, quarantined, ask);
  const audit = new Paged("audit", (entry) => entry.n, audited, ask);
  return (status) => {
    const { newest, counts, why } = status.quarantine;
    quarantine.show(newest, { counts, why });
    const { tail, problems, head, checked } = status.audit;
    audit.show(tail, { problems, head, checked });
  };
}
