// The grid of results and the large view of one of them.

import { pictureUrl } from "./api.js";
import { hitOverlay } from "./overlay.js";

export const percent = (score) => {
  const value = 100 * score;
  if (value > 0 && value < 1) return "< 1 %";
  if (value > 99 && value < 100) return "> 99 %";
  return `${Math.round(value)} %`;
};

const scoreOf = (hit) => (hit.refined ?? hit).score;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(className, text, label, onClick) {
  const element = make("button", className, text);
  element.type = "button";
  element.setAttribute("aria-label", label);
  element.title = label;
  element.addEventListener("click", onClick);
  return element;
}

function fillPicture(frame, hit, side) {
  const image = make("img");
  image.alt = "";
  image.loading = "lazy";
  image.decoding = "async";
  image.addEventListener("error", () => {
    frame.replaceChildren(make("span", "gone", "The file is gone or damaged"));
  });
  image.src = pictureUrl({ image_id: hit.image_id }, side);
  frame.replaceChildren(image);
  frame.append(hitOverlay(hit));
}

/**
 * Ranked results. `actions` has open(hit), search(hit), add(hit) and mark(hit, "right"|"wrong");
 * its markOf(image_id) and isInQuery(image_id) tell what is so already.
 */
export class Results {
  constructor(grid, actions) {
    this.grid = grid;
    this.actions = actions;
    this.hits = [];
    this.cards = new Map();
    this.threshold = 0;
    this.order = "rank";
  }

  show(hits) {
    this.hits = hits;
    this.cards = new Map(hits.map((hit) => [hit.image_id, this.#card(hit)]));
    this.arrange();
  }

  /** Those above the threshold, in the order that is seen. */
  get shown() {
    const visible = this.hits.filter((hit) => 100 * scoreOf(hit) >= this.threshold);
    if (this.order === "rank") return visible;
    return [...visible].sort((a, b) => scoreOf(b) - scoreOf(a) || a.rank - b.rank);
  }

  arrange() {
    this.grid.replaceChildren(...this.shown.map((hit) => this.cards.get(hit.image_id)));
  }

  /** Take over the refined box of a hit; the order stays until all are there. */
  refine(refined) {
    const hit = this.hits.find((one) => one.image_id === refined.image_id);
    if (!hit) return;
    hit.refined = refined;
    this.#fill(this.cards.get(hit.image_id), hit);
  }

  /** Show what is marked and in the query. */
  updateState(imageId) {
    const card = this.cards.get(imageId);
    if (!card) return;
    const mark = this.actions.markOf(imageId);
    for (const kind of ["right", "wrong"]) {
      card.classList.toggle(kind, mark === kind);
      card.querySelector(`.mark.${kind}`).setAttribute("aria-pressed", String(mark === kind));
    }
    card.querySelector(".add").setAttribute("aria-pressed", String(this.actions.isInQuery(imageId)));
  }

  #card(hit) {
    const card = make("li", "card");
    const { open, search, add, mark } = this.actions;
    const picture = button("picture", "", "", () => open(hit));
    const facts = make("div", "line");
    const acts = make("div", "acts");
    acts.append(
      button("mark right", "✓", `Mark result ${hit.rank} right`, () => mark(hit, "right")),
      button("mark wrong", "✗", `Mark result ${hit.rank} wrong`, () => mark(hit, "wrong")),
      button("act add", "+", `Add result ${hit.rank} to the query`, () => add(hit)),
      button("act again", "⌕", `Search with result ${hit.rank}`, () => search(hit)),
    );
    const file = make("div", "file", hit.image);
    file.title = hit.image;
    const similarity = make("div", "similarity", `similarity ${hit.similarity.toFixed(3)}`);
    similarity.title = "The cosine of the query and this region, from -1 to 1";
    const meter = make("div", "meter");
    meter.append(make("i"));
    card.append(picture, facts, meter, file, similarity, acts);
    this.#fill(card, hit);
    this.cards.set(hit.image_id, card);
    this.updateState(hit.image_id);
    return card;
  }

  #fill(card, hit) {
    const picture = card.querySelector(".picture");
    const chance = percent(scoreOf(hit));
    const label = `Result ${hit.rank}: ${hit.image}, probability ${chance}. Open it large`;
    picture.setAttribute("aria-label", label);
    picture.title = "Open it large";
    fillPicture(picture, hit, 320);
    const probability = make("b", "probability", chance);
    probability.title = "Probability that the object is there";
    card.querySelector(".line").replaceChildren(make("span", "rank", `#${hit.rank}`), probability);
    card.querySelector(".meter i").style.width = `${100 * scoreOf(hit)}%`;
  }
}

/** One result, large. */
export class Viewer {
  constructor(dialog, results, actions) {
    this.dialog = dialog;
    this.results = results;
    this.actions = actions;
    this.hit = null;
    const on = (id, act) => dialog.querySelector(id).addEventListener("click", act);
    on("#viewer-search", () => this.#leave(() => actions.search(this.hit)));
    on("#viewer-add", () => this.#leave(() => actions.add(this.hit)));
    on("#viewer-right", () => this.#mark("right"));
    on("#viewer-wrong", () => this.#mark("wrong"));
    on("#viewer-previous", () => this.#step(-1));
    on("#viewer-next", () => this.#step(1));
    dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "ArrowLeft") this.#step(-1);
      else if (event.key === "ArrowRight") this.#step(1);
    });
  }

  open(hit) {
    this.hit = hit;
    this.#fill();
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** Draw anew where the shown hit has changed. */
  update(imageId) {
    if (this.dialog.open && this.hit.image_id === imageId) this.#fill();
  }

  #fill() {
    const { hit } = this;
    this.dialog.querySelector("#viewer-title").textContent = `#${hit.rank}  ${hit.image}`;
    const frame = this.dialog.querySelector("#viewer-picture");
    frame.style.setProperty("--ratio", hit.width / hit.height);
    fillPicture(frame, hit, 1280);
    const facts = [
      ["probability", percent(scoreOf(hit))],
      ["similarity", hit.similarity.toFixed(3)],
      ["box", (hit.refined ?? hit).box.map(Math.round).join(", ")],
      ["picture", `${hit.width} × ${hit.height}`],
    ];
    if (hit.refined) facts.splice(1, 0, ["before refining", percent(hit.score)]);
    const list = this.dialog.querySelector("#viewer-facts");
    list.replaceChildren(...facts.map(([name, value]) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", value));
      return pair;
    }));
    const mark = this.actions.markOf(hit.image_id);
    for (const kind of ["right", "wrong"]) {
      this.dialog.querySelector(`#viewer-${kind}`).setAttribute("aria-pressed", String(mark === kind));
    }
    const isInQuery = this.actions.isInQuery(hit.image_id);
    this.dialog.querySelector("#viewer-add").textContent = isInQuery ? "Take out of the query" : "Add to the query";
    const { shown } = this.results;
    const position = shown.indexOf(hit);
    this.dialog.querySelector("#viewer-previous").disabled = position <= 0;
    this.dialog.querySelector("#viewer-next").disabled = position < 0 || position === shown.length - 1;
  }

  #step(by) {
    const { shown } = this.results;
    const next = shown[shown.indexOf(this.hit) + by];
    if (next) this.open(next);
  }

  #mark(kind) {
    this.actions.mark(this.hit, kind);
    this.#fill();
  }

  #leave(act) {
    this.dialog.close();
    act();
  }
}
