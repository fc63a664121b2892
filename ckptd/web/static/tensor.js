// Brings what the values are like, once the page is there: reading them may take seconds.

const place = document.getElementById("values");
const url = place && place.dataset.values;

async function read() {
  try {
    const answer = await fetch(url, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    const text = await answer.text();
    if (!answer.ok) throw new Error(String(answer.status));
    place.innerHTML = text; // rendered by the server, which escapes every name
    if (place.querySelector("[data-later]")) setTimeout(read, 2000);
  } catch {
    const again = document.createElement("p");
    again.textContent = "The values could not be read: the connection is lost, or the daemon is busy. ";
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = "Try again";
    again.append(link);
    place.replaceChildren(again);
  }
}

if (url) {
  const told = document.createElement("p");
  told.className = "quiet reading";
  told.textContent = "Reading the values";
  place.replaceChildren(told);
  read();
}
