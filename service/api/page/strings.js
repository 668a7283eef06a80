// The texts in the language of the browser, and the formats of numbers.

import { english } from "./english.js";
import { german } from "./german.js";

const wantsGerman = (navigator.language ?? "en").toLowerCase().startsWith("de");
export const t = wantsGerman ? german : english;
export const language = wantsGerman ? "de" : "en";

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);

export const percent = (p) => {
  const digits = p >= 0.1 || p === 0 ? 0 : p >= 0.001 ? 1 : 2;
  return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: p > 0.99 && p < 1 ? 1 : digits }).format(p);
};

export const milliseconds = (ms) => `${number(ms, ms < 10 ? 1 : 0)} ms`;

// A p-value as a share that people can picture.
export function share(p) {
  if (p > 0.995) return t.share.most;
  if (p >= 0.01) return t.share.in100(Math.round(100 * p));
  if (p >= 0.001) return t.share.in1000(Math.round(1000 * p));
  return t.share.below;
}

export const scoreName = (name) => t.scores[name] ?? name.replaceAll("_", " ");

export function list(names) {
  return names.length < 2 ? names.join("") : names.slice(0, -1).join(", ") + t.and + names.at(-1);
}

export function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t[element.dataset.t];
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t[element.dataset.tLabel]);
}
