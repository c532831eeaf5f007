// The page: what is asked for, what was found, and what the user says about it.

import * as api from "./api.js";
import { Browser } from "./browser.js";
import { download, toCoco } from "./coco.js";
import { takeFiles } from "./drop.js";
import { BoxEditor } from "./editor.js";
import { $, clearError, describeIndex, plural, say, showError, toast } from "./messages.js";
import { showReferences } from "./references.js";
import { Results, Viewer } from "./results.js";

const state = {
  limits: null,
  store: "", // where a reload of the page finds the query and the marks of this index
  canRefine: false,
  references: [], // {upload | image_id, name, width, height, boxes}
  active: -1,
  marks: new Map(), // image_id -> {mark, hit}
  searchId: null,
  seconds: 0,
  request: null,
  stopRefining: null,
};

const markOf = (imageId) => state.marks.get(imageId)?.mark ?? null;
const placeInQuery = (imageId) => state.references.findIndex((one) => one.image_id === imageId);

const actions = {
  markOf,
  isInQuery: (imageId) => placeInQuery(imageId) >= 0,
  open: (hit) => viewer.open(hit),
  mark: toggleMark,
  add: toggleInQuery,
  search: (hit) => {
    state.references = [];
    if (addHit(hit)) search();
  },
};

const results = new Results($("grid"), actions);
const viewer = new Viewer($("viewer"), results, actions);
const browser = new Browser($("browser"), {
  onPick: (picture) => addReference({ image_id: picture.image_id, name: picture.image, width: picture.width, height: picture.height, boxes: [] }),
  onError: showError,
});
const editor = new BoxEditor($("stage"), {
  onChange: queryChanged,
  onSelect: (index) => {
    $("remove-box").disabled = index < 0;
  },
  announce: (text) => {
    $("announce").textContent = text;
  },
});

function showCounts() {
  const { hits, shown } = results;
  const found = `${plural(hits.length, "picture")} in ${state.seconds.toFixed(state.seconds < 10 ? 1 : 0)} s`;
  say(shown.length === hits.length ? found : `${shown.length} of ${found}`);
  $("download").disabled = shown.length === 0;
  $("empty").hidden = hits.length > 0;
}

// ---- the query

function pictureKey(reference) {
  return reference.upload ?? reference.image_id;
}

function addReference(reference) {
  clearError();
  const known = state.references.findIndex((one) => pictureKey(one) === pictureKey(reference));
  if (known >= 0) {
    const boxes = state.references[known].boxes;
    boxes.push(...reference.boxes.filter((box) => !boxes.some((one) => String(one) === String(box))));
    activate(known);
    return true;
  }
  if (state.references.length >= state.limits.pictures) {
    showError(new Error(`A query has at most ${state.limits.pictures} pictures: remove one first.`));
    return false;
  }
  state.references.push(reference);
  activate(state.references.length - 1);
  return true;
}

function addHit(hit) {
  const box = [...(hit.refined ?? hit).box];
  const added = addReference({ image_id: hit.image_id, name: hit.image, width: hit.width, height: hit.height, boxes: [box] });
  return added;
}

function toggleInQuery(hit) {
  const place = placeInQuery(hit.image_id);
  if (place >= 0) {
    state.references.splice(place, 1);
    activate(Math.min(state.active, state.references.length - 1));
    toast(`Result ${hit.rank} is no longer in the query`);
  } else if (addHit(hit)) {
    toast(`Result ${hit.rank} is in the query now: search again`);
  }
}

function removeReference(index) {
  state.references.splice(index, 1);
  activate(Math.min(state.active, state.references.length - 1));
  if (!state.references.length) $("choose").focus();
}

function activate(index) {
  state.active = index;
  const reference = state.references[index] ?? null;
  editor.show(reference, reference && api.pictureUrl(reference, 1280));
  queryChanged();
}

function queryChanged() {
  const { references } = state;
  const hasQuery = references.length > 0;
  $("query-body").hidden = !hasQuery;
  $("search").hidden = !hasQuery;
  $("reset").hidden = !hasQuery && !state.marks.size;
  $("drop").classList.toggle("small", hasQuery);
  $("drop-lead").textContent = hasQuery ? "Another picture of it? Drop it here" : "Drop a picture here that shows the object";
  showReferences($("references"), references, state.active, { onChoose: activate, onRemove: removeReference });
  const count = references.reduce((sum, one) => sum + Math.max(1, one.boxes.length), 0);
  $("combine").hidden = count < 2;
  for (const hit of results.hits) results.updateState(hit.image_id);
  const boxes = references[state.active]?.boxes.length ?? 0;
  $("add-box").disabled = boxes >= state.limits.boxes;
  $("hint").textContent = boxes
    ? `${plural(boxes, "box", "boxes")} on this picture.`
    : "Draw a box around the object. Without one, the whole picture is the query.";
  remember();
}

async function addFiles(files) {
  clearError();
  for (const file of files) {
    try {
      if (file.size > state.limits.bytes) {
        const most = Math.round(state.limits.bytes / 2 ** 20);
        throw new Error(`the file is larger than ${most} MB: save the picture smaller or as JPEG`);
      }
      toast(`Reading ${file.name} …`);
      $("drop").setAttribute("aria-busy", "true");
      const answer = await api.upload(file);
      addReference({ ...answer, name: file.name, boxes: [] });
      toast("");
    } catch (error) {
      toast("");
      showError(new Error(`${file.name}: ${error.message}`));
    } finally {
      $("drop").removeAttribute("aria-busy");
    }
  }
}

function resetQuery() {
  if (state.marks.size && !window.confirm(`Begin anew? ${plural(state.marks.size, "mark")} will be forgotten.`)) return;
  stopRefining();
  state.request?.abort();
  state.references = [];
  state.marks.clear();
  state.searchId = null;
  results.show([]);
  $("toolbar").hidden = true;
  clearError();
  activate(-1);
  marksChanged();
  $("empty").hidden = false;
  say("");
  $("choose").focus();
}

// ---- searching

function setBusy(isBusy) {
  $("progress").hidden = !isBusy;
  $("progress").removeAttribute("value");
  $("results").setAttribute("aria-busy", String(isBusy));
  $("grid").classList.toggle("stale", isBusy);
  $("search").textContent = isBusy ? "Searching …" : "Search";
}

function readK() {
  const k = Number($("k").value);
  const isValid = Number.isInteger(k) && k >= 1 && k <= state.limits.k;
  $("k").setAttribute("aria-invalid", String(!isValid));
  if (isValid) return k;
  $("k").focus();
  throw new Error(`“Pictures to find” takes a whole number from 1 to ${state.limits.k}.`);
}

function readQuery() {
  const references = state.references.map(({ upload, image_id: imageId, boxes }) => (
    upload === undefined ? { image_id: imageId, boxes } : { upload, boxes }
  ));
  const combine = document.querySelector("input[name=combine]:checked").value;
  const excluded = $("leave-out").checked ? markedHits("wrong").map((hit) => hit.image_id) : [];
  return { references, k: readK(), combine, excluded };
}

async function search() {
  clearError();
  let query;
  try {
    query = readQuery();
  } catch (error) {
    showError(error);
    return;
  }
  state.request?.abort();
  stopRefining();
  const request = new AbortController();
  state.request = request;
  setBusy(true);
  say("Searching …");
  try {
    const answer = await api.search(query, request.signal);
    state.searchId = answer.search_id;
    state.seconds = answer.seconds;
    showResults(answer.hits);
  } catch (error) {
    if (request !== state.request) return;
    say("");
    if (error.name !== "AbortError") showError(error);
  } finally {
    if (request === state.request) {
      state.request = null;
      setBusy(false);
    }
  }
}

function showResults(hits) {
  $("legend-refined").hidden = true;
  results.show(hits);
  $("toolbar").hidden = hits.length === 0;
  showCounts();
  if (!hits.length) say("Nothing was found: the index has no other pictures.");
  if (window.matchMedia("(max-width: 860px)").matches) {
    $("results").scrollIntoView();
    $("results").focus({ preventScroll: true });
  }
}

// ---- refining

function refineResults() {
  if (!state.canRefine) {
    $("refine-note").hidden = false;
    return;
  }
  if (state.stopRefining) {
    stopRefining();
    showCounts();
    return;
  }
  clearError();
  $("refine").textContent = "Stop refining";
  $("progress").hidden = false;
  $("progress").value = 0;
  $("legend-refined").hidden = false;
  state.stopRefining = api.refine(state.searchId, {
    onHit({ hit, done, total }) {
      results.refine(hit);
      viewer.update(hit.image_id);
      $("progress").max = total;
      $("progress").value = done;
      say(`Refined ${done} of ${total}`);
    },
    onEnd(message) {
      stopRefining();
      showCounts();
      if (message) showError(new Error(message));
    },
  });
}

function stopRefining() {
  if (!state.stopRefining) return;
  state.stopRefining();
  state.stopRefining = null;
  $("refine").textContent = "Refine the boxes";
  $("progress").hidden = true;
  results.arrange();
}

// ---- marks

function markedHits(kind) {
  return [...state.marks.values()].filter((one) => one.mark === kind).map((one) => one.hit);
}

function toggleMark(hit, kind) {
  if (markOf(hit.image_id) === kind) state.marks.delete(hit.image_id);
  else state.marks.set(hit.image_id, { mark: kind, hit });
  marksChanged();
}

function marksChanged() {
  for (const hit of results.hits) results.updateState(hit.image_id);
  const [right, wrong] = [markedHits("right").length, markedHits("wrong").length];
  $("add-right").hidden = right === 0;
  $("add-right").textContent = `Add the ${right} right to the query`;
  $("leave-out-label").hidden = wrong === 0;
  $("leave-out-label").querySelector("span").textContent = `Leave out the ${wrong} marked wrong`;
  $("download-marks").hidden = right + wrong === 0;
  $("download-marks").textContent = `Download ${plural(right + wrong, "mark")}`;
  remember();
}

function addRight() {
  const hits = markedHits("right");
  if (hits.every(addHit)) toast(`${hits.length} right ${hits.length === 1 ? "result is" : "results are"} in the query now: search again`);
}

// ---- what a reload of the page keeps

function remember() {
  const marks = [...state.marks.values()];
  sessionStorage.setItem(state.store, JSON.stringify({ references: state.references, marks }));
}

async function restore() {
  const kept = JSON.parse(sessionStorage.getItem(state.store) ?? "{}");
  for (const one of kept.marks ?? []) state.marks.set(one.hit.image_id, one);
  for (const reference of kept.references ?? []) {
    const picture = await fetch(api.pictureUrl(reference, 320)).catch(() => null);
    if (picture?.ok) addReference(reference);
    else showError(new Error(`${reference.name} is not with the server any more: choose it once more.`));
  }
  marksChanged();
}

// ---- wiring

function wire() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  on("choose", "click", () => $("file").click());
  on("file", "change", () => {
    addFiles([...$("file").files]);
    $("file").value = "";
  });
  on("browse", "click", () => browser.open());
  on("reset", "click", resetQuery);
  on("add-box", "click", () => editor.addBox());
  on("remove-box", "click", () => {
    editor.removeSelected();
    if (!state.references[state.active].boxes.length) $("add-box").focus();
  });
  on("search-form", "submit", (event) => {
    event.preventDefault();
    search();
  });
  on("threshold", "input", () => {
    results.threshold = Number($("threshold").value);
    $("threshold-value").textContent = `${results.threshold} %`;
    results.arrange();
    showCounts();
  });
  on("order", "change", () => {
    results.order = $("order").value;
    results.arrange();
  });
  on("refine", "click", refineResults);
  on("add-right", "click", addRight);
  on("download", "click", () => download("results.json", toCoco(results.shown, markOf, "spil-d2: search results")));
  on("download-marks", "click", () => {
    const hits = [...markedHits("right"), ...markedHits("wrong")];
    download("marks.json", toCoco(hits, markOf, "spil-d2: results marked right and wrong"));
  });
  on("alert-close", "click", clearError);
  for (const close of document.querySelectorAll("[data-close]")) {
    close.addEventListener("click", () => close.closest("dialog").close());
  }
  takeFiles(addFiles, showError);
}

async function start() {
  wire();
  try {
    const info = await api.getInfo();
    state.limits = info.limits;
    state.canRefine = info.can_refine;
    state.store = `spil-d2 ${info.key}`;
    $("k").max = info.limits.k;
    $("refine").setAttribute("aria-disabled", String(!info.can_refine));
    $("refine-note").hidden = info.can_refine;
    $("about").textContent = describeIndex(info);
    await restore();
  } catch (error) {
    $("about").textContent = "";
    showError(error);
  }
}

start();
