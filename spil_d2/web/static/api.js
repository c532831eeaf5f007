// Requests to the server. Every failure becomes an Error whose message a person understands.

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `spil-d2 serve` still running?");
  }
  const isJson = response.headers.get("content-type")?.includes("json");
  const answer = isJson ? await response.json() : {};
  if (!response.ok) {
    throw new Error(answer.message ?? `The server answered ${response.status}.`);
  }
  return answer;
}

export const getInfo = () => ask("/api/info");

export function listPictures(offset, name, signal) {
  return ask(`/api/pictures?${new URLSearchParams({ offset, name })}`, { signal });
}

export function upload(file) {
  const headers = { "Content-Type": "application/octet-stream" };
  return ask("/api/uploads", { method: "POST", headers, body: file });
}

export function search(query, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask("/api/searches", { method: "POST", headers, body: JSON.stringify(query), signal });
}

/** Address of a shrunk picture; `side` is 320 or 1280. */
export function pictureUrl(source, side) {
  return source.upload === undefined
    ? `/api/pictures/${source.image_id}/${side}`
    : `/api/uploads/${encodeURIComponent(source.upload)}/${side}`;
}

/** Refined hits of a search as they come; returns a function that stops them. */
export function refine(searchId, { onHit, onEnd }) {
  const events = new EventSource(`/api/searches/${encodeURIComponent(searchId)}/refined`);
  const end = (message) => {
    events.close();
    onEnd(message);
  };
  events.addEventListener("hit", (event) => onHit(JSON.parse(event.data)));
  events.addEventListener("done", () => end(null));
  events.addEventListener("failed", (event) => end(JSON.parse(event.data).message));
  // An EventSource would begin again by itself, and refine everything anew.
  events.addEventListener("error", () => {
    end("Refining was interrupted. If searching works, search once more and refine again.");
  });
  return () => events.close();
}
