/** Requests to the API that served this page, with a token if one is set. */

const STORED = "sensor-token";

/** An error response of the API (RFC 9457), or status 0 if the API cannot be reached. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    Object.assign(this, { status, title, detail });
  }
}

/** The token of this browser tab. */
export const token = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

let askForToken = null;

/** Call `ask(problem)` when the API requires a token; its promise resolves when a new one is set. */
export function onUnauthorized(ask) {
  askForToken = ask;
}

/** Return the address of a resource; empty parameters are left out. */
export function address(path, parameters = {}) {
  const set = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(set).toString();
  return `api/v1/${path}${query ? `?${query}` : ""}`;
}

/** Request a resource and return the response, which is a success. Throws Problem, or AbortError after `signal`. */
export async function get(url, signal, method = "GET") {
  for (;;) {
    const sent = token.get();
    const response = await request(url, method, sent, signal);
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (problem.status !== 401) throw problem;
    if (token.get() === sent) await askForToken(problem);
    signal?.throwIfAborted();
  }
}

/** GET JSON from a path of the API. */
export async function getJson(path, parameters, signal) {
  return (await get(address(path, parameters), signal)).json();
}

/** Change something at a path of the API, and return the JSON of the answer. */
export async function change(method, path, parameters) {
  return (await get(address(path, parameters), undefined, method)).json();
}

async function request(url, method, sent, signal) {
  const headers = sent ? { Authorization: `Bearer ${sent}` } : {};
  try {
    return await fetch(url, { method, headers, signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No connection", "The API does not respond; check that it is running.");
  }
}

async function problemOf(response) {
  try {
    const { title, detail } = await response.json();
    return new Problem(response.status, title ?? response.statusText, typeof detail === "string" ? detail : "");
  } catch {
    return new Problem(response.status, `The API answered ${response.status} ${response.statusText}`, "");
  }
}
