// The same request for other programs, with the address and the headers that were used.

import { copyButton, h } from "./dom.js";
import { t } from "./strings.js";
import * as api from "./api.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const string = (text) => JSON.stringify(text);

function headersOf(used) {
  const headers = { ...used };
  if (api.hasKey()) headers.Authorization = "Bearer YOUR_KEY";
  return Object.entries(headers);
}

function curl({ file, path, headers }) {
  const given = headersOf(headers).map(([name, value]) => ` -H ${quoted(`${name}: ${value}`)}`);
  return `curl --data-binary @${quoted(file)}${given.join("")} \\\n  ${quoted(api.url(path))}`;
}

function python({ file, path, headers }) {
  const given = headersOf(headers).map(([name, value]) => `${string(name)}: ${string(value)}`);
  return [
    "import httpx",
    "",
    `with open(${string(file)}, "rb") as image:`,
    `    answer = httpx.post(`,
    `        ${string(api.url(path))},`,
    `        content=image.read(),`,
    ...(given.length ? [`        headers={${given.join(", ")}},`] : []),
    `    )`,
    `body = answer.json()`,
    `if answer.status_code == 200:`,
    `    print(body["decision"], body["predictions"][0]["label"])`,
    `else:  # 422 out-of-distribution: rejected, without predictions`,
    `    print(answer.status_code, body["code"], body["detail"])`,
  ].join("\n");
}

function javascript({ path, headers }) {
  const given = headersOf(headers).map(([name, value]) => `${string(name)}: ${string(value)}`);
  return [
    `// image: a File, Blob or ArrayBuffer`,
    `const answer = await fetch(${string(api.url(path))}, {`,
    `  method: "POST",`,
    `  body: image,`,
    ...(given.length ? [`  headers: { ${given.join(", ")} },`] : []),
    `});`,
    `const body = await answer.json();`,
    `if (answer.ok) console.log(body.decision, body.predictions[0].label);`,
    `else console.log(answer.status, body.code, body.detail); // 422: rejected`,
  ].join("\n");
}

function tritonclient({ file, model, headers, topK }) {
  const { host, pathname, protocol } = new URL(api.url(""));
  const given = headersOf(headers).map(([name, value]) => `${string(name)}: ${string(value)}`);
  return [
    "import numpy as np",
    "import tritonclient.http as triton",
    "",
    `client = triton.InferenceServerClient(${string(host + pathname.replace(/\/$/, ""))}${protocol === "https:" ? ", ssl=True" : ""})`,
    `with open(${string(file)}, "rb") as file:`,
    `    encoded = np.array([[file.read()]], dtype=object)`,
    `image = triton.InferInput("image", [1, 1], "BYTES")`,
    `image.set_data_from_numpy(encoded)`,
    `outputs = [`,
    `    triton.InferRequestedOutput("probabilities", class_count=${topK}),`,
    `    triton.InferRequestedOutput("decision"),`,
    `]`,
    `answer = client.infer(`,
    `    ${string(model.name)}, [image], model_version=${string(model.version)}, outputs=outputs,`,
    ...(given.length ? [`    headers={${given.join(", ")}},`] : []),
    `)`,
    `print(answer.as_numpy("decision"), answer.as_numpy("probabilities"))`,
  ].join("\n");
}

const FORMS = { curl, Python: python, JavaScript: javascript, tritonclient };
let chosen = "curl"; // remembered for the next image
let speaksV2; // unknown until somebody looks

export function codePanel(used) {
  const code = h("code", {});
  const note = h("p", { class: "quiet", hidden: true }, t.noV2);
  const names = Object.keys(FORMS);
  const tabs = names.map((name) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "code", onclick: () => show(name), onkeydown: move }, name));

  async function show(name) {
    chosen = name;
    for (const tab of tabs) {
      const current = tab.textContent === name;
      tab.setAttribute("aria-selected", String(current));
      tab.tabIndex = current ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    code.textContent = FORMS[name](used);
    note.hidden = true;
    if (name === "tritonclient") {
      speaksV2 ??= await api.speaks("v2");
      note.hidden = speaksV2 || chosen !== name;
    }
  }

  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(names.indexOf(chosen) + step + names.length) % names.length];
    show(next.textContent);
    next.focus();
  }

  const panel = h("div", { role: "tabpanel", id: "code" }, note, h("pre", { class: "code", tabindex: "0" }, code));
  show(chosen);
  return [
    h("p", {}, t.codeText),
    h("div", { class: "tab-row" }, h("div", { role: "tablist", class: "tabs", "aria-label": t.code }, tabs), copyButton(() => code.textContent, t.copy, t.copied)),
    panel,
  ];
}
