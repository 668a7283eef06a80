// Where an image lies among the calibration images: histograms with the limits of the decisions.

import { h, s } from "./dom.js";
import { list, number, percent, scoreName, share, t } from "./strings.js";
import * as api from "./api.js";

const cache = new Map(); // by digest and class

export function calibrationOf(model, classId) {
  const key = `${model.digest}/${classId ?? ""}`;
  if (!cache.has(key)) {
    const path = `models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/calibration`;
    const found = api.get(classId === undefined ? path : `${path}?class_id=${classId}`);
    found.catch(() => cache.delete(key));
    cache.set(key, found);
  }
  return cache.get(key);
}

const place = (value, edges) => {
  const [first, last] = [edges[0], edges.at(-1)];
  return Math.min(99.5, Math.max(0.5, (100 * (value - first)) / (last - first)));
};

// `zones` are [from, to, class] in percent of the width.
function bars(counts, zones) {
  const most = Math.max(...counts);
  const width = 100 / counts.length;
  const columns = counts.map((count, index) => {
    const height = count ? Math.max(2, (96 * count) / most) : 0;
    return s("rect", { class: "bar", x: index * width + width * 0.08, y: 100 - height, width: width * 0.84, height });
  });
  const areas = zones.map(([from, to, kind]) => s("rect", { class: `zone ${kind}`, x: from, y: 0, width: Math.max(0, to - from), height: 100 }));
  return s("svg", { class: "bars", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, areas, columns);
}

function marker(at, text) {
  const side = at > 82 ? "end" : at < 18 ? "start" : "middle";
  return h("div", { class: `marker ${side}`, style: { left: `${at}%` } }, text ? h("span", {}, text) : null);
}

function combinedHistogram(calibration, ood) {
  const { combined } = calibration;
  const sum = -ood.decided_by.reduce((total, score) => total + Math.log(Math.max(score.p_value, 1e-300)), 0);
  const [review, reject] = [combined.review_above, combined.reject_above].map((limit) => place(limit, combined.edges));
  const zones = [[review, reject, "review"], [reject, 100, "reject"]];
  return h(
    "figure",
    { class: "histogram" },
    h("figcaption", {}, t.unusualText(number(combined.size))),
    h("div", { class: "plot", "aria-hidden": "true" }, bars(combined.counts, zones), marker(place(sum, combined.edges), t.thisImage)),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", {}, `← ${t.typical}`), h("span", {}, `${t.strange} →`)),
    h(
      "ul",
      { class: "legend" },
      h("li", { class: "review" }, t.zoneReview(percent(calibration.alpha_review))),
      h("li", { class: "reject" }, t.zoneReject(percent(calibration.alpha_reject))),
    ),
  );
}

function scoreHistogram(found, value) {
  return h(
    "figure",
    { class: `histogram small${found.decides ? "" : " aside"}` },
    h("figcaption", {}, h("strong", {}, scoreName(found.name)), found.decides ? null : ` (${t.alsoMeasured})`, h("br"), h("span", { class: "quiet" }, t.scoreP(share(value.p_value)))),
    h("div", { class: "plot", "aria-hidden": "true" }, bars(found.counts, []), marker(place(value.score, found.edges), "")),
  );
}

function whoDecided(ood) {
  const scores = ood.decided_by;
  if (scores.length === 1) return t.decidedByOne(scoreName(scores[0].name));
  const least = scores.reduce((a, b) => (b.p_value < a.p_value ? b : a));
  return t.decidedBy(list(scores.map((score) => scoreName(score.name))), scoreName(least.name));
}

function nearestSentence(answer, labels) {
  const nearest = answer.ood.mahalanobis.nearest_class;
  const name = (id) => `${t.quoted(labels[id] ?? "?")} (${id})`;
  if (!answer.predictions) return t.nearestRejected(name(nearest));
  const top = answer.predictions[0];
  return top && top.class_id !== nearest ? t.nearest(name(top.class_id), name(nearest)) : "";
}

export async function gatePanel(answer, labelsOf) {
  const classId = answer.predictions?.[0]?.class_id;
  const [calibration, labels] = await Promise.all([calibrationOf(answer.model, classId), labelsOf(answer.model)]);
  const { ood } = answer;
  const values = { energy: ood.energy, mahalanobis: ood.mahalanobis };
  for (const score of ood.decided_by) values[score.name] = score;
  const scores = calibration.scores.filter((score) => values[score.name]);
  const nearest = nearestSentence(answer, labels);
  return [
    combinedHistogram(calibration, ood),
    h("p", {}, whoDecided(ood), nearest ? ` ${nearest}` : ""),
    h("div", { class: "scores" }, scores.map((score) => scoreHistogram(score, values[score.name]))),
  ];
}
