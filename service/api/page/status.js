// The strip at the top: the model, whether it is ready, and whether its images have changed.

import { $, h } from "./dom.js";
import { number, t } from "./strings.js";
import * as api from "./api.js";

const READY_EVERY_MS = 10_000;
const DRIFT_EVERY_MS = 60_000;

let models = [];
let chosen = null; // null: the default model
const details = new Map(); // by digest

export const pathPrefix = () => (chosen ? `models/${encodeURIComponent(chosen.name)}/versions/${encodeURIComponent(chosen.version)}/` : "");

export function detailsOf(model) {
  if (!details.has(model.digest)) {
    const found = api.get(`models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}`);
    found.catch(() => details.delete(model.digest));
    details.set(model.digest, found);
  }
  return details.get(model.digest);
}

export const labelsOf = async (model) => (await detailsOf(model)).labels;

const current = () => chosen ?? models.find((one) => one.is_default) ?? models[0];

function modelField() {
  if (models.length < 2) {
    const model = current();
    return h("span", { class: "item" }, h("span", { class: "name" }, t.model), h("strong", {}, model.name), " ", h("span", { class: "quiet" }, t.version(model.version)));
  }
  const options = models.map((one, index) => h("option", { value: index, selected: one === current() }, `${one.name} ${one.version}${one.aliases.length ? ` (${one.aliases.join(", ")})` : ""}`));
  const select = h("select", { onchange: () => choose(models[Number(select.value)]) }, options);
  return h("label", { class: "item" }, h("span", { class: "name" }, t.model), select);
}

function choose(model) {
  chosen = model.is_default ? null : model;
  show();
}

const state = h("span", { class: "item state" });
const drift = h("a", { class: "item drift", href: "drift" });

async function show() {
  const model = current();
  if (!model) return;
  const engine = h("span", { class: "item wide" });
  const digest = h("span", { class: "item wide", title: model.digest }, h("span", { class: "name" }, t.digest), h("code", {}, model.digest.slice(0, 12)));
  $("status").replaceChildren(modelField(), digest, engine, drift, state);
  updateDrift();
  const found = await detailsOf(model).catch(() => null);
  if (found) engine.replaceChildren(h("span", { class: "name" }, t.engine), `${found.engine.name}, ${found.engine.precision}`);
}

function setState(kind, text) {
  state.className = `item state ${kind}`;
  state.replaceChildren(h("span", { class: "dot", "aria-hidden": "true" }), text);
  state.title = text;
}

const STATES = { draining: "draining", lost: "lost", unauthorized: "locked", forbidden: "locked" };

export async function updateReady() {
  try {
    await api.peek("readyz");
  } catch (problem) {
    return setState("bad", t.states[STATES[problem.code] ?? "unready"]);
  }
  setState("good", t.states.ready);
  if (models.length) return;
  try {
    await loadModels();
  } catch (problem) {
    if (problem.status === 401 || problem.status === 403) setState("bad", t.states.locked);
  }
}

async function updateDrift() {
  const model = current();
  if (!model) return;
  const path = `models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/drift`;
  drift.setAttribute("href", path);
  try {
    const report = await api.peek(path);
    drift.className = `item drift ${report.alarms.length ? "bad" : ""}`;
    drift.title = report.findings.map((finding) => finding.text).join("\n") || t.driftAfter(number(report.images));
    drift.replaceChildren(report.alarms.length ? t.driftCount(report.alarms.length) : t.driftNone);
  } catch {
    drift.replaceChildren();
  }
}

async function loadModels() {
  models = (await api.peek("models")).models; // asks for no key: no image was sent yet
  await show();
}

function every(milliseconds, work) {
  setInterval(() => document.visibilityState === "visible" && work(), milliseconds);
}

export async function startStatus() {
  $("status").replaceChildren(state);
  setState("busy", "…");
  await updateReady();
  every(READY_EVERY_MS, updateReady);
  every(DRIFT_EVERY_MS, updateDrift);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && updateReady());
}

export const connectionLost = () => setState("bad", t.states.lost);
