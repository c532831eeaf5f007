// Files that are dropped or pasted anywhere on the page.

/**
 * @param {(files: File[]) => void} onFiles
 * @param {(error: Error) => void} onError what was dropped is no file
 */
export function takeFiles(onFiles, onError) {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) onFiles(files);
    else onError(new Error("That was no file: save the picture first, then drop its file here."));
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) onFiles([...event.clipboardData.files]);
  });
}
