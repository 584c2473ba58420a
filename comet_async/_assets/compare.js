// Behaviour of the components in compare.html. Events are handled on the document, so cards may
// be added and replaced at any time; dispatch "cards-changed" on the document afterwards. The
// script may stand before the cards: they can be used while the rest is still being read.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // Cards of a long page --------------------------------------------------------------------

  // Such cards come inside of noscript, as text. A card is built, without its images, when the
  // browser has time: browsers load embedded images at once, whatever `loading` says. The images
  // follow when the card comes near the window.

  function build(item) {
    const hidden = one(":scope > noscript", item);
    if (!hidden) return;
    const holder = document.createElement("template");
    // With the quote, which stands for itself in markup only: a prompt may speak of "src=".
    holder.innerHTML = hidden.textContent.replaceAll(' src="', ' data-src="');
    item.replaceChildren(holder.content);
    item.classList.remove("unbuilt");
  }

  function load(item) {
    build(item);
    for (const image of all("img[data-src]", item)) {
      image.src = image.dataset.src;
      delete image.dataset.src;
    }
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      load(entry.target);
    }
  }, { rootMargin: "800px" });

  function watch() {
    for (const item of all(".cards > li")) near.observe(item);
  }

  // The images of a long page take a while to read; those at its top are shown at once. The rest
  // stays hidden until the end: a list that grows is laid out again and again.
  let newest = null;
  function watchWhileReading() {
    const done = document.readyState !== "loading";
    document.documentElement.classList.toggle("reading", !done);
    let item = newest ? newest.nextElementSibling : one(".cards > li");
    // The last card may still be incomplete.
    while (item && (done || item.nextElementSibling)) {
      near.observe(item);
      [newest, item] = [item, item.nextElementSibling];
    }
    if (!done) setTimeout(watchWhileReading, 50);
  }

  // For "find in page" and screen readers, all cards are built in the end.
  const whole = { timeRemaining: () => 50 }; // Safari can't say
  const idle = globalThis.requestIdleCallback ?? ((work) => setTimeout(work, 50, whole));
  function buildRest(deadline) {
    const waiting = all(".cards > li.unbuilt");
    while (waiting.length && deadline.timeRemaining() > 5) build(waiting.shift());
    if (waiting.length) idle(buildRest);
  }
  addEventListener("load", () => idle(buildRest));

  addEventListener("beforeprint", () => all(".cards > li").forEach(load));

  // The slider ------------------------------------------------------------------------------

  function split(compare, percent) {
    const value = Math.min(100, Math.max(0, percent));
    const input = one("input[type=range]", compare);
    input.value = String(Math.round(value));
    input.setAttribute("aria-valuetext", `${input.value}% before`);
    compare.style.setProperty("--split", `${value}%`);
    compare.classList.toggle("at-start", value < 15);
    compare.classList.toggle("at-end", value > 85);
  }

  function splitAt(compare, x) {
    const box = compare.getBoundingClientRect();
    split(compare, (100 * (x - box.left)) / box.width);
  }

  let drag = null;

  document.addEventListener("pointerdown", (event) => {
    const compare = event.target.closest?.(".compare:not(.only)");
    if (!compare || event.button !== 0) return;
    // A finger may be about to scroll: only a sideways move or a tap moves the slider.
    drag = { compare, x: event.clientX, moved: event.pointerType !== "touch" };
    one("input[type=range]", compare).focus({ preventScroll: true });
    if (drag.moved) {
      event.preventDefault();
      compare.setPointerCapture(event.pointerId);
      splitAt(compare, event.clientX);
    }
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.moved ||= Math.abs(event.clientX - drag.x) > 3;
    if (drag.moved) splitAt(drag.compare, event.clientX);
  });
  document.addEventListener("pointerup", (event) => {
    if (drag) splitAt(drag.compare, event.clientX);
    drag = null;
  });
  document.addEventListener("pointercancel", () => { drag = null; });
  document.addEventListener("input", (event) => {
    const compare = event.target.closest(".compare");
    if (compare) split(compare, Number(event.target.value));
  });

  // Several results ---------------------------------------------------------------------------

  function showVariant(button) {
    const root = button.closest("li, dialog");
    const chosen = Number(button.dataset.variant);
    all(".compare .after", root).forEach((image, index) => { image.hidden = index !== chosen; });
    for (const each of all(".variants button", root)) {
      each.setAttribute("aria-pressed", String(each === button));
    }
  }

  // The large view ------------------------------------------------------------------------------

  const viewer = one("dialog.viewer");
  let current = null;

  const shown = () => all(".cards > li:not([hidden])");

  function fill(item) {
    current = item;
    load(item);
    const items = shown();
    one("h2", viewer).textContent = one("h3", item).textContent.trim();
    one(".position", viewer).textContent =
      `${items.indexOf(item) + 1} of ${items.length.toLocaleString("en")}`;
    const compare = one(".compare", item).cloneNode(true);
    one(".large", viewer).replaceChildren(compare);
    const parts = all(".variants, .reason, .remedy", item).map((part) => part.cloneNode(true));
    const more = one("template", item);
    if (more) parts.push(more.content.cloneNode(true));
    one(".details", viewer).replaceChildren(...parts);
    viewer.scrollTop = 0;
    for (const button of all("[data-step]", viewer)) button.disabled = items.length < 2;
  }

  function open(item) {
    fill(item);
    viewer.showModal();
    document.documentElement.classList.add("enlarged");
    one("[data-step='1']", viewer).focus();
  }

  function step(by) {
    const items = shown();
    if (items.length) fill(items.at((items.indexOf(current) + by) % items.length));
  }

  viewer?.addEventListener("close", () => {
    document.documentElement.classList.remove("enlarged");
    one(".large", viewer).replaceChildren();
    const opener = current && one("h3 [data-open]", current);
    opener?.focus({ preventScroll: true });
    current?.scrollIntoView({ block: "nearest" });
  });
  viewer?.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      event.preventDefault();
      step(by);
    }
  });

  // Filters, search and order -------------------------------------------------------------------

  const status = one("[data-status]");
  const search = one("[data-search]");
  const sort = one("[data-sort]");
  const texts = new WeakMap();
  const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const ORDERS = {
    name: (a, b) => names.compare(a.dataset.name, b.dataset.name),
    newest: (a, b) => Number(b.dataset.when) - Number(a.dataset.when),
    slowest: (a, b) => Number(b.dataset.seconds) - Number(a.dataset.seconds),
    problems: (a, b) => (a.dataset.outcome === "done") - (b.dataset.outcome === "done"),
  };

  function words(item) {
    const hidden = one(":scope > noscript", item);
    const holder = document.createElement("template");
    // Without the images, most of the text: a search reads all cards.
    if (hidden) holder.innerHTML = hidden.textContent.replaceAll(/ src="[^"]*"/g, "");
    const root = hidden ? holder.content : item;
    const more = one("template", root)?.content.textContent ?? "";
    return `${one(".body", root).textContent} ${more}`;
  }

  function text(item) {
    if (!texts.has(item)) {
      texts.set(item, words(item).toLowerCase());
    }
    return texts.get(item);
  }

  const pressed = (name) =>
    all(`.chip[data-${name}][aria-pressed=true]`).map((chip) => chip.dataset[name]);

  function filter() {
    const outcomes = pressed("outcome");
    const properties = pressed("property");
    const words = (search?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const list = one(".cards");
    const items = all(".cards > li");
    let count = 0;
    // Hiding a thousand cards one by one is slow while they are laid out.
    list.hidden = true;
    for (const item of items) {
      const has = (item.dataset.properties ?? "").split(",");
      const fits =
        (!outcomes.length || outcomes.includes(item.dataset.outcome)) &&
        properties.every((property) => has.includes(property)) &&
        (!words.length || words.every((word) => text(item).includes(word)));
      item.hidden = !fits;
      count += fits;
    }
    void document.body.offsetHeight;
    list.hidden = false;
    if (status) {
      const total = items.length.toLocaleString("en");
      const here = one(".pages") ? "on this page" : "shown";
      status.textContent =
        count === items.length ? `${total} ${here}` : `${count.toLocaleString("en")} of ${total} ${here}`;
    }
    const empty = one("[data-empty]");
    if (empty) empty.hidden = count > 0;
    linkPages(outcomes, properties, words);
  }

  // Links to further pages take the filters with them, and say how many images fit there.
  function linkPages(outcomes, properties, words) {
    const links = all(".pages a[data-counts]");
    if (!links.length) return;
    const state = new URLSearchParams();
    for (const each of outcomes) state.append("outcome", each);
    for (const each of properties) state.append("property", each);
    if (words.length) state.set("q", search.value);
    if (sort && sort.value !== "name") state.set("sort", sort.value);
    const filtered = (outcomes.length || properties.length) && !words.length;
    for (const link of links) {
      let fit = 0;
      for (const [outcome, has, many] of JSON.parse(link.dataset.counts)) {
        const fits = (!outcomes.length || outcomes.includes(outcome)) &&
          properties.every((property) => has.includes(property));
        if (fits) fit += many;
      }
      one(".count", link).textContent = filtered ? `(${fit.toLocaleString("en")})` : "";
      link.hash = state.toString();
    }
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of ["outcome", "property"]) {
      for (const chip of all(`.chip[data-${name}]`)) {
        if (state.getAll(name).includes(chip.dataset[name])) chip.setAttribute("aria-pressed", "true");
      }
    }
    if (search && state.has("q")) search.value = state.get("q");
    if (sort && state.get("sort") in ORDERS) sort.value = state.get("sort");
  }

  function order() {
    const items = all(".cards > li");
    const by = ORDERS[sort?.value] ?? ORDERS.name;
    items.sort((a, b) => by(a, b) || ORDERS.name(a, b));
    one(".cards").append(...items);
  }

  function clear() {
    for (const chip of all(".chip")) chip.setAttribute("aria-pressed", "false");
    if (search) search.value = "";
    filter();
  }

  search?.addEventListener("input", filter);
  sort?.addEventListener("change", () => { order(); filter(); });
  document.addEventListener("cards-changed", () => { watch(); filter(); });

  // Buttons ----------------------------------------------------------------------------------------

  async function copy(button) {
    const words = button.dataset.copy;
    await navigator.clipboard.writeText(words);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.matches("[data-outcome], [data-property]")) {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      filter();
    } else if (button.matches("[data-variant]")) showVariant(button);
    else if (button.matches("[data-open]")) open(button.closest("li"));
    else if (button.matches("[data-step]")) step(Number(button.dataset.step));
    else if (button.matches("[data-close]")) viewer.close();
    else if (button.matches("[data-clear]")) clear();
    else if (button.matches("[data-copy]")) copy(button);
  });
  document.addEventListener("dblclick", (event) => {
    const item = event.target.closest(".cards .compare")?.closest("li");
    if (item) open(item);
  });

  function begin() {
    if (!one(".cards")) return;
    if (sort && sort.value !== "name") order(); // browsers keep what was chosen
    filter();
  }

  restore();
  watchWhileReading();
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
