// Where the time went: the parts that the service measured, and what the browser saw around them.

import { h } from "./dom.js";
import { milliseconds, t } from "./strings.js";

// A rejected image has no timing in its body, but the header of the same name may have it.
function timingOf(answer, seen) {
  if (answer.timing_ms) return answer.timing_ms;
  const measured = Object.fromEntries([...seen.serverTiming.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
  return ["decode", "queue", "engine", "total"].every((name) => name in measured) ? measured : null;
}

function parts(answer, seen) {
  const all = seen.end - seen.start;
  const receive = Math.max(0, seen.end - seen.first);
  const timing = timingOf(answer, seen);
  if (!timing) return [["inside", Math.max(0, all - receive)], ["receive", receive]];
  const send = Math.max(0, all - receive - timing.total);
  return [["send", send], ["queue", timing.queue], ["decode", timing.decode], ["engine", timing.engine], ["receive", receive]];
}

export function timingPanel(answer, seen) {
  const all = seen.end - seen.start;
  const found = parts(answer, seen);
  const sum = Math.max(0.001, found.reduce((total, [, ms]) => total + ms, 0));
  let start = 0;
  const rows = found.map(([name, ms]) => {
    const from = (100 * start) / sum;
    start += ms;
    const inside = name === "send" || name === "receive" ? "outside" : "inside";
    const bar = h("span", { class: `span ${inside}`, style: { left: `${from}%`, width: `${Math.max(0.6, (100 * ms) / sum)}%` } });
    return h("tr", {}, h("th", { scope: "row" }, t.parts[name]), h("td", { class: "track", "aria-hidden": "true" }, h("span", { class: "lane" }, bar)), h("td", { class: "ms" }, milliseconds(ms)));
  });
  const timing = timingOf(answer, seen);
  const words = timing ? [t.timingText(milliseconds(all), milliseconds(timing.total))] : [milliseconds(all)];
  if (answer.batch_size) words.push(t.batch(answer.batch_size));
  return [h("p", {}, words.join(" ")), h("table", { class: "waterfall" }, h("tbody", {}, rows))];
}
