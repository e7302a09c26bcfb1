// The pages are whole without this file: it sorts and filters tables, draws figures, switches between light and dark.
(() => {
"use strict";
const root = document.documentElement;
const up = document.currentScript.dataset.up;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Storage may be closed to pages that are opened as files: then the choice lasts as long as the page.
const stored = (value) => {
  try {
    if (value !== undefined) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch { return null; }
};
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
if (["light", "dark"].includes(stored())) root.dataset.theme = stored();

function themes() {
  const button = document.getElementById("theme");
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  name();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored(root.dataset.theme);
    name();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); redraw(); });
}

// Sorting: the first number of a cell, or its text. Empty cells come last whichever way.
const number = (text) => {
  const found = text.replace(/−/g, "-").replace(/,/g, "").match(/^\s*(?:≥\s*)?([+-]?\d+(?:\.\d+)?)(?![\d.]|\s*[a-z])/i);
  return found ? Number(found[1]) : null;
};
function sortable(table) {
  const heads = all("thead th", table), body = table.tBodies[0], rows = [...body.rows];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const text = head.classList.contains("t"), now = head.getAttribute("aria-sort");
      const order = now === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keys = new Map(rows.map((row) => {
        const cell = row.cells[column].textContent.trim();
        return [row, text ? cell || null : number(cell)];
      }));
      const compare = (a, b) => text ? a.localeCompare(b, "en", {numeric: true}) : a - b;
      body.append(...[...rows].sort((x, y) => {
        const a = keys.get(x), b = keys.get(y);
        return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
      }));
    });
  });
}

function filter(form) {
  const {text, budget, controls} = form.elements, output = form.querySelector("output");
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, of = 0;
    for (const section of all("section.budget")) {
      section.hidden = budget.value !== "" && section.dataset.budget !== budget.value;
      for (const row of all("tbody tr", section)) {
        const name = row.cells[0].textContent.toLowerCase();
        row.hidden = !words.every((word) => name.includes(word))
          || (!controls.checked && row.classList.contains("control"));
        of += 1;
        shown += !row.hidden && !section.hidden;
      }
    }
    output.textContent = shown === of ? "" : `${shown} of ${of} rows`;
  };
  form.hidden = false;
  for (const event of ["input", "change"]) form.addEventListener(event, apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

function copying(pre) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(pre);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  pre.after(button);
}

// Figures: the scripts that draw are loaded when the first figure comes near.
const load = (name) => load[name] ||= new Promise((done, failed) => {
  const script = document.createElement("script");
  script.src = `${up}assets/${name}`;
  script.onload = done;
  script.onerror = failed;
  document.head.append(script);
});
const fromTable = (table) => {
  const keys = all("thead th", table).map((head) => head.dataset.key);
  return [...table.tBodies[0].rows].map((row) => Object.fromEntries(keys.map((key, n) => {
    const cell = row.cells[n].textContent.trim();
    return [key, key === "part" ? cell : cell === "" ? null : Number(cell)];
  })));
};
function specOf(figure) {
  const block = figure.querySelector("script[type='application/json']");
  const given = block && JSON.parse(block.textContent);
  if (figure.dataset.figure === "spec") return given;
  const spec = structuredClone(window.boardSpecs[figure.dataset.figure]);
  spec.data.values = given || fromTable(figure.querySelector("table.source"));
  return spec;
}
function colours() {
  const style = getComputedStyle(root), of = (name) => style.getPropertyValue(name).trim();
  const ink = of("--ink"), soft = of("--soft"), line = of("--line");
  return {
    background: "transparent",
    padding: 5,
    axis: {labelColor: soft, titleColor: ink, domainColor: soft, tickColor: soft, gridColor: line},
    legend: {labelColor: ink, titleColor: ink},
    text: {color: ink},
  };
}
const merged = (one, other) => Object.fromEntries([...new Set([...Object.keys(one), ...Object.keys(other)])].map((key) => {
  const a = one[key], b = other[key];
  const both = a && b && typeof a === "object" && typeof b === "object" && !Array.isArray(b);
  return [key, both ? merged(a, b) : b === undefined ? a : b];
}));

async function draw(figure) {
  const holder = figure.querySelector(".plot");
  try {
    await Promise.all([load("vega.js"), load("specs.js")]);
    const spec = specOf(figure), narrow = holder.clientWidth < 620;
    spec.width = "container";
    spec.autosize = {type: "fit-x", contains: "padding"};
    spec.config = merged(spec.config, colours());
    if (narrow) spec.config.legend = merged(spec.config.legend, {orient: "bottom", columns: 2, labelLimit: 120});
    const place = document.createElement("div");
    place.className = "drawn";
    place.style.minHeight = `${holder.clientHeight}px`;
    const still = [...holder.childNodes];
    holder.append(place);
    const {view} = await vegaEmbed(place, spec, {
      actions: false, renderer: "svg", ast: true, tooltip: {theme: dark() ? "dark" : "light"},
    });
    if (figure.view) figure.view.finalize();
    figure.view = view;
    still.forEach((node) => node.remove());
    place.style.minHeight = "";
    walkable(figure, place);
  } catch (error) {
    all(".drawn", holder).slice(1).forEach((node) => node.remove());
    console.warn(`figure not drawn: ${error}`);
  }
}
function redraw() {
  all("figure[data-figure]").filter((figure) => figure.view).forEach(draw);
}

// Points by keyboard: the plot is one stop, arrows go from point to point, Enter opens what a click would.
function walkable(figure, place) {
  const points = () => all("path", place)
    .filter((path) => path.__data__?.datum?.is !== "run" && path.__data__?.tooltip)
    .sort((a, b) => a.__data__.x - b.__data__.x || a.__data__.y - b.__data__.y);
  const graphic = place.querySelector("svg");
  if (!graphic || !points().length) return;
  const opens = points().some((path) => path.__data__.href);
  const spoken = document.createElement("p");
  spoken.className = "hidden";
  spoken.setAttribute("aria-live", "polite");
  place.append(spoken);
  graphic.setAttribute("tabindex", "0");
  graphic.setAttribute("role", "group");
  graphic.setAttribute("aria-label",
    `${figure.querySelector("figcaption")?.textContent || "Plot"} Arrow keys go from point to point${opens ? ", Enter opens one" : ""}.`);
  let at = -1, ring = null;
  const leave = () => {
    if (!ring) return;
    ring.classList.remove("at");
    ring.dispatchEvent(new PointerEvent("pointerout", {bubbles: true}));
    ring = null;
  };
  graphic.addEventListener("blur", leave);
  graphic.addEventListener("keydown", (event) => {
    const found = points(), step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Enter" && ring) ring.dispatchEvent(new MouseEvent("click", {bubbles: true}));
    if (event.key === "Escape") leave();
    if (!step || !found.length) return;
    event.preventDefault();
    leave();
    at = (at + step + found.length) % found.length;
    ring = found[at];
    ring.classList.add("at");
    const box = ring.getBoundingClientRect();
    ring.dispatchEvent(new PointerEvent("pointermove", {
      bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2,
    }));
    spoken.textContent = Object.entries(ring.__data__.tooltip).map(([key, value]) => `${key} ${value}`).join(", ");
  });
}

// Boxes that scroll sideways can be reached by keyboard, and are called after the heading above them.
function reachable() {
  let heading = "";
  for (const element of all("h1, h2, summary, .scroll")) {
    if (!element.classList.contains("scroll")) heading = element.textContent;
    else for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", heading]]) element.setAttribute(name, value);
  }
}

document.addEventListener("DOMContentLoaded", () => {
  themes();
  reachable();
  all("table.rows, table.boards").forEach(sortable);
  all("form.filter").forEach(filter);
  all("pre.copy").forEach(copying);
  const near = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => {
    near.unobserve(one.target);
    draw(one.target);
  }), {rootMargin: "400px"});
  all("figure[data-figure]").forEach((figure) => near.observe(figure));
});
})();
