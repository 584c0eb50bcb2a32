// Live updates of the board. The page is complete without this script, which keeps it current.
// All HTML that the script inserts comes from the service, which has escaped all text in it.
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const main = $("main");
const [form, path, view] = [$("#filter"), location.pathname, main.dataset.view];
const rows = new Map(all("tr[data-task]").map((row) => [row.dataset.task, row]));
const visible = () => all("tr[data-task]").filter((row) => !row.hidden);
const say = (text) => { if (text) $("#say").textContent = text; };

// Clocks. They show the service's time, and stop while the data is stale.
const QUIET_MS = 25000; // the service sends an event every 10 s
let [ahead, heard] = [main.dataset.now - Date.now(), Date.now()];
let [state, trouble] = ["off", false];

// The twin of span() in relative_time.py.
function span(ms, fine) {
  const s = Math.floor(Math.max(0, ms) / 1000);
  const [m, h] = [Math.floor(s / 60), Math.floor(s / 3600)];
  const two = (n) => String(n % 60).padStart(2, "0");
  if (s < 60) return fine ? `${s} s` : "<1 min";
  if (s < 300 && fine) return `${m} min ${two(s)} s`;
  if (s < 3600) return `${m} min`;
  return h < 48 ? `${h} h ${two(m)} min` : `${Math.floor(h / 24)} d`;
}

function tick() {
  const now = Date.now() + ahead;
  for (const time of all("time[data-t]")) {
    const left = "left" in time.dataset && Math.max(0, time.dataset.t - now);
    const text = left === false ? span(now - time.dataset.t) : span(left, true);
    if (time.textContent !== text) time.textContent = text;
    if (left !== false && time.parentNode.matches(".left")) time.parentNode.lastElementChild.value = left / 1000;
  }
}

function show(next) {
  const was = `The data is ${span(Date.now() - heard, true)} old.`;
  const why = next === "reconnecting" ? "Reconnecting" : trouble ? "The store is down" : "No connection";
  const text = next === "live" ? "Live" : `${why}. ${was}`;
  if ($("#link").textContent !== text) $("#link").textContent = text;
  if (next === state) return;
  if (state !== "off") say(text);
  state = $("#link").dataset.state = next;
  main.toggleAttribute("data-stale", next === "stale");
}

// With many claims the page has a part, which the service selects; with few it has all of them, and
// the script selects.
const isPart = () => view !== "" || $(".pages").childElementCount > 0;

// Filter, search and sort, kept in the URL in the server's format. The twin of BoardQuery in board_query.py.
function matches(row, q) {
  const { state, holder } = form.elements;
  const { kinds } = state.selectedOptions[0].dataset;
  if (kinds && !kinds.split(" ").includes(row.dataset.kind)) return false;
  if (state.value === "queue" && row.dataset.waiters === "0") return false;
  if (state.value === "repeat" && row.dataset.lapses < 3) return false;
  if (holder.value && holder.value !== row.dataset.holder) return false;
  return !q || all("[data-q]", row).some((part) => part.textContent.toLowerCase().includes(q));
}

function order({ dataset: { task, holder, first, due } }) {
  const by = { task: task.toLowerCase(), holder: holder.toLowerCase(), left: Number(due) };
  return by[form.elements.sort.value] ?? Number(first);
}

function arrange() {
  const q = form.elements.q.value.trim().toLowerCase();
  const part = isPart();
  let shown = 0;
  for (const body of all("tbody")) {
    let [before, ...list] = body.rows;
    let number = 0;
    list = list.map((row) => [order(row), row.dataset.task, row]);
    list.sort(([a, s], [b, t]) => (a < b ? -1 : a > b ? 1 : s < t ? -1 : 1));
    for (const [, , row] of list) {
      if (before.nextElementSibling !== row) before.after(row);
      before = row;
      row.hidden = !part && !matches(row, q);
      number += !row.hidden;
    }
    body.hidden = !number;
    if (!part) $(".number", body).textContent = number;
    shown += number;
  }
  $("#shown").textContent = `${shown} of ${rows.size} shown`;
  $("#shown").hidden = part;
  const some = rows.size > 0 || part;
  [$("table").hidden, $("#nothing").hidden] = [!shown, shown || !some];
  $("#tools").hidden = !($("#empty").hidden = some);
}

function look() {
  const words = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()));
  if (isPart()) return location.assign(words.size ? `${path}?${words}` : path);
  $(".clear").hidden = !words.size;
  for (const tile of all("a.tile")) {
    tile.ariaCurrent = tile.dataset.state === form.elements.state.value ? "true" : null;
  }
  history.replaceState(null, "", words.size ? `${path}?${words}` : path);
  arrange();
}

// Changes. A row keeps its element, its open details and the focus when it moves.
function element(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

function put(task, section, html) {
  const fresh = element(html);
  const row = rows.get(task) ?? fresh;
  for (const { name, value } of fresh.attributes) row.setAttribute(name, value);
  if (row.cells.length !== fresh.cells.length) { // the task was claimed, or is no longer held
    $("details", fresh).open = $("details", row).open;
    row.replaceChildren(...fresh.childNodes);
  } else [...row.cells].forEach((cell, i) => {
    const next = fresh.cells[i];
    if (cell.innerHTML === next.innerHTML) return;
    if ($("details[open]", cell)) $("details", next).open = true;
    cell.replaceChildren(...next.childNodes);
  });
  rows.set(task, row);
  const [{ holder }, { options }] = [row.dataset, form.elements.holder];
  if (holder && ![...options].some(({ value }) => value === holder)) options.add(new Option(holder, holder));
  const body = document.getElementById(section);
  if (row.parentNode !== body) body.append(row);
}

function reclock(task, due, beat) {
  const row = rows.get(task);
  if (!row) return;
  $("[data-beat]", row).dataset.t = beat;
  row.dataset.due = $("[data-left]", row).dataset.t = due;
  $("progress", row).max = Math.max(1, (due - beat) / 1000);
}

function keepingFocus(change) {
  const focused = document.activeElement;
  const row = focused.closest("tr[data-task]");
  const stops = () => [row, ...all("a, summary", row)];
  const place = row && stops().indexOf(focused);
  const next = row && visible()[visible().indexOf(row) + 1];
  change();
  if (!row || document.activeElement === focused) return;
  const stop = row.isConnected && !row.hidden ? stops()[place] ?? row : next;
  (stop?.isConnected ? stop : $("#claims")).focus({ preventScroll: true });
}

function happened(html) {
  const [item, list] = [element(html), $("#recent")];
  if (!$(`[data-event="${item.dataset.event}"]`, list)) list.prepend(item);
  if (list.children.length > 40) list.lastElementChild.remove();
  list.parentNode.hidden = false;
}

function summarise(counts) {
  for (const place of all("[data-count]")) {
    const value = String(counts[place.dataset.count]);
    if (place.textContent !== value) place.textContent = value;
    place.closest(".tile")?.classList.toggle("some", value !== "0");
  }
  const some = Number(counts.attention);
  document.title = document.title.replace(/^(\(\d+\) )?/, some ? `(${some}) ` : "");
  const icon = $("link[rel=icon]");
  icon.href = icon.dataset[some ? "alert" : "calm"];
}

function turn({ pages, numbers, beyond, hold }) {
  for (const nav of all("[data-pages]")) if (nav.innerHTML !== pages) nav.innerHTML = pages;
  for (const key in numbers) {
    $(`#${key} .number`).textContent = numbers[key];
    $(`#${key} .beyond`).textContent = beyond[key] ?? "";
  }
  if ($("#held-back").innerHTML !== hold) $("#held-back").innerHTML = hold;
}

function patch(data) {
  ahead = data.now - Date.now();
  keepingFocus(() => {
    for (const task of data.gone) rows.get(task)?.remove(), rows.delete(task);
    for (const row of data.rows) put(...row);
    for (const clock of data.clocks) reclock(...clock);
    turn(data);
    arrange();
  });
  data.lately.forEach(happened);
  summarise(data.counts);
  say(data.say);
  data.alerts.forEach(notify);
  tick();
}

// Events were missed: read the whole page again.
async function resync() {
  const answer = await fetch(view ? `${path}?${view}` : path, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = new Map(all("tr[data-task]", page).map((row) => [row.dataset.task, row]));
  const numbers = all(".number", page).map((one) => [one.closest("tbody").id, one.textContent]);
  const beyond = all(".beyond", page).map((one) => [one.closest("tbody").id, one.textContent]);
  const counts = all("[data-count]", page).map((one) => [one.dataset.count, one.textContent]);
  patch({
    now: $("main", page).dataset.now,
    gone: [...rows.keys()].filter((task) => !fresh.has(task)),
    rows: [...fresh].map(([task, row]) => [task, row.parentNode.id, row.outerHTML]),
    lately: all("#recent li", page).map((item) => item.outerHTML).reverse(),
    counts: Object.fromEntries(counts), clocks: [], say: "", alerts: [],
    pages: $("[data-pages]", page).innerHTML, numbers: Object.fromEntries(numbers),
    beyond: Object.fromEntries(beyond), hold: $("#held-back", page).innerHTML,
  });
}

let stream, last = main.dataset.after;

function connect() {
  stream?.close();
  const mine = stream = new EventSource(`${path}/stream?after=${encodeURIComponent(last)}&${view}`);
  let turn = Promise.resolve(); // a page that is being read must not overwrite events that came meanwhile
  const acts = { patch, resync, trouble() {}, tick({ now }) { ahead = now - Date.now(); } };
  const told = (name, event) => turn = turn.then(async () => {
    if (stream !== mine) return;
    try {
      await acts[name](JSON.parse(event.data));
      if (event.lastEventId) last = event.lastEventId;
      heard = name === "trouble" ? heard : Date.now();
      show((trouble = name === "trouble") ? "stale" : "live");
    } catch {
      stream = mine.close(); // later changes build on the one that failed
      setTimeout(connect, 3000);
    }
  });
  for (const name in acts) mine.addEventListener(name, (event) => told(name, event));
  mine.onerror = () => {
    if (state !== "stale") show("reconnecting");
    if (mine.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  };
}

setInterval(() => {
  if (state === "live" && Date.now() - heard > QUIET_MS) connect(); // a laptop that slept
  if (Date.now() - heard > QUIET_MS) show("stale");
  else if (state !== "off") show(state);
  if (state !== "stale" && !document.hidden) tick();
}, 1000);

// Notifications, if the viewer turned them on.
const [wanted, most] = [$("#notify-on"), $("#notify-queue")];
const may = () => window.Notification?.permission ?? "unsupported";

async function wish() {
  if (wanted.checked && may() === "default") await Notification.requestPermission();
  wanted.checked &&= may() === "granted";
  if (may() !== "granted") $("#notify-hint").textContent = `This browser shows no notifications (${may()}).`;
  $("#notify").classList.toggle("on", wanted.checked);
  localStorage.setItem("dibs.notify", wanted.checked ? most.value : "");
}

function notify({ type, title, text, task, waiting }) {
  if (!wanted.checked || (type === "queued" && waiting <= most.value)) return;
  const body = type === "queued" ? `${waiting} wait for it.` : text;
  try {
    const note = new Notification(title, { body, tag: `${path} ${type} ${task}` });
    note.onclick = () => { focus(); rows.get(task)?.focus(); note.close(); };
  } catch { /* some phones let only service workers notify */ }
}

// Forms of people's acts: each is a page of its own; the script opens it in a dialog.
async function ask(href, options) {
  const asking = $("#asking");
  const answer = await fetch(href, { redirect: "manual", ...options });
  if (answer.type === "opaqueredirect") return done(asking);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!$("#act", page)) throw new Error(answer.status); // an error page: the browser opens it
  asking.replaceChildren($("#act", page));
  if (!asking.open) asking.showModal();
  $("textarea", asking)?.focus();
}

function done(asking) {
  const [{ dataset }, told] = [$("form", asking), $("#did")];
  asking.close();
  say(told.textContent = dataset.done);
  told.hidden = false;
}

document.addEventListener("click", (event) => {
  const target = event.target.closest(".act, #asking .cancel, a.tile, .clear");
  if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (isPart() && target.matches("a.tile, .clear")) return; // the link itself
  event.preventDefault();
  if (target.matches(".act")) return ask(target.href).catch(() => { location = target.href; });
  if (target.matches(".cancel")) return $("#asking").close();
  if (target.matches(".clear")) for (const field of all("input, select", form)) field.value = "";
  else form.elements.state.value = target.ariaCurrent ? "" : target.dataset.state;
  look();
});
$("#asking").addEventListener("close", (event) => event.target.replaceChildren());
$("#asking").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = new URLSearchParams(new FormData(event.target));
  ask(event.target.action, { method: "POST", body }).catch(() => event.target.submit());
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  const at = document.activeElement;
  if (at.matches("input, select, textarea")) return event.key === "Escape" && at.blur();
  const list = visible();
  const place = list.indexOf(at.closest("tr[data-task]"));
  const go = (to) => list[Math.min(Math.max(to, 0), list.length - 1)]?.focus();
  if (event.key === "/") $("#q").focus();
  else if (event.key === "?") $("#help").showModal();
  else if (event.key === "j") go(place + 1);
  else if (event.key === "k") go(place < 0 ? 0 : place - 1);
  else if (event.key === "o" && place >= 0) $("a.name", list[place]).click();
  else if (event.key === "Enter" && at.matches("tr[data-task]")) $("details", at).open ^= true;
  else return;
  event.preventDefault();
});

$("#keys").addEventListener("click", () => $("#help").showModal());
$("#notify").addEventListener("change", wish);
form.addEventListener("input", () => { if (!isPart()) look(); });
// Enter in the search fires change and submit: if both navigated, the second would cancel the first.
form.addEventListener("change", ({ target }) => { if (isPart() && target.matches("select")) look(); });
form.addEventListener("submit", (event) => { event.preventDefault(); look(); });
document.documentElement.classList.add("live");
connect();
most.value = localStorage.getItem("dibs.notify") || 3;
wanted.checked = localStorage.getItem("dibs.notify") && may() === "granted";
$("#notify").classList.toggle("on", wanted.checked);
