"use strict";
// What the page can do beyond being read. Without this everything is there, in the order it was written.

function button(of, press) {
  const made = document.createElement("button");
  made.append(...of.childNodes);
  made.onclick = () => press(made);
  return made;
}

// A heading sorts its table, or the last part of it; what has no value comes last.
const order = new Intl.Collator(undefined, { numeric: true }).compare;
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = [...table.tBodies].at(-1);
  const value = (cell) => cell.dataset.value ?? cell.textContent.trim().replace("–", "");
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? order(a, b) : a - b);
  const sort = (head) => {
    const up = head.ariaSort !== "ascending", column = heads.indexOf(head);
    heads.forEach((other) => (other.ariaSort = other === head ? (up ? "ascending" : "descending") : null));
    const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a && b ? (up ? compare(a, b) : compare(b, a)) : !a - !b));
    body.append(...rows.map(([, row]) => row));
  };
  heads.filter((head) => head.textContent.trim()).forEach((head) => head.append(button(head, () => sort(head))));
}

// A key of a legend hides and shows its series in the plots of its section.
for (const key of document.querySelectorAll("[data-key]")) {
  const made = button(key, () => {
    made.ariaPressed = made.ariaPressed !== "true";
    const marks = made.closest("section").querySelectorAll(`.mark[data-series="${key.dataset.key}"]`);
    marks.forEach((mark) => mark.classList.toggle("off", made.ariaPressed !== "true"));
  });
  [made.className, made.ariaPressed] = [key.className, "true"];
  key.replaceWith(made);
}

// What is typed leaves the columns whose names have it.
for (const input of document.querySelectorAll("input[type=search]")) {
  const named = input.closest("section").querySelectorAll("[data-name]");
  const has = (name) => name.toLowerCase().includes(input.value.trim().toLowerCase());
  input.hidden = false;
  input.oninput = () => named.forEach((one) => (one.hidden = !has(one.dataset.name)));
}

// The mark nearest to the pointer says what it is; on the keyboard the arrows go from one to the next.
const tip = document.body.appendChild(document.createElement("div"));
[tip.className, tip.role, tip.hidden] = ["tip", "status", true];
let on = null;
function show(mark) {
  on?.classList.remove("on");
  on = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("on");
  tip.textContent = mark.dataset.told;
  const { left, width, top, bottom } = mark.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(left + width / 2, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${top > tip.offsetHeight + 8 ? top - tip.offsetHeight - 8 : bottom + 8}px`;
}
for (const svg of document.querySelectorAll("svg:has(.mark)")) {
  for (const title of svg.querySelectorAll(".mark > title")) {
    title.parentNode.dataset.told = title.textContent;
    title.remove(); // or the browser would show it, too
  }
  const marks = () => [...svg.querySelectorAll(".mark:not(.off)")];
  const distance = ({ clientX: x, clientY: y }, { left, right, top, bottom }) =>
    Math.hypot(Math.max(left - x, 0, x - right), Math.max(top - y, 0, y - bottom));
  svg.tabIndex = 0;
  svg.onpointermove = (event) => {
    const far = marks().map((mark) => [distance(event, mark.getBoundingClientRect()), mark]);
    show(far.reduce((best, next) => (next[0] < best[0] ? next : best), [30, null])[1]);
  };
  svg.onpointerleave = svg.onblur = () => show(null);
  svg.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], there = marks();
    if (!step || !there.length) return;
    event.preventDefault();
    show(there[(there.indexOf(on) + step + (on || step > 0 ? 0 : 1) + there.length) % there.length]);
  };
}
