// Boxes and masks over a picture, as SVG in the picture's own pixels.

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, className) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.setAttribute("class", className);
  return element;
}

function boxShapes([x0, y0, x1, y1], kind) {
  const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  return [shape("rect", place, "halo"), shape("rect", place, `box ${kind}`)];
}

function maskShape(outline) {
  const path = outline.map((polygon) => {
    const points = [];
    for (let i = 0; i < polygon.length; i += 2) points.push(`${polygon[i]} ${polygon[i + 1]}`);
    return `M${points.join("L")}Z`;
  });
  return shape("path", { d: path.join(""), "fill-rule": "evenodd" }, "mask");
}

/** The picture of a hit with what was found on it; `side` as for pictureUrl. */
export function hitOverlay(hit) {
  const svg = shape("svg", { viewBox: `0 0 ${hit.width} ${hit.height}` }, "overlay");
  svg.setAttribute("aria-hidden", "true");
  const { refined } = hit;
  if (refined?.outline) svg.append(maskShape(refined.outline));
  svg.append(...boxShapes(hit.box, refined ? "search faint" : "search"));
  if (refined) svg.append(...boxShapes(refined.box, "refined"));
  return svg;
}
