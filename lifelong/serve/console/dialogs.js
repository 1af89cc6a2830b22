// Asking: for an API key, and for the reason of a decision.

import { byId, el, say } from "./dom.js";

const KEY = "lifelong.key";

/** The key is kept in this tab alone, and only until it is closed. */
export const heldKey = () => sessionStorage.getItem(KEY);
export const dropKey = () => sessionStorage.removeItem(KEY);

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
}

const asking = byId("ask-key");

let forced = false;

/** Ask for a key; `message` says what was wrong with the last one, `must` that nothing goes without. */
export function askKey(message = "", must = false) {
  forced = must;
  say(asking.querySelector(".error"), message);
  byId("forget-key").hidden = heldKey() === null;
  if (asking.open) return;
  byId("ask-input").value = "";
  asking.showModal();
  byId("ask-input").focus();
}

/** Call `changed` when another key is to be used, or none. */
export function onKey(changed) {
  asking.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = byId("ask-input").value.trim();
    if (!key || /[^\x21-\x7e]/.test(key)) {
      say(asking.querySelector(".error"), key ? "A key holds no spaces and no other characters than those of ASCII." : "Type a key.");
      byId("ask-input").focus();
      return;
    }
    sessionStorage.setItem(KEY, key);
    byId("ask-input").value = "";
    asking.close();
    changed();
  });
  byId("forget-key").addEventListener("click", () => {
    dropKey();
    asking.close();
    changed();
  });
}

/** The service lets us in: whoever did not open the dialog by hand needs it no more. */
export function closeKey() {
  if (forced && asking.open) asking.close();
  forced = false;
}

const deciding = byId("decide");
let decision = null;

/**
 * Ask for a reason, then do it.
 * what: {title, about, button, targets: [[version or null, text]] or null, chosen, act(reason, to, discard, id)}
 */
export function decide(what) {
  // One id for all tries from this dialog: a decision that was taken is not taken twice.
  decision = { ...what, id: `console-${randomId()}`, busy: false };
  say(byId("decide-title"), what.title);
  say(byId("decide-about"), what.about);
  const button = deciding.querySelector("button.main");
  say(button, what.button);
  button.disabled = false;
  byId("decide-target").hidden = what.targets === null;
  byId("decide-discard").hidden = what.targets === null;
  byId("decide-to").replaceChildren(...(what.targets ?? []).map(([version, text]) =>
    el("option", { value: version ?? "", selected: version === what.chosen }, text)));
  byId("decide-reason").value = "";
  byId("decide-back").checked = false;
  say(deciding.querySelector(".error"), "");
  deciding.showModal();
  (what.targets === null ? byId("decide-reason") : byId("decide-to")).focus();
}

deciding.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = decision;
  if (mine.busy) return;
  const reason = byId("decide-reason").value.trim();
  const error = deciding.querySelector(".error");
  say(error, "");
  if (!reason) {
    say(error, "Give a reason: it is what others will find later.");
    byId("decide-reason").focus();
    return;
  }
  const button = deciding.querySelector("button.main");
  mine.busy = true;
  button.setAttribute("aria-busy", "true");
  say(button, "Working…");
  try {
    const to = byId("decide-to").value;
    await mine.act(reason, to === "" ? null : Number(to), byId("decide-back").checked, mine.id);
    if (decision === mine) deciding.close();
  } catch (failure) {
    say(error, failure.message);
  } finally {
    mine.busy = false;
    button.removeAttribute("aria-busy");
    if (decision === mine) say(button, mine.button);
  }
});

function randomId() {
  // randomUUID is only there over HTTPS and on this machine.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
