// Elements of the page by their id, and what it tells the user.

export const $ = (id) => document.getElementById(id);

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

let toastTimer = 0;

export function showError(error) {
  $("alert-text").textContent = error.message ?? String(error);
  $("alert").hidden = false;
}

export function clearError() {
  $("alert").hidden = true;
}

export function say(text) {
  $("status").textContent = text;
}

/** What was just done, for a few seconds where it is seen from everywhere. */
export function toast(text) {
  $("toast").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    $("toast").textContent = "";
  }, 4000);
}

/** What the index holds, in one line. */
export function describeIndex(info) {
  const facts = [plural(info.images, "picture"), plural(info.regions, "region"), `engine ${info.engine}`];
  if (info.unreadable) facts.push(`${plural(info.unreadable, "file")} could not be read`);
  if (!info.calibrated) facts.push("too few pictures for more than rough probabilities");
  return facts.join(", ");
}
