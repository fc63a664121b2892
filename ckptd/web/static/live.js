// The live parts: one event stream, whose events replace the parts of the page that have changed.
// The badge says "live", or "lost" when nothing was heard for a moment, and the stream is opened again until it is.
const SILENT_MS = 2500, AGAIN_MS = 1000;

// What the keyboard is on is found again by this in a part that has come anew.
function nameOf(each) {
  const said = ["href", "aria-label", "aria-labelledby"].map((one) => each.getAttribute(one)).find(Boolean);
  return `${each.tagName} ${said || each.textContent}`;
}

export function follow(url, after, refresh) {
  const badge = document.getElementById("badge");
  let source = null, heard = performance.now(), last = after, isLost = null, ended = "";

  function show() {
    const silent = performance.now() - heard;
    const lost = silent > SILENT_MS || ended !== "";
    if (lost !== isLost) {
      isLost = lost;
      badge.hidden = false;
      badge.classList.toggle("lost", lost);
      badge.textContent = lost ? "lost" : "live";
      document.body.classList.toggle("is-lost", lost);
    }
    badge.title = lost ? (ended || `nothing heard for ${Math.round(silent / 1000)} s`) : "updated as it happens";
  }

  function note(event) {
    heard = performance.now();
    ended = "";
    if (event.lastEventId) last = event.lastEventId;
    show();
  }

  function part(event) {
    note(event);
    const place = document.querySelector(`[data-part="${event.type}"]`);
    if (!place) return;
    const open = [...place.querySelectorAll("details")].map((each) => each.open);
    const scrolled = [...place.querySelectorAll(".timeline, .scroll")].map((each) => each.scrollLeft);
    const focused = place.contains(document.activeElement) ? nameOf(document.activeElement) : null;
    place.innerHTML = event.data;
    place.querySelectorAll("details").forEach((each, i) => { each.open = open[i] || false; });
    place.querySelectorAll(".timeline, .scroll").forEach((each, i) => { each.scrollLeft = each.matches(".timeline") ? each.scrollWidth : scrolled[i] || 0; });
    if (focused) [...place.querySelectorAll("a, button, summary, [tabindex]")].find((each) => nameOf(each) === focused)?.focus({ preventScroll: true });
    refresh(place);
    document.dispatchEvent(new CustomEvent("ckptd:part", { detail: event.type }));
  }

  function log(event) {
    note(event);
    const list = document.getElementById("events");
    if (!list) return;
    list.insertAdjacentHTML("afterbegin", event.data);
    while (list.children.length > 500) list.lastElementChild.remove();
    document.getElementById("no-events").hidden = true;
    filter();
  }

  function open() {
    source = new EventSource(`${url}&after=${encodeURIComponent(last)}`);
    for (const name of ["health", "now", "timeline", "charts", "checkpoints"]) source.addEventListener(name, part);
    source.addEventListener("log", log);
    source.addEventListener("beat", note);
    source.addEventListener("open", note);
    source.addEventListener("bye", (event) => { ended = event.data || "the daemon has ended"; again(); });
    source.addEventListener("error", () => { ended = ended || "the connection broke"; again(); });
  }

  function again() {
    source.close();
    show();
    setTimeout(open, AGAIN_MS);
  }

  const box = document.getElementById("filter");
  function filter() {
    if (!box) return;
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const each of document.getElementById("events").children) {
      const text = `${each.className} ${each.textContent}`.toLowerCase();
      each.hidden = !words.every((word) => text.includes(word));
    }
  }
  if (box) {
    box.hidden = false;
    box.addEventListener("input", filter);
    box.form.addEventListener("submit", (event) => event.preventDefault());
  }

  open();
  setInterval(show, 250);
  addEventListener("pagehide", () => source.close());
}
