// What makes a page comfortable: times that count, a theme, copying, the choice of a run, and the live parts.
// Without it everything is there, as it was when the page was loaded.
import { follow } from "./live.js";

const root = document.documentElement;

function storedTheme(value) {
  try {
    if (value !== undefined) localStorage.setItem("ckptd-theme", value);
    return localStorage.getItem("ckptd-theme");
  } catch { return null; }
}

const theme = document.getElementById("theme");
const chosen = storedTheme();
if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  storedTheme(root.dataset.theme);
  document.dispatchEvent(new Event("ckptd:theme"));
});

const choice = document.getElementById("run");
if (choice) {
  choice.addEventListener("change", () => choice.form.submit());
  choice.form.querySelector("button").hidden = true;
}

export function ago(seconds) {
  if (seconds < -1) return "in the future";
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

// Call after new content came in.
export function refresh(within = document) {
  for (const each of within.querySelectorAll("time[data-ago]")) {
    each.textContent = ago(Date.now() / 1000 - Number(each.dataset.ago));
  }
  if (navigator.clipboard) for (const each of within.querySelectorAll("button.copy[hidden]")) each.hidden = false;
}
refresh();
setInterval(refresh, 5000);

const timeline = document.querySelector(".timeline");
if (timeline) timeline.scrollLeft = timeline.scrollWidth;

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  const was = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = was; }, 1200);
});

if (document.body.dataset.events) follow(document.body.dataset.events, document.body.dataset.after, refresh);

// A page without a run becomes the page of the first one.
async function awaitRun() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (answer.ok && (await answer.text()).includes(" data-events=")) return location.reload();
  } catch { /* the daemon is away: it may come back */ }
  setTimeout(awaitRun, 1000);
}
if (document.querySelector("[data-awaits-run]")) awaitRun();
