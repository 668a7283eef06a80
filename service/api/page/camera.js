// Photographs: by the camera in a dialog, or on phones by the phone's own camera, at full size.

import { $ } from "./dom.js";
import { t } from "./strings.js";

const hasOwnCamera = () => matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices?.getUserMedia;

export function startCamera(take) {
  const [dialog, video, error] = [$("camera-dialog"), $("video"), $("camera-error")];
  let stream = null;

  async function open() {
    if (hasOwnCamera()) {
      $("capture").click();
      return;
    }
    error.textContent = "";
    $("shoot").disabled = true;
    dialog.showModal();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
      if (!dialog.open) return close();
      video.srcObject = stream;
    } catch {
      error.textContent = t.noCamera;
    }
  }

  function close() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    if (dialog.open) dialog.close();
  }

  function shoot() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => blob && take([new File([blob], "photo.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.95);
    close();
  }

  video.addEventListener("loadeddata", () => ($("shoot").disabled = false));
  $("camera").addEventListener("click", open);
  $("shoot").addEventListener("click", shoot);
  $("camera-cancel").addEventListener("click", close);
  dialog.addEventListener("close", close);
  $("capture").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
}
