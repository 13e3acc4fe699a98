// The report's script: opens what a link leads to, filters rules, and leafs through rows.
// What others wrote, rows and answers above all, becomes text by textContent and nothing else.
"use strict";

const PAGE = 10; // rows on a page
const LONG = 1500; // characters of a text that are shown at first
// as in words.py: what can't be seen or turns text round is spelt out
const UNPRINTABLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const IMAGE = /^data:image\/(png|jpeg|gif);base64,[A-Za-z0-9+/=]+$/;

function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function printable(text) {
  return text.replace(UNPRINTABLE, (odd) => "\\u" + odd.charCodeAt(0).toString(16).padStart(4, "0"));
}

// ---- rows: unpacked when they are first seen

async function unpack(browser) {
  const bytes = Uint8Array.from(atob(JSON.parse(browser.querySelector("script").textContent)), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const [head, ...rows] = (await new Response(stream).text()).split("\n");
  return { columns: JSON.parse(head).columns, rows: rows.map((row) => JSON.parse(row)) };
}

const unpacked = new Map();
function read(browser) {
  if (!unpacked.has(browser)) unpacked.set(browser, unpack(browser));
  return unpacked.get(browser);
}

// The prompts of a rule by the answers they got, so that a row can show what was asked for it.
async function promptsOf(browser) {
  const calls = browser.parentElement.querySelector('.browser[data-kind="calls"]');
  const found = new Map();
  if (browser.dataset.kind !== "rows" || !calls) return found;
  for (const [, prompt, answer] of (await read(calls)).rows) {
    if (typeof answer === "string" && answer.trim()) found.set(answer.trim(), prompt);
  }
  return found;
}

function asText(cell) {
  if (cell === null) return "null";
  if (!Array.isArray(cell)) return String(cell);
  if (cell[0] === "turns") return cell[1].map(([role, text]) => role + "\n" + text).join("\n");
  return cell[0] === "image" ? "" : cell[1];
}

// ---- one value

function marked(text, words) {
  const block = element("div", "said");
  let at = 0;
  const lower = text.toLowerCase();
  for (let hit = words ? lower.indexOf(words) : -1; hit >= 0 && lower.length === text.length; hit = lower.indexOf(words, at)) {
    block.append(text.slice(at, hit), element("mark", "", text.slice(hit, hit + words.length)));
    at = hit + words.length;
  }
  block.append(text.slice(at));
  return block;
}

function textBlock(text, words, kind) {
  const whole = printable(text);
  const block = element("div");
  const show = (part) => {
    const said = marked(part, words);
    if (kind) said.classList.add(kind);
    block.replaceChildren(said);
  };
  if (whole.length <= LONG) {
    show(whole);
    return block;
  }
  show(whole.slice(0, LONG) + "…");
  const more = element("button", "more", `Show all ${whole.length.toLocaleString("en")} characters`);
  more.type = "button";
  more.addEventListener("click", () => show(whole));
  block.append(more);
  return block;
}

function valueBlock(cell, words) {
  if (cell === null) return element("div", "said null", "null");
  if (!Array.isArray(cell)) return textBlock(String(cell), words, typeof cell === "string" ? "" : "code");
  if (cell[0] === "image" && IMAGE.test(cell[1])) {
    const image = element("img");
    image.src = cell[1];
    image.alt = "image in this row";
    return image;
  }
  if (cell[0] !== "turns") return textBlock(cell[1], words, "code");
  const block = element("div");
  for (const [role, text] of cell[1]) {
    const turn = element("div", "turn");
    turn.append(element("div", "role", printable(role)), textBlock(text, words));
    block.append(turn);
  }
  return block;
}

function cellBlock(name, cell, words) {
  const block = element("div", "cell");
  block.append(element("span", "name", printable(name)), valueBlock(cell, words));
  return block;
}

// ---- leafing

function record(data, row, words, prompts) {
  const block = element("article", "record");
  block.append(element("div", "number", data.rows.length > 1 ? row[0].toLocaleString("en") : ""));
  const given = element("div", "side given");
  const made = element("div", "side made");
  const prompt = row.slice(1).map((cell) => typeof cell === "string" && prompts.get(cell.trim())).find(Boolean);
  if (prompt) given.append(cellBlock("prompt as sent", prompt, words));
  const sent = prompt ? asText(prompt) : "";
  const within = []; // columns whose texts are in the prompt already
  data.columns.forEach((column, at) => {
    const cell = row[at + 1];
    if (column.given && typeof cell === "string" && cell && sent.includes(cell)) within.push(printable(column.name));
    else if (at + 1 < row.length) (column.given ? given : made).append(cellBlock(column.name, cell, words));
  });
  if (within.length) given.append(element("div", "within", `in it: ${within.join(", ")}`));
  const sides = [given, made].filter((side) => side.childElementCount);
  if (sides.length === 1) sides[0].classList.add("alone");
  block.append(...sides);
  return block;
}

async function open(browser) {
  const view = browser.querySelector(".view");
  if (view.dataset.ready) return;
  view.dataset.ready = "yes";
  const [data, prompts] = await Promise.all([read(browser), promptsOf(browser)]);
  const name = browser.querySelector("summary").textContent;
  const tools = element("div", "tools");
  const label = element("label", "", "Search");
  const input = element("input");
  input.type = "search";
  input.setAttribute("aria-label", `Search in ${name}`);
  label.append(input);
  const where = element("p", "where");
  where.setAttribute("role", "status");
  const back = element("button", "", "Previous");
  const on = element("button", "", "Next");
  back.type = on.type = "button";
  tools.append(label, where, back, on);
  const list = element("div", "records");
  view.append(tools, list);

  let start = 0;
  let found = data.rows;
  const show = () => {
    const words = input.value.trim().toLowerCase();
    const shown = found.slice(start, start + PAGE);
    const last = start + shown.length;
    where.textContent = found.length ? `${start + 1}–${last} of ${found.length.toLocaleString("en")}` + (words ? " found" : "") : "Nothing found";
    back.disabled = start === 0;
    on.disabled = last >= found.length;
    list.replaceChildren(...shown.map((row) => record(data, row, words, prompts)));
  };
  const search = () => {
    const words = input.value.trim().toLowerCase();
    const asked = (row) => row.slice(1).map((cell) => asText(cell) + "\n" + (typeof cell === "string" && prompts.has(cell.trim()) ? asText(prompts.get(cell.trim())) : ""));
    found = words ? data.rows.filter((row) => asked(row).join("\n").toLowerCase().includes(words)) : data.rows;
    start = 0;
    show();
  };
  const turn = (by) => () => {
    start = Math.max(0, start + by);
    show();
    if (document.activeElement.disabled) (by > 0 ? back : on).focus();
    view.scrollIntoView({ block: "nearest" });
  };
  input.addEventListener("input", search);
  back.addEventListener("click", turn(-PAGE));
  on.addEventListener("click", turn(PAGE));
  show();
}

// Parts that are open in the file are told of as toggled, too: only what is in an open rule is seen.
function openInside(rule) {
  for (const browser of rule.open ? rule.querySelectorAll(".browser[open]") : []) open(browser);
}

for (const rule of document.querySelectorAll(".rule")) rule.addEventListener("toggle", () => openInside(rule));
for (const browser of document.querySelectorAll(".browser")) {
  browser.addEventListener("toggle", () => openInside(browser.closest(".rule")));
}

// ---- links to a rule open it

function follow() {
  const rule = location.hash && document.getElementById(location.hash.slice(1));
  if (!rule || !rule.matches("details")) return;
  rule.open = true;
  rule.scrollIntoView();
  rule.querySelector("summary").focus({ preventScroll: true });
}
addEventListener("hashchange", follow);
document.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#"]');
  const hash = link && link.getAttribute("href");
  if (hash && hash === location.hash) follow();
});

// ---- finding rules

const find = document.getElementById("find");
const rules = [...document.querySelectorAll(".rule")].map((rule) => ({
  rule,
  entry: document.querySelector(`nav [data-rule="${rule.id}"]`),
  text: [...rule.querySelectorAll("summary, p, dl, pre, h4, table")].map((part) => part.textContent).join("\n").toLowerCase(),
}));
find.addEventListener("input", () => {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let hits = 0;
  for (const { rule, entry, text } of rules) {
    const has = words.every((word) => text.includes(word));
    rule.hidden = entry.hidden = !has;
    hits += has;
  }
  document.getElementById("none").hidden = hits > 0;
  document.getElementById("hits").textContent = words.length ? `${hits.toLocaleString("en")} of ${rules.length.toLocaleString("en")} rules` : "";
});
find.closest(".search").hidden = false;

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches && event.target.matches("input, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById("menu").open = true;
    find.focus();
    find.select();
  } else if (event.key === "Escape" && typing) {
    event.target.value = "";
    event.target.dispatchEvent(new Event("input"));
  }
});

// ---- light and dark

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
function remember(name) {
  try {
    return name === undefined ? localStorage.getItem("ddmake-theme") : localStorage.setItem("ddmake-theme", name);
  } catch {
    return null; // a page opened from a file may have no storage
  }
}
function isDark() {
  return document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : dark.matches;
}
function tell() {
  theme.setAttribute("aria-pressed", String(isDark()));
}
const chosen = remember();
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  remember(document.documentElement.dataset.theme);
  tell();
});
dark.addEventListener("change", tell);
theme.hidden = false;
tell();
if (matchMedia("(max-width: 56rem)").matches) document.getElementById("menu").open = false;
follow();
