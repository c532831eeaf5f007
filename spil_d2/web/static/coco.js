// COCO json of results and marks.

const CATEGORY = { id: 1, name: "instance" };

/**
 * The shown results, or the marks, as one COCO data set. The box of an annotation is the refined
 * one where there is one; score, similarity, rank and mark ("right", "wrong" or null) stand beside.
 */
export function toCoco(hits, markOf, description) {
  const annotations = hits.map((hit, position) => {
    const best = hit.refined ?? hit;
    const [x0, y0, x1, y1] = best.box;
    const annotation = {
      id: position + 1,
      image_id: hit.image_id,
      category_id: CATEGORY.id,
      bbox: [x0, y0, x1 - x0, y1 - y0].map((value) => Math.round(value * 100) / 100),
      area: Math.round((x1 - x0) * (y1 - y0) * 100) / 100,
      iscrowd: 0,
      score: best.score,
      similarity: hit.similarity,
      rank: hit.rank,
      refined: Boolean(hit.refined),
      mark: markOf(hit.image_id),
    };
    if (best.mask) annotation.segmentation = best.mask;
    return annotation;
  });
  const images = hits.map((hit) => ({
    id: hit.image_id,
    file_name: hit.image,
    width: hit.width,
    height: hit.height,
  }));
  return { info: { description }, images, categories: [CATEGORY], annotations };
}

export function download(name, content) {
  const text = JSON.stringify(content, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  // The browser has to begin the download first.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
