// Build elements without HTML strings, which the content security policy forbids.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

export const $ = (id) => document.getElementById(id);

let lastAnnounced = "";

// A live region reads a text only if it changes.
export function announce(text) {
  lastAnnounced = text === lastAnnounced ? `${text}\u00a0` : text;
  $("live").textContent = lastAnnounced;
}

export function copyButton(text, label, done) {
  const button = h("button", { type: "button", class: "button small", onclick: copy }, label);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      // Without HTTPS there is no clipboard; a selection can still be copied.
      const area = h("textarea", { class: "visually-hidden" });
      area.value = text();
      (button.closest("dialog") ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = done;
    announce(done);
    setTimeout(() => (button.textContent = label), 2000);
  }
  return button;
}

// An icon for each state, so that colour is never the only sign.
const PATHS = {
  accept: "M5 12.5 10 17 19 7.5",
  review: "M12 6.5v7.5M12 17.5v.5",
  reject: "M7 7l10 10M17 7 7 17",
  error: "M12 6.5v7.5M12 17.5v.5",
  busy: "M12 5a7 7 0 1 0 7 7",
  waiting: "M7 12h.1M12 12h.1M17 12h.1",
};

export function icon(kind) {
  return s("svg", { class: `icon ${kind}`, viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: PATHS[kind] }));
}
