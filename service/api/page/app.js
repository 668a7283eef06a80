// The page: takes images, sends them two at a time, and shows the answer of the chosen one.

import { $, announce, h, icon } from "./dom.js";
import { answerState, busyState, decisionOf, emptyState, problemState, problemWords } from "./answer.js";
import { startCamera } from "./camera.js";
import { askForKey } from "./key.js";
import { connectionLost, pathPrefix, startStatus, updateReady } from "./status.js";
import { t, translate } from "./strings.js";
import * as api from "./api.js";

const AT_ONCE = 2;
const MOST_IMAGES = 24;

const entries = []; // {file, preview, state: waiting | busy | done | failed, …}
let shown = null;

const note = (text) => ($("note").textContent = text);

function take(files) {
  const images = files.filter((file) => file.size || file.name);
  const room = MOST_IMAGES - entries.length;
  note(images.length === 0 ? t.noImages : images.length > room ? t.tooMany(MOST_IMAGES) : "");
  const added = images.slice(0, room).map(makeEntry);
  entries.push(...added);
  if (added.length) show(added[0]);
  sendWaiting();
}

function makeEntry(file) {
  const preview = URL.createObjectURL(file);
  const picture = h("img", { src: preview, alt: "" });
  const badge = h("span", { class: "thumb-badge" });
  const button = h("button", { type: "button", class: "thumb", onclick: () => show(entry), "aria-label": t.open(file.name) }, picture, badge);
  const item = h("li", {}, button);
  const entry = { file, preview, item, button, badge, state: "waiting", progress: 0 };
  picture.addEventListener("error", () => button.classList.add("no-preview"));
  $("images").append(item);
  return entry;
}

function sendWaiting() {
  const busy = entries.filter((entry) => entry.state === "busy").length;
  for (const entry of entries.filter((one) => one.state === "waiting").slice(0, Math.max(0, AT_ONCE - busy))) send(entry);
}

function request() {
  const query = new URLSearchParams();
  const [topK, least, deadline] = [Number($("top-k").value) || 5, Number($("least").value) / 100 || 0, $("deadline").value];
  if (topK !== 5) query.set("top_k", topK);
  if (least > 0) query.set("min_probability", Number(least.toFixed(6)));
  const headers = deadline ? { "X-Request-Timeout-Ms": deadline } : {};
  const path = `${pathPrefix()}classify${query.size ? `?${query}` : ""}`;
  return { path, headers, topK, least };
}

async function send(entry) {
  const used = request();
  Object.assign(entry, { state: "busy", progress: 0, used, abort: new AbortController(), problem: null, done: null });
  render(entry);
  try {
    entry.seen = await api.classify(used.path, entry.file, used.headers, (part) => update(entry, part), entry.abort.signal);
    entry.answer = entry.seen.body;
    entry.state = "done";
    announce(t.spoken(entry.file.name, t.decisions[decisionOf(entry.answer)], entry.answer.predictions?.[0]?.label));
  } catch (problem) {
    if (!entries.includes(entry)) return; // it was removed
    if (!(problem instanceof api.Problem)) throw problem;
    entry.problem = problem;
    entry.state = "failed";
    if (problem.code === "lost") connectionLost();
    announce(t.spokenError(entry.file.name, problemWords(problem)[0]));
  }
  render(entry);
  sendWaiting();
}

function update(entry, part) {
  entry.progress = part;
  entry.busy?.update(entry);
}

function remove(entry) {
  const index = entries.indexOf(entry);
  entries.splice(index, 1);
  entry.abort?.abort();
  entry.item.remove();
  URL.revokeObjectURL(entry.preview);
  show(entries[Math.min(index, entries.length - 1)] ?? null);
  (shown?.button ?? $("choose")).focus(); // what had the focus is gone
  sendWaiting();
}

function retry(entry) {
  $("result").focus();
  send(entry);
}

function show(entry) {
  shown = entry;
  for (const one of entries) one.button.setAttribute("aria-current", String(one === entry));
  $("images").hidden = entries.length === 0;
  document.body.classList.toggle("has-images", entries.length > 0);
  renderShown();
}

function render(entry) {
  const kind = { waiting: "waiting", busy: "busy", failed: "error" }[entry.state] ?? decisionOf(entry.answer);
  entry.badge.className = `thumb-badge badge ${kind}`;
  entry.badge.replaceChildren(icon(kind));
  if (entry === shown) renderShown();
}

function renderShown() {
  const [entry, place] = [shown, $("answer")];
  if (!entry) return place.replaceChildren(emptyState());
  const picture = h("img", { class: "preview", src: entry.preview, alt: entry.file.name });
  picture.addEventListener("error", () => picture.replaceWith(h("div", { class: "preview no-preview", role: "img", "aria-label": entry.file.name }, entry.file.name)));
  const head = h("div", { class: "chosen" }, picture, h("div", { class: "chosen-line" }, h("span", { class: "file-name" }, entry.file.name), h("button", { type: "button", class: "button small", onclick: () => remove(entry) }, t.remove)));
  place.replaceChildren(h("div", { class: "answer-grid" }, head, h("div", { class: "cards" }, bodyOf(entry))));
}

function bodyOf(entry) {
  if (entry.state === "failed") return problemState(entry.problem, () => retry(entry));
  if (entry.state === "done") return (entry.done ??= answerState(entry));
  entry.busy = busyState(() => remove(entry));
  entry.busy.update(entry);
  return entry.busy.element;
}

function acceptDrops() {
  const drop = $("drop");
  let depth = 0;
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  const over = (change) => {
    depth += change;
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", (event) => isFiles(event) && over(1));
  addEventListener("dragleave", (event) => isFiles(event) && over(-1));
  addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    over(-depth);
    take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
    else if (!event.target.closest?.("input, textarea")) note(t.noImages);
  });
  drop.addEventListener("click", (event) => event.target === drop && $("file").click());
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
}

translate();
api.onKeyNeeded(async (wasRefused) => {
  const key = await askForKey(wasRefused);
  setTimeout(updateReady); // once the key is in use
  return key;
});
acceptDrops();
startCamera(take);
show(null);
startStatus();
