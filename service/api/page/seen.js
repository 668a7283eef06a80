// What the model saw, and which parts of it the answer rests on.

import { announce, h } from "./dom.js";
import { milliseconds, t } from "./strings.js";
import * as api from "./api.js";

const pathOf = (model, route) => `models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/${route}`;
const STRONG = 0.25; // log-odds: below it, no part matters

function paint(canvas, map) {
  const most = Math.max(STRONG, ...map.importance.flat().map(Math.abs));
  canvas.width = canvas.height = map.grid;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(map.grid, map.grid);
  map.importance.flat().forEach((fall, index) => {
    const [red, green, blue] = fall >= 0 ? [255, 106, 0] : [38, 110, 255];
    pixels.data.set([red, green, blue, Math.min(1, Math.abs(fall) / most) * 205], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
}

function inWords(map) {
  let best = [0, 0];
  map.importance.forEach((row, y) => row.forEach((fall, x) => (best = fall > map.importance[best[0]][best[1]] ? [y, x] : best)));
  if (map.importance[best[0]][best[1]] < STRONG) return t.mapFlat(map.label);
  const third = (index) => Math.min(2, Math.floor((3 * (index + 0.5)) / map.grid));
  return t.mapText(map.label, t.places[third(best[0])][third(best[1])]);
}

export function seenPanel(image, answer, labelsOf) {
  const picture = h("img", { class: "seen", alt: t.seenAlt, width: 224, height: 224 });
  const canvas = h("canvas", { class: "heat", role: "img", hidden: true });
  const frame = h("div", { class: "frame loading" }, picture, canvas);
  const text = h("p", {});
  const message = h("p", { class: "quiet", role: "status" });
  const classes = h("select", { id: `explain-${answer.request_id}` });
  const field = h("label", { class: "stacked" }, h("span", {}, t.explainFor), classes);
  const button = h("button", { type: "button", class: "button", onclick: explain }, t.explain);

  async function load() {
    try {
      const png = await api.postForBlob(pathOf(answer.model, "preprocess"), image);
      picture.src = URL.createObjectURL(png);
      await picture.decode();
      URL.revokeObjectURL(picture.src);
      text.textContent = t.seenText(picture.naturalWidth, picture.naturalHeight);
    } catch (problem) {
      text.replaceChildren(t.seenFailed, " ", h("button", { type: "button", class: "button small", onclick: load }, t.retry));
    }
    frame.classList.remove("loading");
  }

  async function explain() {
    if (!canvas.hidden) {
      hide();
      message.textContent = "";
      button.textContent = t.explainAgain;
      return;
    }
    button.disabled = true;
    frame.classList.add("loading");
    message.textContent = t.explaining(50);
    const started = performance.now();
    try {
      const map = await api.post(`${pathOf(answer.model, "explain")}?class_id=${classes.value}`, image, { Accept: "application/json" });
      paint(canvas, map);
      canvas.hidden = false;
      frame.classList.add("mapped");
      const words = inWords(map);
      canvas.setAttribute("aria-label", words);
      message.textContent = `${words} ${t.mapRuns(map.runs, milliseconds(performance.now() - started))}.`;
      button.textContent = t.hideMap;
    } catch (problem) {
      const [title, advice] = t.problems[problem.code] ?? t.problems.other;
      message.textContent = `${title}. ${advice}`;
      announce(title);
    }
    frame.classList.remove("loading");
    button.disabled = false;
  }

  async function offerClasses() {
    let choices = answer.predictions ?? [];
    if (!choices.length) {
      const labels = await labelsOf(answer.model).catch(() => []);
      const id = answer.ood.mahalanobis.nearest_class;
      choices = [{ class_id: id, label: labels[id] ?? String(id) }];
    }
    classes.append(...choices.map((one) => h("option", { value: one.class_id }, `${one.label} (${one.class_id})`)));
  }

  function hide() {
    canvas.hidden = true;
    frame.classList.remove("mapped");
  }

  classes.addEventListener("change", () => {
    hide();
    button.textContent = t.explain;
  });
  load();
  offerClasses();
  return h("div", { class: "seen-panel" }, frame, h("div", { class: "seen-text" }, text, h("div", { class: "explain" }, field, button), message));
}
