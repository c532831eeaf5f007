// The small pictures of the query, each with a button that takes it away.

import { pictureUrl } from "./api.js";

/**
 * Fill the list.
 * @param {HTMLElement} list
 * @param {object[]} references
 * @param {number} active index of the picture that is on the stage
 * @param {{onChoose: (index: number) => void, onRemove: (index: number) => void}} actions
 */
export function showReferences(list, references, active, { onChoose, onRemove }) {
  const items = references.map((reference, index) => {
    const item = document.createElement("li");
    item.className = index === active ? "active" : "";
    item.append(
      chooseButton(reference, index, index === active, () => {
        onChoose(index);
        list.children[index].querySelector(".thumb").focus();
      }),
      removeButton(reference, index, () => onRemove(index)),
    );
    return item;
  });
  list.replaceChildren(...items);
}

function chooseButton(reference, index, isActive, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "thumb";
  button.setAttribute("aria-label", `Query picture ${index + 1}: ${reference.name}`);
  button.setAttribute("aria-pressed", String(isActive));
  const image = document.createElement("img");
  image.src = pictureUrl(reference, 320);
  image.alt = "";
  button.append(image);
  button.addEventListener("click", onClick);
  return button;
}

function removeButton(reference, index, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "remove";
  button.textContent = "✕";
  button.setAttribute("aria-label", `Remove query picture ${index + 1}: ${reference.name}`);
  button.addEventListener("click", onClick);
  return button;
}
