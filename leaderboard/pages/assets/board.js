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

// What a reader chose, in the address after #: budget, sort, text, controls. A plain name there is a place on the page.
const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const remember = (key, value) => {
  if (value) state.set(key, value);
  else state.delete(key);
  history.replaceState(null, "", `#${state}`);
};

// Sorting: the first number of a cell, or its text; the best first. Empty cells come last whichever way.
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
    const text = head.classList.contains("t"), name = button.textContent;
    const best = text || head.classList.contains("low") ? ["ascending", "descending"] : ["descending", "ascending"];
    const sort = (order) => {
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
    };
    button.addEventListener("click", () => {
      const order = best[Number(head.getAttribute("aria-sort") === best[0])];
      sort(order);
      remember("sort", `${name} ${order}`);
    });
    for (const order of best) if (state.get("sort") === `${name} ${order}`) sort(order);
  });
}

function filter(form) {
  const {network, text, budget, controls} = form.elements, output = form.querySelector("output");
  const sections = all("section.budget"), first = budget.value;
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, of = 0;
    for (const section of sections) {
      section.hidden = budget.value !== "" && section.dataset.budget !== budget.value;
      for (const row of all("tbody tr, .forest li", section)) {
        const name = row.querySelector("th, .name").textContent.toLowerCase();
        row.hidden = !words.every((word) => name.includes(word))
          || (!controls.checked && row.classList.contains("control"));
        if (section.hidden || row.localName !== "tr") continue;
        of += 1;
        shown += !row.hidden;
      }
    }
    output.textContent = shown === of ? "" : shown ? `${shown} of ${of} rows` : "no row matches";
    all("figure[data-figure]").forEach(atBudget);
  };
  const goTo = () => {
    const at = document.getElementById(location.hash.slice(1)), section = at?.closest("section.budget");
    if (!section?.hidden) return;
    budget.value = section.dataset.budget;
    apply();
    at.scrollIntoView();
  };
  if (state.has("budget") && [...budget.options].some((option) => option.value === state.get("budget").replace("all", ""))) {
    budget.value = state.get("budget").replace("all", "");
  }
  text.value = state.get("text") || "";
  controls.checked = state.get("controls") !== "no";
  form.hidden = false;
  for (const event of ["input", "change"]) form.addEventListener(event, () => {
    apply();
    remember("budget", budget.value === first ? "" : budget.value || "all");
    remember("text", text.value);
    remember("controls", controls.checked ? "" : "no");
  });
  network.addEventListener("change", () => {
    location.href = `${network.value}#${new URLSearchParams({budget: budget.value || "all"})}`;
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => {
    if (location.hash.includes("=")) location.reload();
    else goTo();
  });
  apply();
  goTo();
}

// The plot of costs shows the budget that the page shows.
function atBudget(figure) {
  const section = document.querySelector("section.budget:not([hidden])"), alone = all("section.budget:not([hidden])").length === 1;
  if (figure.view?.getState().signals.budget) figure.view.signal("budget", alone ? section.dataset.title : "all budgets").runAsync();
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
    rule: {color: ink},
  };
}
const merged = (one, other) => Object.fromEntries([...new Set([...Object.keys(one), ...Object.keys(other)])].map((key) => {
  const a = one[key], b = other[key];
  const both = a && b && typeof a === "object" && typeof b === "object" && !Array.isArray(b);
  return [key, both ? merged(a, b) : b === undefined ? a : b];
}));

// Curves: which rows are in colour, six at most.
const chosenOf = (spec) => spec.params?.find((param) => param.name === "chosen");
function withChosen(spec, names) {
  chosenOf(spec).value = names;
  for (const {encoding} of spec.layer) for (const channel of ["color", "shape"]) {
    if (encoding?.[channel]?.scale) encoding[channel].scale.domain = names;
  }
  return spec;
}
function choosable(figure, spec) {
  const first = chosenOf(spec);
  if (!first || figure.querySelector("details.choose")) return;
  figure.chosen = first.value;
  const details = document.createElement("details");
  details.className = "choose";
  details.append(Object.assign(document.createElement("summary"), {textContent: "Rows in colour, six at most"}));
  for (const name of [...new Set(spec.data.values.map((value) => value.series))].sort()) {
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, {type: "checkbox", value: name, checked: figure.chosen.includes(name)});
    label.append(box, ` ${name}`);
    details.append(label);
  }
  const boxes = all("input", details);
  const limit = () => boxes.forEach((box) => { box.disabled = !box.checked && figure.chosen.length > 5; });
  details.addEventListener("change", () => {
    figure.chosen = boxes.filter((box) => box.checked).map((box) => box.value);
    limit();
    draw(figure);
  });
  limit();
  figure.append(details);
}

async function draw(figure) {
  const holder = figure.querySelector(".plot");
  try {
    await Promise.all([load("vega.js"), load("specs.js")]);
    const given = specOf(figure), spec = figure.chosen ? withChosen(given, figure.chosen) : given, narrow = holder.clientWidth < 620;
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
    atBudget(figure);
    choosable(figure, given);
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
  const seen = {};
  for (const element of all("h1, h2, summary, .scroll")) {
    if (!element.classList.contains("scroll")) heading = element.textContent;
    else {
      seen[heading] = (seen[heading] || 0) + 1;
      const name = `${heading}, table${seen[heading] > 1 ? ` ${seen[heading]}` : ""}`;
      for (const [key, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", name]]) element.setAttribute(key, value);
    }
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
  addEventListener("scroll", () => document.getElementById("vg-tooltip-element")?.classList.remove("visible"), {passive: true});
});
})();
