// Asks the service for its status about once a second, and shows it.

import { askKey, closeKey, decide, heldKey, onKey } from "./dialogs.js";
import { byId, el, refresh, say, spanned, timeOf } from "./dom.js";
import { showAnchors, showEvents, showMatrix, showNow, showTrial } from "./figures.js";
import { makeLists, showVersions, toggleVersions } from "./lists.js";

const EVERY = 1000;
const HIDDEN = 10_000;
const PATIENCE = 5000;

class Refusal extends Error {
  constructor(status, message, wait) {
    super(message);
    Object.assign(this, { status, wait });
  }
}

async function ask(path, body) {
  const headers = {};
  const key = heldKey();
  if (key !== null) headers["X-API-Key"] = key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body),
      cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(body === undefined ? PATIENCE : 60_000),
    });
  } catch {
    throw new Refusal(0, "The api does not answer. Nothing is known to have changed; try again.");
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  const told = content?.error;
  const message = told ? `${told.what}; ${told.how}.` : `The api answered ${response.status} without saying why.`;
  throw new Refusal(response.status, message, Number(response.headers.get("Retry-After")) || 0);
}

let status = null;
let lost = null;
let refused = null;
let timer = 0;
let poll = 0;

function schedule(wait) {
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

async function look() {
  poll += 1;
  const mine = poll;
  let wait = document.hidden ? HIDDEN : EVERY;
  try {
    const found = await ask("status");
    if (mine !== poll) return;
    status = found;
    lost = refused = null;
    closeKey();
  } catch (error) {
    if (mine !== poll) return;
    wait = Math.max(wait, 1000 * (error.wait ?? 0));
    if (error.status === 401 || error.status === 403) deny(error);
    else {
      refused = null;
      lost ??= { since: Date.now() / 1000 };
      lost.why = error.status ? error.message : "";
    }
  }
  show();
  if (refused === null) schedule(wait);
}

/** The key does not do, or there is none: ask for another, and wait for that. */
function deny(error) {
  refused = error;
  lost = null;
  const needsKey = error.status === 401 || heldKey() !== null;
  if (needsKey) askKey(heldKey() === null ? "" : error.message, true);
  else schedule(HIDDEN);
}

function again() {
  refused = null;
  look();
}

function pill(id, state, text) {
  byId(id).dataset.state = state;
  say(byId(id).querySelector(".says"), text);
}

const TRAINER = {
  alive: ["good", "learning"], silent: ["warn", "silent"], dead: ["bad", "not running"], unknown: ["warn", "not known"],
};

function showStates() {
  const trainer = status?.trainer;
  if (refused) pill("pill-api", "warn", refused.status === 401 ? "Api: wants a key" : "Api: refuses");
  else if (lost) pill("pill-api", "bad", "Api: not answering");
  else pill("pill-api", "good", "Api: answering");
  if (!trainer || lost || refused) {
    pill("pill-trainer", "wait", "Trainer: not known");
    pill("pill-audit", "wait", "Audit: not known");
  } else {
    const [state, text] = TRAINER[trainer.state] ?? TRAINER.unknown;
    pill("pill-trainer", state, `Trainer: ${text}`);
    const broken = status.audit.problems?.length;
    pill("pill-audit", broken ? "bad" : "good", broken ? "Audit: broken" : "Audit: verified");
  }
  say(byId("caller"), status?.caller && !refused ? status.caller : "");
  byId("caller").title = status?.caller ?? "";
}

function notices() {
  const found = [];
  if (refused) found.push(["bad", refused.message]);
  if (lost) {
    const last = status ? ` What is shown is from ${timeOf(status.time)}.` : "";
    found.push(["bad", `The api does not answer since ${timeOf(lost.since)}.${last} ${lost.why}`.trim()]);
  }
  if (!status || lost || refused) return found;
  const { trainer, audit, guardrail } = status;
  if (trainer.state === "dead") {
    found.push(["bad", "The trainer is not running. Predictions are answered and events are kept; they are learned when it is back."]);
  } else if (trainer.state === "silent") {
    found.push(["warn", `The trainer runs, but has said nothing for ${spanned(Math.floor(trainer.age))}.`]);
  } else if (trainer.why) found.push(["warn", `Nothing is known of the trainer: ${trainer.why}.`]);
  for (const problem of (audit.problems ?? []).slice(0, 3)) found.push(["bad", `The audit does not verify: ${problem}`]);
  if (guardrail && guardrail.breached_at !== null) found.push(["bad", `The champion breached its guardrail: ${guardrail.reason}.`]);
  return found;
}

let before = null;

/** Say aloud what has changed, and nothing else. */
function announce() {
  const now = {
    api: refused ? "The api refuses the key" : lost ? "The api does not answer" : "The api answers",
    trainer: status && !lost && !refused ? `Trainer ${(TRAINER[status.trainer.state] ?? TRAINER.unknown)[1]}` : before?.trainer,
    champion: status ? `Version ${status.champion} is served` : undefined,
    audit: status ? (status.audit.problems?.length ? "The audit does not verify" : "The audit verifies") : undefined,
  };
  const changed = before === null ? [] : Object.keys(now).filter((name) => now[name] && before[name] && now[name] !== before[name]);
  if (changed.length) say(byId("news"), `${changed.map((name) => now[name]).join(". ")}.`);
  before = now;
}

const showLists = makeLists(ask);

function show() {
  showStates();
  refresh(byId("notices"), notices(), (all) => all.map(([level, text]) => el("p", { class: "notice", "data-level": level }, text)));
  announce();
  byId("roll-back").disabled = status === null || Boolean(refused);
  if (status === null || lost || refused) return;
  showNow(status);
  showAnchors(status.anchors);
  showMatrix(status.matrix, status.anchors?.kind ?? "period");
  showTrial(status.trial, status.guardrail);
  showEvents(status.events);
  showVersions(status);
  showLists(status);
}

function promote(version) {
  const one = status.versions.newest.find((made) => made.version === version);
  decide({
    title: `Promote version ${version}`,
    about: `It has seen the events up to ${one.last_offset} and is served at once, in place of version ${status.champion}.`,
    button: "Promote", targets: null,
    act: async (reason, _to, _discard, id) => {
      await ask("promote", { version, reason, id });
      look();
    },
  });
}

function rollBack(chosen) {
  const { previous, newest } = status.versions;
  const gone = new Set(newest.filter((one) => !one.servable).map((one) => one.version));
  const targets = previous.filter((version) => !gone.has(version)).reverse().map((version) => [version, `version ${version}`]);
  targets.unshift([null, previous.length ? `the one before (version ${previous.at(-1)})` : "the one before"]);
  decide({
    title: "Roll back",
    about: `An earlier version is served at once, in place of version ${status.champion}.`,
    button: "Roll back", targets, chosen,
    act: async (reason, to, discard, id) => {
      await ask("rollback", { reason, to, discard, id });
      look();
    },
  });
}

byId("versions").addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button || !status) return;
  const version = Number(button.dataset.version);
  if (button.dataset.act === "promote") promote(version);
  else if (button.dataset.act === "back") rollBack(version);
  else toggleVersions(status);
});
byId("roll-back").addEventListener("click", () => rollBack(null));
byId("change-key").addEventListener("click", () => askKey(refused?.status === 403 ? refused.message : ""));
onKey(again);
document.addEventListener("visibilitychange", () => !document.hidden && !refused && look());
look();
