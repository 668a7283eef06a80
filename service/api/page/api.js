// Requests to the service. Every address is relative to the page, so that it works below any path.

export const url = (path) => new URL(path, document.baseURI).href;

let key = ""; // in memory only
let askForKey = async () => ""; // called with whether the last key was refused

export const hasKey = () => key !== "";
export const onKeyNeeded = (ask) => (askForKey = ask);

// A problem that the service reported, or a connection that was lost.
export class Problem extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail ?? "");
    this.status = status;
    this.body = body;
    this.code = body.code ?? (status === 0 ? "lost" : "other");
    this.requestId = body.request_id ?? "";
    this.retryAfter = Number(retryAfter) || 0;
  }
}

export const lost = () => new Problem(0, {});

function parsed(text) {
  try {
    const body = JSON.parse(text);
    return body !== null && typeof body === "object" ? body : {};
  } catch {
    return {};
  }
}

// Repeat a request with a key if the service wants one, until it is accepted or not given.
async function withKey(send) {
  for (;;) {
    const used = key;
    try {
      return await send();
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      if (key === used) key = await askForKey(used !== "");
      if (!key) throw problem;
    }
  }
}

const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

async function request(path, options = {}) {
  const { headers, ...rest } = options;
  let response;
  try {
    response = await fetch(url(path), { ...rest, headers: { ...headers, ...authorization() }, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost();
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  throw new Problem(response.status, parsed(text), response.headers.get("Retry-After"));
}

export const get = async (path) => (await withKey(() => request(path, { headers: { Accept: "application/json" } }))).json();

// Without asking for a key: for what is looked up in the background.
export const peek = async (path) => (await request(path, { headers: { Accept: "application/json" } })).json();

export const speaks = (path) => request(path).then(() => true, () => false);

export const post = async (path, body, headers, signal) => (await withKey(() => request(path, { method: "POST", body, headers, signal }))).json();

export const postForBlob = async (path, body, headers) => (await withKey(() => request(path, { method: "POST", body, headers }))).blob();

// Send an image. XMLHttpRequest, because only it reports how much of a body has been sent.
export const classify = (path, image, headers, onProgress, signal) => withKey(() => send(path, image, headers, onProgress, signal));

function send(path, image, headers, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const times = { start: performance.now(), sent: 0, first: 0 };
    signal.addEventListener("abort", () => xhr.abort(), { once: true });
    xhr.open("POST", url(path));
    for (const [name, value] of Object.entries({ ...headers, ...authorization() })) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => onProgress(event.total ? event.loaded / event.total : 1);
    xhr.upload.onload = () => {
      times.sent = performance.now();
      onProgress(1);
    };
    xhr.onreadystatechange = () => {
      if (xhr.readyState === XMLHttpRequest.HEADERS_RECEIVED) times.first = performance.now();
    };
    xhr.onerror = xhr.onabort = () => reject(lost());
    xhr.onload = () => {
      const end = performance.now();
      const body = parsed(xhr.responseText);
      const answer = { status: xhr.status, body, start: times.start, sent: times.sent || times.first, first: times.first || end, end, serverTiming: xhr.getResponseHeader("Server-Timing") ?? "" };
      if (xhr.status === 200 || (xhr.status === 422 && body.code === "out-of-distribution")) resolve(answer);
      else reject(new Problem(xhr.status, body, xhr.getResponseHeader("Retry-After")));
    };
    xhr.send(image);
  });
}
