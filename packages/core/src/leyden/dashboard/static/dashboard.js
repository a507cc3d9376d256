// What the pages do without a reload: parts marked data-live follow the server's events, and keys move between rows.
// Everything works without it; no library, no state of its own but the choice of token colours.
"use strict";

const root = document.documentElement;
root.classList.add("scripted");

// Live: an event says that something happened, the page is fetched again, and the marked parts that differ are replaced.
const live = document.getElementById("live");
let events = null, fetching = false, again = false;

async function refresh() {
  if (fetching) { again = true; return; }
  fetching = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected || !answer.ok) { location.reload(); return; }
    replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } finally {
    fetching = false;
    if (again) { again = false; refresh(); }
  }
}

function replaceParts(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!next) { location.reload(); return; }
    if (next.tagName !== part.tagName) { location.reload(); return; }
    if (part.hasAttribute("data-still") || next.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const address = focused && focused.getAttribute("href");
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const checked = new Set([...part.querySelectorAll("input[type=checkbox]:checked")].map((one) => one.value));
    part.replaceChildren(...next.childNodes);
    part.querySelectorAll("details").forEach((one, place) => { one.open = Boolean(open[place]); });
    part.querySelectorAll("input[type=checkbox]").forEach((one) => { one.checked = checked.has(one.value); });
    if (next.hasAttribute("data-still")) part.setAttribute("data-still", "");
    if (address) part.querySelector(`a[href="${CSS.escape(address)}"]`)?.focus({ preventScroll: true });
    colour(chosen());
  }
}

function listen() {
  if (!live || !document.querySelector("[data-live]:not([data-still])")) return;
  events = new EventSource(live.dataset.events);
  events.onopen = () => { live.hidden = false; live.textContent = "live"; live.classList.remove("lost"); };
  events.onmessage = (event) => {
    if (event.data === live.dataset.pulse) return;
    live.dataset.pulse = event.data;
    refresh();
  };
  events.onerror = () => { live.textContent = "lost the server"; live.classList.add("lost"); };
}

// A hidden tab lets go of its connection: browsers grant only six to a server.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { events?.close(); events = null; } else if (!events) { listen(); refresh(); }
});
listen();

// Colours of tokens.
function chosen() { return sessionStorage.getItem("colour") || "advantage"; }
function colour(by) {
  root.dataset.colour = by;
  sessionStorage.setItem("colour", by);
  const button = document.querySelector(`#colour input[value="${by}"]`);
  if (button) button.checked = true;
}
colour(chosen());
document.addEventListener("change", (event) => {
  if (event.target.name === "colour") colour(event.target.value);
  if (event.target.hasAttribute("data-submit")) event.target.form.requestSubmit();
});

// Keys.
const dialog = document.getElementById("keys");
document.getElementById("help")?.addEventListener("click", () => dialog.showModal());
let pending = "";

function move(by) {
  const links = [...document.querySelectorAll("[data-row]")].map((row) => row.querySelector("a"));
  const place = links.findIndex((link) => link.closest("[data-row]").contains(document.activeElement));
  links[Math.min(Math.max(place < 0 && by < 0 ? 0 : place + by, 0), links.length - 1)]?.focus();
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  "/": () => document.querySelector("[data-filter], .filter input, .filter select")?.focus(),
  "[": () => document.querySelector("a[rel=prev]")?.click(),
  "]": () => document.querySelector("a[rel=next]")?.click(),
  "?": () => dialog.showModal(),
  c: () => {
    const all = [...document.querySelectorAll("#colour input")].map((one) => one.value);
    if (all.length) colour(all[(all.indexOf(chosen()) + 1) % all.length]);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.closest("input:not([type=checkbox], [type=radio]), select, textarea")) return;
  const go = pending === "g" ? document.querySelector(`[data-go="${CSS.escape(event.key)}"]`) : null;
  pending = event.key;
  const act = go ? () => go.click() : keys[event.key];
  if (act) { event.preventDefault(); act(); }
});
