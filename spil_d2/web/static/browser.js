// The dialog that shows the pictures of the index to choose a query from.

import { listPictures, pictureUrl } from "./api.js";

export class Browser {
  constructor(dialog, { onPick, onError }) {
    this.dialog = dialog;
    this.onPick = onPick;
    this.onError = onError;
    this.grid = dialog.querySelector("#browser-grid");
    this.status = dialog.querySelector("#browser-status");
    this.more = dialog.querySelector("#browser-more");
    this.name = dialog.querySelector("#browser-name");
    this.request = null;
    this.more.addEventListener("click", () => this.#load(this.grid.children.length));
    dialog.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    this.name.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#load(0), 200);
    });
  }

  open() {
    this.dialog.showModal();
    if (!this.grid.children.length) this.#load(0);
  }

  async #load(offset) {
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.status.textContent = "Loading …";
    try {
      const answer = await listPictures(offset, this.name.value.trim(), request.signal);
      const items = answer.pictures.map((picture) => this.#item(picture));
      if (offset === 0) this.grid.replaceChildren(...items);
      else this.grid.append(...items);
      this.status.textContent = answer.total === 0
        ? "No picture has such a name."
        : `${this.grid.children.length} of ${answer.total} pictures`;
      this.more.hidden = !items.length || this.grid.children.length >= answer.total;
      if (offset) items[0]?.querySelector("button").focus();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.dialog.close();
      this.onError(error);
    }
  }

  #item(picture) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.title = picture.image;
    const image = document.createElement("img");
    image.loading = "lazy";
    image.alt = picture.image;
    image.src = pictureUrl(picture, 320);
    button.append(image);
    button.addEventListener("click", () => {
      this.dialog.close();
      this.onPick(picture);
    });
    item.append(button);
    return item;
  }
}
