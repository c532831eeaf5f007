// Drawing boxes on a picture by mouse, touch and keyboard.

const CORNERS = ["nw", "ne", "sw", "se"];
const DRAWN = 6; // screen pixels below which a press is no box
const STEP = 0.02; // of the picture's shorter side, for one press of an arrow key

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/**
 * Boxes over one picture at a time. Boxes are [x0, y0, x1, y1] in pixels of the picture as
 * displayed; the reference that is shown owns them, and `onChange` is called after each change.
 */
export class BoxEditor {
  constructor(stage, { onChange, onSelect, announce }) {
    this.stage = stage;
    this.onChange = onChange;
    this.onSelect = onSelect;
    this.announce = announce;
    this.reference = null;
    this.selected = -1;
    this.drag = null;
    stage.addEventListener("pointerdown", (event) => this.#press(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#release(event));
    stage.addEventListener("pointercancel", () => this.#cancel());
    stage.addEventListener("keydown", (event) => this.#key(event));
    stage.addEventListener("focusin", (event) => {
      const box = event.target.closest(".draw-box");
      if (box) this.#select(Number(box.dataset.index));
    });
  }

  show(reference, url) {
    this.reference = reference;
    this.drag = null;
    this.stage.replaceChildren();
    if (reference) {
      const image = document.createElement("img");
      image.src = url;
      image.alt = `Query picture ${reference.name}`;
      image.width = reference.width;
      image.height = reference.height;
      image.draggable = false;
      this.stage.append(image);
      this.stage.style.setProperty("--ratio", reference.width / reference.height);
    }
    this.#select(-1);
    this.#draw();
  }

  addBox() {
    const { width, height, boxes } = this.reference;
    // Each new one a little aside, so that none hides another.
    const shift = 0.04 * (boxes.length % 6);
    const [x, y] = [width * (0.25 + shift), height * (0.25 + shift)];
    boxes.push([x, y, x + width / 2, y + height / 2]);
    this.#changed(boxes.length - 1);
    this.#boxElement(this.selected).focus();
  }

  removeSelected() {
    const index = this.selected;
    if (index < 0) return;
    this.reference.boxes.splice(index, 1);
    const next = Math.min(index, this.reference.boxes.length - 1);
    this.#changed(next);
    this.announce(`Box ${index + 1} removed`);
    if (next >= 0) this.#boxElement(next).focus();
  }

  #boxElement(index) {
    return this.stage.querySelector(`.draw-box[data-index="${index}"]`);
  }

  #select(index) {
    this.selected = index;
    for (const element of this.stage.querySelectorAll(".draw-box")) {
      element.classList.toggle("selected", Number(element.dataset.index) === index);
    }
    this.onSelect(index);
  }

  #changed(index) {
    this.#draw();
    this.#select(index);
    this.onChange();
  }

  // Elements are kept where they are, or a drag and the focus would lose theirs.
  #draw() {
    const boxes = this.reference?.boxes ?? [];
    const elements = [...this.stage.querySelectorAll(".draw-box")];
    for (const extra of elements.slice(boxes.length)) extra.remove();
    boxes.forEach((box, index) => this.#place(elements[index] ?? this.#newElement(index), box, index));
  }

  #newElement(index) {
    const element = document.createElement("div");
    element.className = "draw-box";
    element.tabIndex = 0;
    element.dataset.index = index;
    element.setAttribute("role", "group");
    element.setAttribute("aria-roledescription", "box");
    const label = document.createElement("span");
    label.className = "box-label";
    label.textContent = index + 1;
    element.append(label);
    for (const corner of CORNERS) {
      const handle = document.createElement("i");
      handle.className = `handle ${corner}`;
      handle.dataset.corner = corner;
      element.append(handle);
    }
    this.stage.append(element);
    return element;
  }

  #place(element, [x0, y0, x1, y1], index) {
    const { width, height } = this.reference;
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    element.style.left = percent(x0, width);
    element.style.top = percent(y0, height);
    element.style.width = percent(x1 - x0, width);
    element.style.height = percent(y1 - y0, height);
    element.setAttribute("aria-label", `Box ${index + 1}: ${describe([x0, y0, x1, y1])}`);
  }

  #point(event) {
    const area = this.stage.getBoundingClientRect();
    const { width, height } = this.reference;
    return [
      clamp(((event.clientX - area.left) / area.width) * width, 0, width),
      clamp(((event.clientY - area.top) / area.height) * height, 0, height),
    ];
  }

  #press(event) {
    if (!this.reference || event.button !== 0 || this.drag) return;
    const element = event.target.closest(".draw-box");
    const index = element ? Number(element.dataset.index) : -1;
    const corner = event.target.dataset.corner;
    const kind = corner ? "resize" : element && !event.shiftKey ? "move" : "draw";
    const start = this.#point(event);
    const before = kind === "draw" ? [...start, ...start] : [...this.reference.boxes[index]];
    this.drag = { kind, index, corner, start, before, id: event.pointerId, at: event };
    this.stage.setPointerCapture(event.pointerId);
    // The picture must not be dragged away, nor text be selected.
    event.preventDefault();
    if (kind === "draw") {
      document.activeElement?.blur();
      this.#select(-1);
    } else {
      element.focus({ preventScroll: true });
      this.#select(index);
    }
  }

  #move(event) {
    const { drag } = this;
    if (!drag || event.pointerId !== drag.id) return;
    const far = Math.hypot(event.clientX - drag.at.clientX, event.clientY - drag.at.clientY);
    if (!drag.moved && far < DRAWN) return;
    const [x, y] = this.#point(event);
    if (drag.kind === "draw" && !drag.moved) {
      drag.index = this.reference.boxes.push([...drag.before]) - 1;
      this.#draw();
      this.#select(drag.index);
    }
    drag.moved = true;
    const [dx, dy] = [x - drag.start[0], y - drag.start[1]];
    this.#set(drag.index, drag.kind === "move" ? this.#shifted(drag.before, dx, dy) : this.#stretched(drag, x, y));
  }

  #release(event) {
    const { drag } = this;
    if (!drag || event.pointerId !== drag.id) return;
    this.drag = null;
    if (!drag.moved) return;
    this.#changed(drag.index);
    this.#boxElement(drag.index).focus({ preventScroll: true });
  }

  #cancel() {
    const { drag } = this;
    this.drag = null;
    if (!drag?.moved) return;
    if (drag.kind === "draw") this.reference.boxes.splice(drag.index, 1);
    else this.reference.boxes[drag.index] = drag.before;
    this.#changed(-1);
  }

  #set(index, box) {
    this.reference.boxes[index] = box;
    this.#place(this.#boxElement(index), box, index);
  }

  #shifted([x0, y0, x1, y1], dx, dy) {
    const { width, height } = this.reference;
    const [right, down] = [clamp(dx, -x0, width - x1), clamp(dy, -y0, height - y1)];
    return [x0 + right, y0 + down, x1 + right, y1 + down];
  }

  // The corner opposite to the one that is pulled stays.
  #stretched({ corner, before: [x0, y0, x1, y1] }, x, y) {
    const fixedX = corner?.includes("w") ? x1 : x0;
    const fixedY = corner?.includes("n") ? y1 : y0;
    return this.#withMinimum([Math.min(fixedX, x), Math.min(fixedY, y), Math.max(fixedX, x), Math.max(fixedY, y)]);
  }

  #withMinimum([x0, y0, x1, y1]) {
    const { width, height } = this.reference;
    const least = Math.min(Math.max(2, 0.01 * Math.min(width, height)), width, height);
    const grow = (low, high, limit) => {
      if (high - low >= least) return [low, high];
      const start = clamp(low, 0, limit - least);
      return [start, start + least];
    };
    const [left, right] = grow(x0, x1, width);
    const [top, bottom] = grow(y0, y1, height);
    return [left, top, right, bottom];
  }

  #key(event) {
    const element = event.target.closest(".draw-box");
    if (!element) return;
    const index = Number(element.dataset.index);
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      this.#select(index);
      this.removeSelected();
      return;
    }
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction || event.altKey || event.metaKey) return;
    event.preventDefault();
    const { width, height, boxes } = this.reference;
    const step = event.ctrlKey ? 1 : Math.max(1, STEP * Math.min(width, height));
    const [dx, dy] = direction.map((one) => one * step);
    const box = boxes[index];
    if (event.shiftKey) {
      const [x0, y0, x1, y1] = box;
      this.#set(index, this.#withMinimum([x0, y0, clamp(x1 + dx, x0, width), clamp(y1 + dy, y0, height)]));
    } else {
      this.#set(index, this.#shifted(box, dx, dy));
    }
    this.announce(`Box ${index + 1}: ${describe(boxes[index])}`);
    this.onChange();
  }
}

function describe(box) {
  const [x0, y0, x1, y1] = box.map(Math.round);
  return `${x1 - x0} by ${y1 - y0} pixels at ${x0}, ${y0}`;
}
