// Keeps the front page up to date: the server says that something changed, the page is fetched
// again, and only what differs is replaced, so sliders stay where they are.
"use strict";
(() => {
  const PARTS = ["totals", "chips", "shown", "pages"];
  let busy = false;
  let again = false;

  function replaceCards(list, next) {
    const known = new Map([...list.children].map((item) => [item.id, item]));
    const items = [...next.children].map((item) => {
      const old = known.get(item.id);
      return old && old.dataset.version === item.dataset.version ? old : item;
    });
    list.replaceChildren(...items);
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const reply = await fetch(location.href);
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      for (const id of PARTS) document.getElementById(id).replaceWith(page.getElementById(id));
      const stage = page.getElementById("page").style.getPropertyValue("--stage");
      document.getElementById("page").style.setProperty("--stage", stage);
      replaceCards(document.getElementById("cards"), page.getElementById("cards"));
      document.dispatchEvent(new Event("cards-changed"));
    } catch { /* the sandbox has stopped; keep what is shown */ }
    await new Promise((resolve) => setTimeout(resolve, 300));
    busy = false;
    if (again) { again = false; refresh(); }
  }

  new EventSource("/events").addEventListener("change", refresh);
})();
