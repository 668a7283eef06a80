// Ask for an API key, which is kept in memory only. One dialog for all requests that need it.

import { $ } from "./dom.js";
import { t } from "./strings.js";

let asking = null;

export function askForKey(wasRefused) {
  asking ??= ask(wasRefused).finally(() => (asking = null));
  return asking;
}

function ask(wasRefused) {
  const [dialog, field] = [$("key-dialog"), $("key")];
  $("key-error").textContent = wasRefused ? t.keyRefused : "";
  return new Promise((resolve) => {
    const done = () => {
      resolve(dialog.returnValue === "used" ? field.value.trim() : "");
      field.value = "";
    };
    dialog.addEventListener("close", done, { once: true });
    dialog.returnValue = "";
    $("key-form").onsubmit = () => (dialog.returnValue = "used");
    $("key-cancel").onclick = () => dialog.close();
    dialog.showModal();
  });
}
