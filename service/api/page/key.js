// Ask for an API key, which is kept in memory only. One dialog for all requests that need it.

import { $ } from "./dom.js";

let asking = null;

export function askForKey() {
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

function ask() {
  const [dialog, field] = [$("key-dialog"), $("key")];
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
