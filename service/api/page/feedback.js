// Tell the service the true class of an image that it has just answered.

import { announce, h } from "./dom.js";
import { t } from "./strings.js";
import * as api from "./api.js";

const MOST_SHOWN = 8;

export function feedbackPanel(answer, labelsOf) {
  const top = answer.predictions?.[0];
  const result = h("p", { class: "feedback-result", tabindex: "-1" });
  const matches = h("ul", { class: "matches" });
  const count = h("p", { class: "quiet", role: "status" });
  const search = h("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: find });
  const form = h("div", { class: "search", hidden: Boolean(top) }, h("label", { class: "stacked" }, h("span", {}, t.search), search), count, matches);
  const other = h("button", { type: "button", class: "button", "aria-expanded": "false", onclick: open }, t.no);
  const buttons = top && h("div", { class: "buttons" }, h("button", { type: "button", class: "button", onclick: () => send(top.class_id, top.label, true) }, t.yes(top.label)), other);
  const panel = h("div", { class: "feedback" }, h("p", {}, top ? t.feedbackText : t.feedbackRejected), buttons, form, result);

  function open() {
    form.hidden = !form.hidden;
    other.setAttribute("aria-expanded", String(!form.hidden));
    if (!form.hidden) search.focus();
  }

  async function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const labels = words.length ? await labelsOf(answer.model).catch(() => []) : [];
    const found = labels
      .map((label, id) => ({ label, id }))
      .filter(({ label, id }) => words.every((word) => label.toLowerCase().includes(word) || String(id) === word))
      .sort((a, b) => a.label.length - b.label.length);
    count.textContent = words.length ? t.found(found.length) : "";
    matches.replaceChildren(
      ...found.slice(0, MOST_SHOWN).map(({ label, id }) => h("li", {}, h("button", { type: "button", class: "match", onclick: () => send(id, label, false) }, label, " ", h("span", { class: "id" }, `${id}`)))),
    );
  }

  async function send(classId, label, right) {
    let words;
    let done = false;
    try {
      await api.post("feedback", JSON.stringify({ request_id: answer.request_id, class_id: classId }), { "Content-Type": "application/json" });
      words = right ? t.thanksRight : t.thanksWrong(label);
      buttons?.remove();
      form.remove();
      done = true;
    } catch (problem) {
      words = problem.code === "not-found" ? t.forgotten : `${t.feedbackFailed} ${(t.problems[problem.code] ?? t.problems.other)[0]}.`;
    }
    result.textContent = words;
    if (done) result.focus(); // the button that had the focus is gone
    else announce(words);
  }

  return panel;
}
