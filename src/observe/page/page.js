// Refines a page that is complete without it: renews it in place, and copies errors.
"use strict";

const every = 2000;

function prepare() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    // Clipboards are for secure places only, of which loopback is one.
    button.hidden = !navigator.clipboard;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "Copied";
});

async function renew() {
  try {
    // What somebody is reading with the mouse stays as it is.
    if (document.hidden || String(getSelection()) || document.activeElement?.matches("button")) return;
    const answer = await fetch("/", { signal: AbortSignal.timeout(every * 2) });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    document.getElementById("board").replaceWith(fresh.getElementById("board"));
    prepare();
  } catch {
    const stale = document.getElementById("stale");
    if (stale) stale.hidden = false;
  } finally {
    setTimeout(renew, every);
  }
}

prepare();
setTimeout(renew, every);
