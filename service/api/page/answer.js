// One image's answer, or its problem, in words.

import { copyButton, h, icon } from "./dom.js";
import { codePanel } from "./code.js";
import { feedbackPanel } from "./feedback.js";
import { gatePanel } from "./gate.js";
import { seenPanel } from "./seen.js";
import { labelsOf } from "./status.js";
import { percent, share, t } from "./strings.js";
import { timingPanel } from "./timing.js";

const card = (title, ...children) => h("section", { class: "card" }, h("h3", {}, title), ...children);

export function emptyState() {
  const kinds = ["accept", "review", "reject"];
  return h("ul", { class: "decisions" }, kinds.map((kind) => h("li", { class: `decision-card ${kind}` }, h("span", { class: `badge ${kind}` }, icon(kind)), h("div", {}, h("h3", {}, t.cards[kind][0]), h("p", {}, t.cards[kind][1])))));
}

// Returns an element and a function that shows how far the image is.
export function busyState(cancel) {
  const text = h("span", {});
  const bar = h("progress", { max: 1 });
  const element = h(
    "div",
    { class: "card busy", "aria-busy": "true" },
    h("p", { class: "busy-text" }, h("span", { class: "spinner", "aria-hidden": "true" }), text),
    bar,
    h("div", { class: "skeleton", "aria-hidden": "true" }, h("span", {}), h("span", {}), h("span", {})),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "button small", onclick: cancel }, t.cancel)),
  );
  function update(entry) {
    const sending = entry.state === "busy" && entry.progress < 1;
    text.textContent = entry.state === "waiting" ? t.queued : sending ? t.sending(percent(entry.progress)) : t.computing;
    if (sending) bar.value = entry.progress;
    else bar.removeAttribute("value");
    bar.setAttribute("aria-label", text.textContent);
  }
  return { element, update };
}

// The same image would have the same problem again.
const OF_THE_IMAGE = new Set(["undecodable-image", "unsupported-image-type", "image-too-large", "upload-too-large"]);

export const problemWords = (problem) => t.problems[problem.code] ?? t.problems.other;

export function problemState(problem, retry) {
  const [title, advice] = problemWords(problem);
  const said = problem.message ? h("p", { class: "quiet said" }, `${t.serverSays} `, h("q", { lang: "en" }, problem.message)) : null;
  const wait = problem.retryAfter ? h("p", {}, t.retryAfter(problem.retryAfter)) : null;
  return h(
    "div",
    { class: "card problem" },
    h("div", { class: "verdict" }, h("span", { class: "badge error" }, icon("error")), h("div", {}, h("h3", { class: "verdict-word" }, title), h("p", {}, advice))),
    said,
    wait,
    problem.requestId ? requestLine(problem.requestId) : null,
    OF_THE_IMAGE.has(problem.code) ? null : h("div", { class: "buttons" }, h("button", { type: "button", class: "button primary", onclick: retry }, t.retry)),
  );
}

const requestLine = (id) => h("p", { class: "request quiet" }, `${t.requestId} `, h("code", {}, id), " ", copyButton(() => id, t.copy, t.copied));

function verdict(answer, decision) {
  const { ood } = answer;
  const top = answer.predictions?.[0];
  const heading = decision === "reject" ? t.unlike : (top?.label ?? t.noClasses);
  return h(
    "div",
    { class: `card verdict-card ${decision}` },
    h(
      "div",
      { class: "verdict" },
      h("span", { class: `badge ${decision}` }, icon(decision)),
      h("div", {}, h("p", { class: "verdict-word" }, t.decisions[decision]), h("p", { class: "verdict-label" }, heading, top && decision !== "reject" ? h("span", { class: "verdict-probability" }, ` ${percent(top.probability)}`) : null), h("p", { class: "verdict-why" }, t.why[decision](share(ood.p_value)), answer.predictions ? null : ` ${t.withheld}`)),
    ),
  );
}

function classesCard(answer, decision, least) {
  if (!answer.predictions) return null;
  const rows = answer.predictions.map((one) =>
    h("tr", {}, h("th", { scope: "row" }, one.label, " ", h("span", { class: "id" }, String(one.class_id))), h("td", { class: "track", "aria-hidden": "true" }, h("span", { class: "lane" }, h("span", { class: "span inside", style: { left: "0", width: `${Math.max(0.4, 100 * one.probability)}%` } }))), h("td", { class: "ms" }, percent(one.probability))),
  );
  const body = rows.length ? h("table", { class: "classes" }, h("tbody", {}, rows)) : h("p", {}, t.noClassAbove(percent(least)));
  return card(t.classes, decision === "reject" ? h("p", { class: "warning" }, t.flagged) : null, body);
}

function gateCard(answer) {
  const body = h("div", { class: "gate loading" });
  gatePanel(answer, labelsOf)
    .then((panel) => body.replaceChildren(...panel))
    .catch((problem) => body.replaceChildren(h("p", { class: "quiet" }, (t.problems[problem.code] ?? t.problems.other)[0])))
    .finally(() => body.classList.remove("loading"));
  return card(t.unusual, body);
}

export const decisionOf = (answer) => answer.decision ?? "reject";

export function answerState(entry) {
  const { answer, seen, used } = entry;
  const decision = decisionOf(answer);
  const json = JSON.stringify(answer, null, 2);
  const cards = [
    verdict(answer, decision),
    classesCard(answer, decision, used.least),
    gateCard(answer),
    card(t.seen, seenPanel(entry.file, answer, labelsOf)),
    card(t.timing, timingPanel(answer, seen)),
    card(t.feedback, feedbackPanel(answer, labelsOf)),
    card(t.code, codePanel({ ...used, file: entry.file.name, model: answer.model })),
    h("details", { class: "card json" }, h("summary", {}, t.json), h("div", { class: "buttons" }, copyButton(() => json, t.copy, t.copied)), h("pre", { class: "code", tabindex: "0" }, h("code", {}, json))),
    requestLine(answer.request_id),
  ];
  return cards.filter(Boolean);
}
